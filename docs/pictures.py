"""Draws the pictures of these pages from the photos in examples/photos: python docs/pictures.py [FOLDER]."""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from tfdeit import get_model
from tfdeit.cli.attention import draw_page, look
from tfdeit.preprocessing.processors import protocol_processor
from tfdeit.presentation.grids import image_grid

ROOT = Path(__file__).parent.parent
PHOTOS = ROOT / "examples" / "photos"
PROTOCOLS = ("fb", "timm", "hf", "mmpretrain", "deit3", "vit")


def draw_protocols(photo: Image.Image, size: int = 160) -> Image.Image:
    """What each protocol keeps of a photo, and what the model then sees, for models of 224 and 384 pixels."""
    sections = []
    for pixels in (224, 384):
        kept, seen = [], []
        for protocol in PROTOCOLS:
            processor = protocol_processor(protocol, pixels)
            kept.append((protocol, draw_kept(photo, processor, size)))
            values = Image.fromarray(processor.pixels(photo)).resize((size, size), Image.Resampling.LANCZOS)
            seen.append((f"{protocol}, seen", np.asarray(values)))
        sections.append(
            (f"A model of {pixels} pixels: what is kept of the photo, and what the model sees", kept + seen)
        )
    return image_grid(sections, size, columns=len(PROTOCOLS))


def draw_kept(photo: Image.Image, processor, size: int) -> np.ndarray:
    """The photo on a square, dark where it is cut off."""
    (height, width), (top, left, rows, columns) = processor.geometry(photo.height, photo.width)
    dark = np.asarray(photo) // 4
    y, x = np.linspace(0, height, photo.height), np.linspace(0, width, photo.width)
    inside = ((y >= top) & (y <= top + rows))[:, None] & ((x >= left) & (x <= left + columns))
    image = Image.fromarray(np.where(inside[..., None], np.asarray(photo), dark))
    page = Image.new("RGB", (size, size), "white")
    image.thumbnail((size, size), Image.Resampling.LANCZOS)
    page.paste(image, (0, (size - image.height) // 2))
    return np.asarray(page)


def draw_attention(path: Path, size: int = 128) -> Image.Image:
    """What `tfdeit attention PATH --size 128` writes."""
    model = get_model("deit_micro_cifar10")
    pixels = model.image_processor(path, return_tensors="np").pixel_values[0]
    ((maps, *answer),) = look(model, [pixels], block=-1, discard=0.0)
    return draw_page(str(path), model.image_processor, maps, answer, size)


def main():
    """Writes all pictures."""
    folder = Path(sys.argv[1]) if sys.argv[1:] else ROOT / "docs" / "pictures"
    folder.mkdir(exist_ok=True)
    pictures = {
        "protocols.png": draw_protocols(Image.open(PHOTOS / "coffee.jpg")),
        "attention.png": draw_attention(PHOTOS / "cat.png"),
    }
    for name, picture in pictures.items():
        picture.quantize(256, method=Image.Quantize.FASTOCTREE).save(folder / name, optimize=True)


if __name__ == "__main__":
    main()
