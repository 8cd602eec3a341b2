"""The web page in headless Chromium: what a person does, and what they then see."""

import base64
import io
import shutil

import numpy as np
import pytest
import running_server
import toy_savedmodel
from PIL import Image

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright, of tfdeit[test]")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM, reason="needs chromium or google-chrome (apt-get install chromium)"),
]

GIVE = """([kind, name, content]) => {
  const transfer = new DataTransfer();
  const bytes = Uint8Array.from(atob(content), (c) => c.charCodeAt(0));
  transfer.items.add(new File([bytes], name, { type: "image/png" }));
  const event = kind === "drop" ? new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true })
    : new ClipboardEvent("paste", { clipboardData: transfer, bubbles: true, cancelable: true });
  document.querySelector("#stage").dispatchEvent(event);
}"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    directory = tmp_path_factory.mktemp("page")
    toy_savedmodel.save(directory / "1")
    with running_server.running_server(directory, name="<toy> & co") as server:
        yield server


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(params=["light", "dark"])
def page(request, browser, server):
    """The page, which must not contact any other server or log an error in the console."""
    page = browser.new_page(viewport={"width": 1000, "height": 800}, color_scheme=request.param)
    asked, troubles = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("console", lambda message: troubles.append(message.text) if message.type == "error" else None)
    page.goto(server.url)
    yield page
    page.close()
    assert all(url.startswith((server.url, "blob:", "data:")) for url in asked)
    assert not troubles


@pytest.fixture(scope="module")
def photo():
    """A grey photo, 240 wide and 120 high."""
    file = io.BytesIO()
    Image.new("RGB", (240, 120), (120, 120, 120)).save(file, "png")
    return file.getvalue()


def give(page, kind, content):
    page.evaluate(GIVE, [kind, "photo.png", base64.b64encode(content).decode()])
    page.wait_for_selector("#labels li, #message:not([hidden])", timeout=60_000)
    page.wait_for_selector("body:not(.busy)")


def screenshot(element):
    return np.asarray(Image.open(io.BytesIO(element.screenshot())).convert("RGB")).astype(int)


def labels(page):
    return page.locator("#labels li .name").all_inner_texts(), page.locator("#labels li .value").all_inner_texts()


def test_names_the_model(page):
    assert page.inner_text("h1") == "<toy> & co"
    page.wait_for_function("document.querySelector('#versions').textContent.includes('version 1')")
    assert "%3Ctoy%3E%20%26%20co:predict" in page.text_content("#curl")


@pytest.mark.parametrize("kind", ["drop", "paste"])
def test_labels_and_map(page, photo, kind):
    give(page, kind, photo)
    assert labels(page) == (["long", "short"], ["75.0 %", "25.0 %"])
    page.wait_for_timeout(600)  # the bars grow
    lengths = []
    for bar in page.locator(".bar").all():
        row = screenshot(bar)[4]
        lengths.append((np.abs(row - row[6]).sum(-1) < 30).mean())
    assert lengths == pytest.approx([0.75, 0.25], abs=0.03)

    view = page.locator("#view")
    with_map = screenshot(view)
    page.locator("#strength").fill("0")
    without = screenshot(view)
    height, width = without.shape[:2]
    assert width / height == pytest.approx(2, abs=0.02)
    inner = without[4:-4, 4:-4]
    assert np.abs(inner - 120).max() <= 2  # the photo as it is
    changed = np.abs(with_map - without).sum(-1) > 20
    # The map covers what `region` says: the middle half, from left to right.
    assert changed[4:-4, int(0.27 * width) : int(0.73 * width)].mean() > 0.9
    assert not changed[:, : int(0.23 * width)].any()
    assert not changed[:, int(0.77 * width) :].any()
    # Its largest value is at the bottom right, its least at the top left.
    bright = with_map.sum(-1)
    assert bright[-8, int(0.72 * width)] > bright[8, int(0.28 * width)] + 100


def test_with_the_keyboard(page, photo, tmp_path):
    (tmp_path / "photo.png").write_bytes(photo)
    page.on("filechooser", lambda chooser: chooser.set_files(tmp_path / "photo.png"))
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "choose"
    for _ in range(40):  # Chromium hands file choosers over some time after it is asked to
        page.keyboard.press("Enter")
        page.wait_for_timeout(250)
        if page.locator("#labels li").count():
            break
    assert labels(page)[0] == ["long", "short"]
    page.wait_for_selector("#strength-label:not([hidden])")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "strength"


def test_a_photo_that_the_model_cannot_use(page, photo):
    give(page, "drop", photo)
    give(page, "drop", b"")
    page.wait_for_selector("#message:not([hidden])")
    assert page.inner_text("#message") == "The model cannot use this image: the image is empty"
    assert labels(page) == ([], [])
    give(page, "drop", photo)
    page.wait_for_selector("#message", state="hidden")
    assert labels(page)[0] == ["long", "short"]


@pytest.mark.parametrize("width", [320, 390, 700])
def test_fits_a_phone(page, photo, width):
    page.set_viewport_size({"width": width, "height": 700})
    give(page, "drop", photo)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    box = page.locator("#view").bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= width


def test_a_server_that_is_gone(browser, tmp_path, photo):
    toy_savedmodel.save(tmp_path / "1")
    page = browser.new_page()
    with running_server.running_server(tmp_path) as server:
        page.goto(server.url)
        page.wait_for_function("document.querySelector('#versions').textContent.includes('version 1')")
    give(page, "drop", photo)
    assert "does not answer" in page.inner_text("#message")
    page.close()
