"""The shape of the package: imports go down the rows of ARCHITECTURE.md, without cycles, and no module is too long."""

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import keras
import pytest

PACKAGE = Path(__file__).parent.parent / "tfdeit"
# A package imports only from rows above its own. Modules that are no package stand here too.
ROWS = [
    {"presentation", "resample"},
    {"config", "labels", "protocols"},
    {"zoo"},
    {"checkpoint"},
    {"network"},
    {"preprocessing"},
    {"augmentation", "exports", "parity", "server"},
    {"data", "inference"},
    {"evaluation"},
    {"training"},
    {"benchmark"},
    {"cli"},
    {"__main__"},
]
ROW_OF = {module: number for number, row in enumerate(ROWS) for module in row}
ANY_BACKEND = set().union(*ROWS[:7]) - {"augmentation", "exports", "server"}  # these import tensorflow when they must
LONGEST = 350  # lines of a module
# Names that TensorFlow and Keras do not document -> the module that uses them, how to find out whether they are still
# there, and what to do when they are not.
UNDOCUMENTED = {
    "tensorflow.python.ops.control_flow_util": (
        "network/kernels.py",
        lambda: importlib.import_module("tensorflow.python.ops.control_flow_util").GraphOrParentsInXlaContext,
        "TensorFlow has no public way to ask whether XLA compiles what is traced: look for one in tf.config or tf.xla",
    ),
    "_get_variable_index": (
        "training/optimizer.py",
        lambda: keras.optimizers.Optimizer._get_variable_index,
        "keep a dict from variable.path to its number, made in build",
    ),
}
FILES = sorted(PACKAGE.rglob("*.py"))


