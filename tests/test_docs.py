"""The documentation: its Python runs as written, its commands parse, its error messages exist, and its site builds."""

import ast
import functools
import html.parser
import http.server
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
import urllib.parse
import zipfile

import keras
import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

from tfdeit import get_model, inference_model, zoo
from tfdeit.cli import main as cli
from tfdeit.protocols import PROTOCOLS
from tfdeit.training.recipes import RECIPES

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
TEXTS = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in PAGES}

# A block of Python, what is said of it in a comment before it, and what it prints in a block of text after it.
PYTHON = re.compile(r"(?:<!-- (.+?) -->\n)?```python\n(.*?)```(?:\n+```text\n(.*?)```)?", re.DOTALL)


def blocks(page):
    """The (code, output) of a page; those that cannot run say why in the page."""
    found = [(code, output) for note, code, output in PYTHON.findall(TEXTS[page]) if not note.startswith("not run: ")]
    return [(code, output) for code, output in found]


# ------------------------------------------------------------------------------------------------------- Python


@pytest.fixture(scope="module")
def downloads(tmp_path_factory):
    """What `hub.fetch` finds: random weights of the architecture of each row of the zoo, two blocks deep."""
    folder = tmp_path_factory.mktemp("hub")

    def fetch(name):
        row = zoo.find(name)
        directory = folder / row.name
        if not directory.exists():
            model = get_model(row.name, pretrained=False, num_hidden_layers=2)
            model.save_pretrained(directory)
            model.image_processor.save_pretrained(directory)
        return directory

    return fetch


