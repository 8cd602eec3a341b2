"""The import order of ARCHITECTURE.md: a module imports only from rows above its own."""

import ast
import re
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "tfdeit"
ROWS = [
    {"hints", "terminal"},
    {"charts", "config", "images", "kernels", "labels", "protocols", "resample"},
    {"attention_maps", "layers", "memory", "outputs", "zoo"},
    {"checkpoint"},
    {"backbone", "processor_config"},
    {"base_processor", "models"},
    {"processing"},
    {"data", "inference", "parity"},
    {"evaluation", "serving"},
    {"arguments", "exports", "training"},
    {"benchmark", "commands", "evaluation_state", "server"},
    {"attention_command", "benchmark_command", "evaluate_command", "export_commands", "serve_command", "train_command"},
    {"cli"},
]
ROW_OF = {module: number for number, row in enumerate(ROWS) for module in row}
TENSORFLOW_AT_LAST = 7  # rows before this one run on any Keras backend


def imports(path: Path):
    """Yields (module, whether at import time) for all imports in a file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    later = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    later += [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    inner = {id(node) for part in later for node in ast.walk(part)}
    for node in ast.walk(tree):
        names = [node.module] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        for name in names:
            yield name, id(node) not in inner


def part(module: str) -> str:
    """tfdeit.checkpoint.files -> checkpoint"""
    return module.split(".")[1]


def test_the_document_has_the_same_rows():
    """The table in ARCHITECTURE.md, of which rows without a number go on with the last, names all that is there."""
    text = (PACKAGE.parent / "ARCHITECTURE.md").read_text(encoding="utf-8")
    table = text.partition("| row | module | what |\n|---|---|---|\n")[2].partition("\n\n")[0]
    rows, inside, row, folder = [], {}, -1, None
    for line in table.splitlines():
        number, modules, what = (cell.strip() for cell in line.strip("|").split("|"))
        if number:
            row = int(number)
            assert row == len(rows)
            rows.append(set())
        for name in re.findall(r"`([\w/.]+)`", modules):
            rows[row].add(name.removesuffix(".py").removesuffix("/"))
            folder = name.removesuffix("/") if name.endswith("/") else None
        if folder:
            inside.setdefault(folder, set()).update(re.findall(r"`(\w+)\.py`", what))
    assert rows == ROWS
    there = {path.stem for path in PACKAGE.glob("*.py")} | {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert set().union(*rows) == there - {"__init__"}
    for folder, files in inside.items():
        assert files | {"__init__"} == {path.stem for path in (PACKAGE / folder).glob("*.py")} | {"__init__"}, folder


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_follow_the_rows(path):
    own = path.relative_to(PACKAGE).with_suffix("").parts[0]
    if own == "__init__":
        assert all(not name.startswith("tfdeit") for name, _ in imports(path))
        return
    for name, at_import in imports(path):
        if name.startswith("tfdeit.") and part(name) != own:
            assert ROW_OF[part(name)] < ROW_OF[own], f"{own} imports {name}"
        if name.split(".")[0] == "tensorflow":
            assert ROW_OF[own] >= TENSORFLOW_AT_LAST or not at_import, f"{own} imports tensorflow"


def test_the_command_line_imports_nothing_heavy():
    for module in ROWS[0] | ROWS[-1] | ROWS[-2] | {"arguments", "commands"}:
        at_start = {name.split(".")[0] for name, at_import in imports(PACKAGE / f"{module}.py") if at_import}
        assert at_start <= sys.stdlib_module_names | {"tfdeit"}
