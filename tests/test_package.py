"""The wheel and the source distribution hold all of the package, and nothing else."""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import tfdeit

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_what_is_published(tmp_path):
    pytest.importorskip("build", reason="needs the extra `dev`")
    subprocess.run([sys.executable, "-m", "build", "--outdir", tmp_path, ROOT], check=True, capture_output=True)
    (wheel,), (sdist,) = tmp_path.glob("*.whl"), tmp_path.glob("*.tar.gz")
    assert wheel.name == f"tfdeit-{tfdeit.__version__}-py3-none-any.whl"
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "tfdeit").rglob("*.py")}
    data = {"tfdeit/imagenet.tsv", "tfdeit/py.typed", "tfdeit/presentation/tfdeit.mplstyle", "tfdeit/server/page.html"}
    weights = {path.relative_to(ROOT).as_posix() for path in (ROOT / "weights").glob("*.py")} | {"weights/README.md"}
    weights |= {path.relative_to(ROOT).as_posix() for path in (ROOT / "weights").glob("*/*.json")}
    weights |= {path.relative_to(ROOT).as_posix() for path in (ROOT / "weights").glob("*/*.safetensors")}
    with zipfile.ZipFile(wheel) as archive:
        files = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert files == modules | data | {f"tfdeit/{name}" for name in weights}
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames() if archive.getmember(name).isfile()}
    about = {"CHANGELOG.md", "LICENSE", "MANIFEST.in", "PKG-INFO", "README.md", "pyproject.toml", "setup.cfg"}
    assert {name for name in names if ".egg-info/" not in name} == modules | data | weights | about