@pytest.fixture
def workplace(tmp_path, monkeypatch, downloads, photos_dir):
    """The current directory of the examples: photos of cats and dogs in two folders, of ten classes in a zip."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    cat = Image.open(photos_dir / "cat.png").convert("RGB")
    cat.save(tmp_path / "photo.jpg")
    labels = get_model("deit_micro_cifar10").config.id2label.values()
    with zipfile.ZipFile(tmp_path / "cifar10-images.zip", "w") as archive:
        for split, count in (("train", 4), ("val", 2), ("test", 2)):
            for name in ("cat", "dog"):
                (tmp_path / "photos" / split / name).mkdir(parents=True)
                for number in range(count):
                    cat.rotate(9 * number).save(tmp_path / "photos" / split / name / f"{number}.jpg")
            for name in labels:
                archive.write(tmp_path / "photo.jpg", f"{split}/{name}/0.jpg")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tfdeit.checkpoint.hub.fetch", downloads)
    return tmp_path


@pytest.fixture
def server(request, workplace):
    """Address in a page -> that of a server that runs; empty for pages that ask none."""
    if "127.0.0.1:8501" not in TEXTS[request.getfixturevalue("page")]:
        yield {}
        return
    running_server = pytest.importorskip("running_server", reason="needs tfdeit[serving]")
    import toy_savedmodel

    toy_savedmodel.save("micro/1")
    with running_server.running_server("micro", name="micro") as running:
        ports = {"8501": running.url.rpartition(":")[2], "8500": str(running.server.grpc_port)}
        yield {f"127.0.0.1:{port}": f"127.0.0.1:{own}" for port, own in ports.items()}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*newly initialised:UserWarning")
@pytest.mark.parametrize("page", [page for page in TEXTS if blocks(page)])
def test_python_runs(page, workplace, server, capsys):
    """The blocks of a page share their names; one that chooses a backend is a program of its own."""
    names = {"keras": keras}
    for code, output in blocks(page):
        for address, own in server.items():
            code = code.replace(address, own)
        capsys.readouterr()
        if "KERAS_BACKEND" in code:
            needed = re.search(r'"KERAS_BACKEND"\] = "(\w+)"', code)[1]
            pytest.importorskip(needed, reason="needs the backends that the page is about")
            environment = os.environ | {"PYTHONPATH": str(ROOT)}
            done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
            assert done.returncode == 0, done.stderr
            printed = done.stdout
        else:
            exec(compile(code, page, "exec"), names)
            printed = capsys.readouterr().out
        if output:
            assert printed.strip() == output.strip()


def test_what_is_not_run_says_why():
    notes = [note for text in TEXTS.values() for note, _, _ in PYTHON.findall(text) if note]
    assert notes
    assert all(re.fullmatch(r"not run: .{20,}", note) for note in notes)


# ------------------------------------------------------------------------------------------ figures and pictures


@pytest.mark.slow
def test_answers_by_protocol(photos_dir):
    model = get_model("deit_micro_cifar10")
    rows = re.findall(
        r"^\| (`.+?)(?:, as .+)? \| (\w+ [\d.]+%) \| (\w+ [\d.]+%) \|", TEXTS["docs/preprocessing.md"], re.M
    )
    assert sorted(name for names, *_ in rows for name in re.findall(r"`(\w+)`", names)) == list(PROTOCOLS)
    for names, *answers in rows:
        for name in re.findall(r"`(\w+)`", names):
            processor = model.image_processor.with_protocol(name, 32)
            found = [inference_model(model, photos_dir / photo, processor) for photo in ("cat.png", "coffee.jpg")]
            assert [f"{answer['pred_class']} {answer['pred_score']:.1%}" for answer in found] == answers


@pytest.mark.slow
def test_pictures_are_up_to_date(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, ROOT / "docs" / "pictures.py", tmp_path], check=True, env=environment)
    kept = sorted((ROOT / "docs" / "pictures").glob("*.png"))
    assert [path.name for path in kept] == sorted(path.name for path in tmp_path.iterdir())
    for path in kept:
        old, new = (
            np.asarray(Image.open(folder / path.name).convert("RGB"), "float32") for folder in (path.parent, tmp_path)
        )
        assert old.shape == new.shape
        assert np.abs(old - new).mean() < 1, "stale: run `make docs`"  # the last bits of attention differ by machine


# ----------------------------------------------------------------------------------------------------- commands


def test_commands_parse(capsys):
    parser, count = cli.build_parser(), 0
    for page, text in TEXTS.items():
        for block in re.findall(r"```(?:sh|console)\n(.*?)```", text, re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                command = re.search(r"(?:^|[\s/])tfdeit (.*)", line.partition("  #")[0])
                if not command:
                    continue
                words = re.split(r"\s[|>]", command[1])[0]
                try:
                    args = parser.parse_args(shlex.split(words))
                except SystemExit:
                    pytest.fail(f"{page}: {line}\n{capsys.readouterr().err}")
                if getattr(args, "recipe", None) in RECIPES:
                    RECIPES[args.recipe].override(*args.overrides)
                count += 1
    assert count > 30


def test_options_in_the_text_exist():
    """`tfdeit COMMAND --option` between backticks, with or without the rest of its arguments."""
    commands = cli.build_parser()._subparsers._group_actions[0].choices
    for page, text in TEXTS.items():
        for words in re.findall(r"`tfdeit ([^`\n]+)`", text):
            name, *rest = words.split()
            if name in ("COMMAND", "--help"):
                continue
            assert name in commands, f"{page}: tfdeit {words}"
            unknown = {word for word in rest if word.startswith("--")} - set(commands[name]._option_string_actions)
            assert not unknown, f"{page}: tfdeit {words}"


def test_files_of_the_project_exist():
    for page, text in TEXTS.items():
        for path in re.findall(r"\b((?:examples|benchmarks|tests|tfdeit)/(?:\w+/)*\w+\.py)\b", text):
            assert (ROOT / path).is_file(), f"{page}: {path}"
        for path in re.findall(r"\]\(([\w./-]+)[#)]", text):
            assert (ROOT / page).parent.joinpath(path).is_file(), f"{page}: {path}"


# ----------------------------------------------------------------------------------------------------- messages


@functools.cache
def messages():
    """Every string of the package, with a NUL for each value that is filled in."""
    found = []
    for path in (ROOT / "tfdeit").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                found.append("".join(part.value if isinstance(part, ast.Constant) else "\0" for part in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return found


def test_messages_of_the_troubleshooting_page_exist():
    """Each line is a message, or the end of one, word for word; `...` stands for what is filled in."""
    blocks = re.findall(r"```text\n(.*?)\n```", TEXTS["docs/troubleshooting.md"], re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    assert len(lines) >= 20
    for line in lines:
        parts = [re.escape(part.strip(" .")) for part in line.split("...") if part.strip(" .")]
        pattern = re.compile(".*".join(parts), re.DOTALL)
        assert any(pattern.search(message) for message in messages()), f"no longer said: {line}"


# --------------------------------------------------------------------------------------------------------- site


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    for library in ("material", "mkdocstrings_handlers", "latex2mathml"):
        if not importlib.util.find_spec(library):
            pytest.skip("needs tfdeit[docs]")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", folder]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


class Loaded(html.parser.HTMLParser):
    """Collects the addresses that a browser loads with a page by itself."""

    def __init__(self):
        super().__init__()
        self.addresses, self.targets = [], []

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        if tag == "link" and attributes.get("rel") in ("canonical", "next", "prev"):
            return
        loads = tag in ("script", "img", "iframe", "source", "video", "audio", "object", "embed", "link")
        addresses = [attributes[key] for key in ("src", "srcset", "data", "href") if attributes.get(key)]
        (self.addresses if loads else self.targets).extend(addresses)


@pytest.mark.slow
def test_pages_load_nothing_from_elsewhere(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 30
    for page in pages:
        parser = Loaded()
        text = page.read_text(encoding="utf-8")
        parser.feed(text)
        assert parser.addresses
        elsewhere = [address for address in parser.addresses if re.match(r"(https?:)?//", address)]
        assert not elsewhere, page
        assert "mermaid" not in text  # for which the theme's script would load another
    for sheet in site.rglob("*.css"):
        assert not re.findall(r"(?:url\(|@import)\s*['\"]?(?:https?:)?//[^)]*", sheet.read_text(encoding="utf-8"))


@pytest.mark.slow
def test_public_names_are_in_the_reference(site):
    import tfdeit

    identifiers = set()
    for page in (site / "reference").glob("*.html"):
        identifiers |= {name.rpartition(".")[2] for name in re.findall(r'id="(tfdeit[\w.]+)"', page.read_text("utf-8"))}
    aliases = {"__version__", "AutoFeatureExtractor", "DeiTFeatureExtractor", "ViTFeatureExtractor"}
    assert set(tfdeit.__all__) - aliases <= identifiers
    commands = (site / "reference" / "commands.html").read_text("utf-8")
    assert all(f'id="{name}"' in commands for name in cli.build_parser()._subparsers._group_actions[0].choices)


@pytest.mark.slow
def test_a_browser_stays_on_the_site_and_searches(site):
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright, of tfdeit[test]")
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if not chromium:
        pytest.skip("needs chromium or google-chrome (apt-get install chromium)")
    handler = functools.partial(Quiet, directory=site)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as web, sync_api.sync_playwright() as playwright:
        threading.Thread(target=web.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        asked, troubles = [], []
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: troubles.append(str(error)))
        home = f"http://127.0.0.1:{web.server_port}/"
        for name in ("distillation.html", "reference/models.html", "index.html"):
            page.goto(home + name)
        # The page listens for keys: a value that is set at once is seen only if that is done within a millisecond.
        page.get_by_role("textbox", name="Search").press_sequentially("position table")
        page.locator(".md-search-result__link").first.wait_for()
        page.wait_for_load_state("networkidle")
        browser.close()
        web.shutdown()
    assert not troubles
    assert {urllib.parse.urlsplit(url).hostname for url in asked if not url.startswith(("blob:", "data:"))} == {
        "127.0.0.1"
    }


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass
