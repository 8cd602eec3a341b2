"""Runs examples/tour.ipynb and keeps what it shows: python docs/tour.py. Needs tfdeit[test]."""

from pathlib import Path

import nbformat
from nbclient import NotebookClient

TOUR = Path(__file__).parent.parent / "examples" / "tour.ipynb"


def main():
    """Writes the notebook with its outputs."""
    notebook = nbformat.read(TOUR, as_version=4)
    NotebookClient(notebook, timeout=900, resources={"metadata": {"path": TOUR.parent}}, record_timing=False).execute()
    for cell in notebook.cells:
        if cell.cell_type == "code":  # without the log on stderr; of each picture the smaller form
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
            for output in cell.outputs:
                if "image/jpeg" in output.get("data", {}):
                    output.data.pop("image/png", None)
    nbformat.write(notebook, TOUR)


if __name__ == "__main__":
    main()