def relative(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def imports(tree: ast.Module):
    """Yields (module, whether at import time) for all imports of a file."""
    later = [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    later += [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    inner = {id(node) for part in later for node in ast.walk(part)}
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            members = [f"{node.module}.{alias.name}" for alias in node.names]
            modules = [name for name in members if name in MODULES]
            names = modules if len(modules) == len(members) else [str(node.module), *modules]
        for name in names:
            yield name, id(node) not in inner


def name_of(path: Path) -> str:
    """tfdeit/checkpoint/files.py -> tfdeit.checkpoint.files"""
    return ".".join(("tfdeit", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")


MODULES = {name_of(path): path for path in FILES}
PARTS = {"__init__"} | {path.stem if path.parent == PACKAGE else path.relative_to(PACKAGE).parts[0] for path in FILES}


def part(module: str) -> str:
    """tfdeit.checkpoint.files -> checkpoint"""
    return module.split(".")[1]


def faults(name: str, source: str) -> list[str]:
    """What is wrong with the imports of a module."""
    own, found = part(name), []
    if own not in ROW_OF:
        return [f"{own} is in no row"]
    for imported, at_import in imports(ast.parse(source)):
        if imported.startswith("tfdeit.") and part(imported) != own:
            if part(imported) not in ROW_OF:
                found.append(f"{name} imports {imported}, which is in no row")
            elif ROW_OF[part(imported)] >= ROW_OF[own]:
                found.append(f"{name} imports {imported}, which is not above it")
        if imported.split(".")[0] == "tensorflow" and at_import and own in ANY_BACKEND:
            found.append(f"{name} imports tensorflow")
    return found


def cycle(sources: dict[str, str]) -> list[str]:
    """Modules that import each other in a circle, at import time or later; none if there is no circle."""
    edges = {
        name: {other for other, _ in imports(ast.parse(source)) if other in sources and other != name}
        for name, source in sources.items()
    }
    edges = {name: {other for other in others if not name.startswith(f"{other}.")} for name, others in edges.items()}
    while leaves := {name for name, others in edges.items() if not others & edges.keys()}:
        edges = {name: others for name, others in edges.items() if name not in leaves}
    return sorted(edges)


def test_the_document_has_the_same_rows():
    """The table in ARCHITECTURE.md, of which rows without a number go on with the last, names all that is there."""
    text = (PACKAGE.parent / "ARCHITECTURE.md").read_text(encoding="utf-8")
    table = text.partition("| row | package | what |\n|---|---|---|\n")[2].partition("\n\n")[0]
    rows, inside = [], {}
    for line in table.splitlines():
        number, names, what = (cell.strip() for cell in line.strip("|").split("|"))
        if number:
            assert int(number) == len(rows)
            rows.append(set())
        for name in re.findall(r"`([\w/.]+)`", names):
            rows[-1].add(name.removesuffix(".py").removesuffix("/"))
            if name.endswith("/"):
                inside[name] = set(re.findall(r"`(\w+)(?:\.py|/)?`", what))
    assert rows == ROWS[:-1]
    for folder, files in inside.items():
        there = {path.stem for path in (PACKAGE / folder).glob("*.py")} | {
            path.parent.name for path in (PACKAGE / folder).glob("*/__init__.py")
        }
        assert files == there - {"__init__"}, folder


def test_every_part_has_a_row():
    assert set(ROW_OF) == PARTS - {"__init__"}


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_imports_follow_the_rows(path):
    source = path.read_text(encoding="utf-8")
    if path == PACKAGE / "__init__.py":
        assert all(not name.startswith("tfdeit") for name, _ in imports(ast.parse(source)))
        return
    assert faults(name_of(path), source) == []


def test_no_cycles():
    assert cycle({name: path.read_text(encoding="utf-8") for name, path in MODULES.items() if name != "tfdeit"}) == []


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_no_module_is_too_long(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LONGEST


def test_what_these_tests_find():
    """Each fault once: upwards, sideways, unknown, TensorFlow where every backend runs, and a circle."""
    assert faults("tfdeit.zoo", "from tfdeit.network.models import x") == [
        "tfdeit.zoo imports tfdeit.network.models, which is not above it"
    ]
    assert faults("tfdeit.data.order", "def f():\n    from tfdeit import inference") == [
        "tfdeit.data.order imports tfdeit.inference, which is not above it"
    ]
    assert faults("tfdeit.zoo", "import tfdeit.utils") == ["tfdeit.zoo imports tfdeit.utils, which is in no row"]
    assert faults("tfdeit.utils", "") == ["utils is in no row"]
    assert faults("tfdeit.network.layers", "import tensorflow as tf") == ["tfdeit.network.layers imports tensorflow"]
    assert faults("tfdeit.network.layers", "def f():\n    import tensorflow as tf") == []
    one, two = "tfdeit.data.records", "tfdeit.data.sources"
    assert cycle({one: f"import {two}", two: f"def f():\n    import {one}"}) == [one, two]
    assert cycle({one: f"import {two}", two: "import os"}) == []


def test_the_command_line_imports_nothing_heavy():
    code = "import sys; from tfdeit.cli.main import build_parser; build_parser(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"numpy", "PIL", "tensorflow", "keras", "matplotlib", "h5py", "rich", "torch"}
    assert heavy & {name.split(".")[0] for name in done.stdout.split()} == set()


def test_undocumented_names_are_where_they_are_listed():
    """Modules of TensorFlow and Keras below their public ones, and attributes with an underscore that are not ours."""
    ours, used = {"_asdict", "_replace", "_fields", "_make", "_exit"}, {}
    trees = {relative(path): ast.parse(path.read_text(encoding="utf-8")) for path in FILES}
    nodes = [(file, node) for file, tree in trees.items() for node in ast.walk(tree)]
    for file, node in nodes:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            ours.add(node.name)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            ours.add(node.id)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            ours.add(node.attr)
        if isinstance(node, ast.Attribute) and re.match("_[^_]", node.attr):
            used.setdefault(node.attr, []).append(file)
    found = {name: files for name, files in used.items() if name not in ours}
    for file, tree in trees.items():
        for name, _ in imports(tree):
            if re.match(r"(keras\.src|tensorflow\.(python|core|compiler))\b", name):
                found.setdefault(name, []).append(file)
    assert found == {name: [file] for name, (file, _, _) in UNDOCUMENTED.items()}


@pytest.mark.parametrize("name", UNDOCUMENTED)
def test_undocumented_names_are_still_there(name):
    file, find, remedy = UNDOCUMENTED[name]
    try:
        find()
    except (AttributeError, ImportError) as error:
        pytest.fail(f"tfdeit/{file} uses {name}, which is gone ({error}): {remedy}")


def test_tests_mirror_the_packages():
    """A folder of tests for each package, and modules of the top row beside each other."""
    folders = {path.name for path in Path(__file__).parent.iterdir() if any(path.glob("test_*.py"))}
    packages = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert folders == packages
