"""Pictures of what a masked autoencoder has learnt (paper, figures 3 and 4)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from shards.crop import BrokenImage, Crop, Encoded, cut
from shards.draws import key_of
from shards.index import open_shards
from training.config import UsageError
from training.models.convert import load_mae
from training.models.mae import MAE
from training.models.vit import IMAGENET_MEAN, IMAGENET_STD, normalise, patchify, take, unpatchify

RATIOS = (0.75, 0.85, 0.90, 0.95)
_IMAGE_FILES = (".jpg", ".jpeg", ".png", ".webp")
_GREY, _GAP, _HEAD = 127, 4, 22


@dataclass(frozen=True)
class Guess:
    """One image with part of it hidden, all (rows, columns, 3) uint8. error: mean squared error of the
    normalised hidden patches.
    """

    original: np.ndarray
    masked: np.ndarray
    reconstructed: np.ndarray
    error: float


@dataclass(frozen=True)
class Figures:
    """Files that were drawn, and the mean error over the photos for every share hidden.

    norm_pix: whether targets were normalised by patch; an error of 1 is then that of predicting each patch's mean.
    """

    paths: tuple[Path, ...]
    errors: dict[float, float]
    norm_pix: bool


def reconstruct(
    weights: str | Path,
    images: Sequence[str],
    folder: Path,
    limit: int = 8,
    side: int = 0,
    ratios: Sequence[float] = RATIOS,
) -> Figures:
    """Draw `triplets.png` (original, masked, reconstructed) and `ratios.png` (a row per image, a column per share).

    images: photo files, folders of them, or shards. limit: of photos. side: pixels of a picture in the figures (0: as
    large as the model sees it).
    """
    model = load_mae(weights).eval()
    rows, columns = model.size
    photos = [_square(name, data, (rows, columns)) for name, data in _photos(images, limit)]
    guesses = [[guess(model, photo, ratio, seed) for ratio in ratios] for seed, photo in enumerate(photos)]
    folder.mkdir(parents=True, exist_ok=True)

    triplets = [[row[0].original, row[0].masked, row[0].reconstructed] for row in guesses]
    heads = ["original", f"{ratios[0]:.0%} hidden", "reconstructed"]
    first = _sheet(triplets, heads, side or columns, across=2 if len(photos) > 3 else 1)

    strips = [[row[0].original, *(g.reconstructed for g in row)] for row in guesses]
    second = _sheet(strips, ["original", *(f"{ratio:.0%} hidden" for ratio in ratios)], side or columns)

    paths = (folder / "triplets.png", folder / "ratios.png")
    for sheet, path in zip((first, second), paths, strict=True):
        sheet.save(path, optimize=True)
    errors = {ratio: float(np.mean([row[i].error for row in guesses])) for i, ratio in enumerate(ratios)}
    return Figures(paths, errors, model.norm_pix)


@torch.no_grad()
def guess(model: MAE, photo: np.ndarray, mask_ratio: float, seed: int) -> Guess:
    """Hide a random part of a photo (rows, columns, 3) uint8 and let the model fill it in.

    Where the model predicts patches normalised by their own statistics, the true mean and deviation of every
    hidden patch are given back, as in the paper's figures: the picture shows predicted structure with the
    right brightness and contrast.
    """
    patch = model.encoder.patch
    grid = (photo.shape[0] // patch, photo.shape[1] // patch)
    images = torch.from_numpy(photo)[None]
    key = torch.tensor([key_of(seed)], dtype=torch.uint64).view(torch.int64)
    result = model.reconstruct(images, key, mask_ratio)

    predicted = result.predicted.float()
    if model.norm_pix:
        truth = normalise(take(patchify(images, patch), result.masked))
        predicted = predicted * (truth.var(-1, keepdim=True) + 1e-6).sqrt() + truth.mean(-1, keepdim=True)
    repeats = predicted.shape[-1] // 3
    pixels = predicted * torch.tensor(IMAGENET_STD).repeat(repeats) + torch.tensor(IMAGENET_MEAN).repeat(repeats)
    pixels = pixels.round().clamp(0, 255).to(torch.uint8)

    patches = patchify(images, patch)
    where = result.masked.unsqueeze(-1).expand_as(pixels)
    masked = patches.scatter(1, where, torch.full_like(pixels, _GREY))
    filled = patches.scatter(1, where, pixels)
    error = float(((result.predicted.float() - result.target) ** 2).mean())
    pictures = [unpatchify(p, grid, patch)[0].numpy() for p in (masked, filled)]
    return Guess(photo, pictures[0], pictures[1], error)


def _photos(sources: Sequence[str], limit: int) -> Iterator[tuple[str, bytes]]:
    """Names and encoded images of files, folders and shards, at most `limit`, spread evenly over what there is."""
    found: list[bytes | Path | tuple[int, int]] = []
    shards = None
    for source in sources:
        path = Path(source)
        if path.suffix.lower() in _IMAGE_FILES:
            found.append(path)
        elif path.is_dir() and (files := sorted(f for f in path.iterdir() if f.suffix.lower() in _IMAGE_FILES)):
            found += files
        elif path.is_dir() and not any((*path.glob("*.tar"), *path.glob("shards/*"))):
            raise UsageError(
                f"{source} itself holds no photos and no shards; give photo files, folders of them, or shards"
            )
        elif not _may_be_shards(source):
            what = "is no photo and no .tar" if path.exists() else "does not exist"
            raise UsageError(
                f"{source} {what}; give photo files ({', '.join(_IMAGE_FILES)}), folders of them, or shards"
            )
        else:
            shards = open_shards(sources)
            found = [(number, row) for number, count in enumerate(shards.counts) for row in range(count)]
            break
    chosen = [found[i * len(found) // limit] for i in range(limit)] if len(found) > limit else found
    if not chosen:
        raise UsageError("there are no images to reconstruct; give photo files, folders of them, or shards")
    for item in chosen:
        if isinstance(item, Path):
            try:
                yield str(item), item.read_bytes()
            except OSError as error:
                raise UsageError(f"{item} cannot be read ({error.strerror})") from error
        elif shards is not None and isinstance(item, tuple):
            number, row = item
            yield f"{shards.shards[number].url} row {row}", shards.read(number, row)


def _may_be_shards(source: str) -> bool:
    """Whether a folder, tars (which their own errors explain), a pattern or a URL is meant."""
    return (
        ".tar" in source
        or any(mark in source for mark in ("{", "*", "?", "[", "://"))
        or Path(source).expanduser().is_dir()
    )


def _square(name: str, data: bytes, size: tuple[int, int]) -> np.ndarray:
    """The largest centred part of an image that has the shape of `size`, resized to it."""
    try:
        image = Encoded(data)
        pixels = image.decode()
    except BrokenImage as error:
        raise UsageError(f"{name}: {error}; leave it out") from error
    aspect = size[1] / size[0]
    h, w = min(image.height, round(image.width / aspect)), min(image.width, round(image.height * aspect))
    crop = Crop((image.height - h) // 2, (image.width - w) // 2, h, w)
    return np.ascontiguousarray(cut(pixels, crop, (image.height, image.width), size))


def _sheet(rows: list[list[np.ndarray]], heads: Sequence[str], side: int, across: int = 1) -> Image.Image:
    """Rows of pictures under their titles, in `across` columns of rows."""
    height = round(side * rows[0][0].shape[0] / rows[0][0].shape[1])
    per_column = -(-len(rows) // across)
    block = len(heads) * (side + _GAP) + 4 * _GAP
    sheet = Image.new("RGB", (across * block - 5 * _GAP, _HEAD + per_column * (height + _GAP) - _GAP), "white")
    draw = ImageDraw.Draw(sheet)
    for number in range(across):
        for i, head in enumerate(heads):
            draw.text(
                (number * block + i * (side + _GAP) + side / 2, _HEAD / 2),
                head,
                fill="black",
                anchor="mm",
                font_size=13,
            )
    for index, row in enumerate(rows):
        x, y = index // per_column * block, _HEAD + index % per_column * (height + _GAP)
        for i, picture in enumerate(row):
            small = Image.fromarray(picture).resize((side, height), Image.Resampling.LANCZOS)
            sheet.paste(small, (x + i * (side + _GAP), y))
    return sheet
