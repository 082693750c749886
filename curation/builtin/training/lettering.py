"""Invented words in the fonts that matplotlib carries, drawn as masks."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Mask = NDArray[np.float32]

SYLLABLES = (
    "ba be bo da de di fo fu ga go ka ki ko la li lo ma me mi na ne no pa po ra re ri sa se si ta ti to va vi ya zo"
).split()
WORDS = (
    "photo image stock studio press picture gallery sample preview proof copy media art design foto bild archive "
    "the and of to in home sale new love best life day night when you they people world free big live "
    "news more how why what this that"
).split()
FACES = (
    "DejaVuSans DejaVuSans-Bold DejaVuSans-Oblique DejaVuSansMono DejaVuSansMono-Bold DejaVuSerif "
    "DejaVuSerif-Bold DejaVuSerif-Italic DejaVuSansDisplay DejaVuSerifDisplay STIXGeneral STIXGeneralBol "
    "STIXGeneralItalic cmr10 cmss10 cmb10 cmtt10"
).split()


def name(rng: np.random.Generator) -> str:
    """An invented brand or family name."""
    word = "".join(rng.choice(SYLLABLES) for _ in range(rng.integers(2, 5)))
    return word.upper() if rng.random() < 0.25 else word.capitalize() if rng.random() < 0.6 else word


def phrase(rng: np.random.Generator, least: int, most: int) -> str:
    """A line of words, some invented."""
    words = [name(rng) if rng.random() < 0.3 else str(rng.choice(WORDS)) for _ in range(rng.integers(least, most + 1))]
    return " ".join(words)


def owner(rng: np.random.Generator) -> str:
    """What a watermark says: a name, a copyright line, a site, an agency's number."""
    brand = name(rng)
    site = brand.lower() + "." + str(rng.choice(["com", "net", "org", "ru", "de", "co.uk", "cn", "id"]))
    forms = [
        brand,
        f"© {brand}",
        f"©{brand} {rng.integers(1998, 2026)}",
        f"(c) {brand} {name(rng)}",
        site,
        f"www.{site}",
        f"{brand}stock",
        f"{brand} {rng.choice(['photo', 'images', 'studio', 'photography', 'gallery', 'press'])}",
        f"photo by {brand} {name(rng)}",
        f"@{brand.lower()}",
        str(rng.choice(["SAMPLE", "PREVIEW", "PROOF", "COPYRIGHT", "DRAFT", "DO NOT COPY", "watermark"])),
        f"{site} · {rng.integers(10**6, 10**9)}",
    ]
    return str(rng.choice(forms))


@lru_cache(maxsize=256)
def _font(face: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{face}.ttf", size)


def face(rng: np.random.Generator) -> str:
    """One of the fonts."""
    return str(rng.choice(FACES))


def lettered(text: str, face: str, height: int, stroke: int = 0, spacing: int = 0) -> Mask:
    """`text` as a mask float32 [h,w] in 0…1, letters about `height` pixels tall; `stroke` > 0 fattens them."""
    font = _font(face, max(6, height))
    if spacing:
        text = (" " * spacing).join(text)
    x0, y0, x1, y1 = (round(v) for v in font.getbbox(text, stroke_width=stroke))
    canvas = Image.new("L", (max(1, x1 - x0), max(1, y1 - y0)))
    ImageDraw.Draw(canvas).text((-x0, -y0), text, fill=255, font=font, stroke_width=stroke)
    return np.asarray(np.asarray(canvas, np.float32) / 255, np.float32)
