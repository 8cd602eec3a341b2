"""The import order of ARCHITECTURE.md: a module imports only from rows above its own."""

import ast
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "tfdeit"
ROWS = [
    {"charts", "config", "images", "kernels", "labels", "protocols", "resample"},
    {"attention_maps", "layers", "memory", "outputs", "zoo"},
    {"checkpoint"},
    {"backbone", "processor_config"},
    {"models", "processing"},
    {"data", "inference", "parity"},
    {"evaluation", "serving"},
    {"arguments", "exports", "training"},
    {"benchmark", "commands", "server"},
    {"attention_command", "benchmark_command", "evaluate_command", "export_commands", "serve_command", "train_command"},
    {"cli"},
]
ROW_OF = {module: number for number, row in enumerate(ROWS) for module in row}
TENSORFLOW_AT_LAST = 5  # rows before this one run on any Keras backend


def imports(path: Path):
    """Yields (module, whether at import time) for all imports in a file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))
    inner = {id(node) for function in functions for node in ast.walk(function)}
    for node in ast.walk(tree):
        names = [node.module] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        for name in names:
            yield name, id(node) not in inner


def part(module: str) -> str:
    """tfdeit.checkpoint.files -> checkpoint"""
    return module.split(".")[1]


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
    for module in (
        "cli",
        "commands",
        "benchmark_command",
        "evaluate_command",
        "export_commands",
        "serve_command",
        "train_command",
    ):
        at_start = {name.split(".")[0] for name, at_import in imports(PACKAGE / f"{module}.py") if at_import}
        assert at_start <= sys.stdlib_module_names | {"tfdeit"}
