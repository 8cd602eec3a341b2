"""The notebook runs as it is, and shows what it was committed with."""

import pytest
from conftest import ROOT

nbclient = pytest.importorskip("nbclient", reason="runs notebooks")
nbformat = pytest.importorskip("nbformat", reason="reads notebooks")


def pictures(notebook):
    """Returns which cells show a picture."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return [any("image/jpeg" in output.get("data", {}) for output in cell.outputs) for cell in cells]


@pytest.mark.slow
def test_the_tour():
    notebook = nbformat.read(ROOT / "examples" / "tour.ipynb", as_version=4)
    committed = pictures(notebook)
    assert sum(committed) == 5
    nbclient.NotebookClient(notebook, timeout=900, resources={"metadata": {"path": ROOT / "examples"}}).execute()
    assert pictures(notebook) == committed
    printed = [output.text for cell in notebook.cells for output in cell.get("outputs", ()) if "text" in output]
    assert any("b'cat'" in text and "b'ok'" in text for text in printed)
