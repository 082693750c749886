"""Weights that are known by name: where they come from, how large they are, under which licence, and their sha256."""

from dataclasses import dataclass

ULTRALYTICS = "https://github.com/ultralytics/assets/releases/download"
EASYOCR = "https://github.com/JaidedAI/EasyOCR/releases/download"
HUGGING_FACE = "https://huggingface.co"


@dataclass(frozen=True)
class Weights:
    """A file that can be fetched. `member` is its name inside a zip archive at `url`, "" where `url` is the file
    itself.

    `sha256` is of the file; "" where we know no published value: then the first fetch writes down what came.
    """

    name: str
    use: str
    url: str
    megabytes: float
    licence: str
    sha256: str = ""
    member: str = ""


def _yolo(name: str, release: str, megabytes: float, sha256: str) -> Weights:
    return Weights(f"{name}.pt", "people", f"{ULTRALYTICS}/{release}/{name}.pt", megabytes, "AGPL-3.0", sha256)


CATALOGUE = {
    weights.name: weights
    for weights in (
        _yolo("yolo11n", "v8.3.0", 5.6, "0ebbc80d4a7680d14987a577cd21342b65ecfd94632bd9a8da63ae6417644ee1"),
        _yolo("yolo11s", "v8.3.0", 19.3, "85a76fe86dd8afe384648546b56a7a78580c7cb7b404fc595f97969322d502d5"),
        _yolo("yolo11m", "v8.3.0", 40.7, "d5ffc1a674953a08e11a8d21e022781b1b23a19b730afc309290bd9fb5305b95"),
        _yolo("yolo11l", "v8.3.0", 51.4, "9ebd0e09d59811db4b1d61e2bc6730649608b1ac47f8dd01e2da6bca7c20023f"),
        _yolo("yolo11x", "v8.3.0", 114.6, "7bc158aa95c0ebfdd87f70f01653c1131b93e92522dbe15c228bcd742e773a24"),
        _yolo("yolo26n", "v8.4.0", 5.5, "9b09cc8bf347f0fc8a5f7657480587f25db09b34bf33b0652110fb03a8ad4fef"),
        _yolo("yolo26s", "v8.4.0", 20.4, "646f8bc3fe0a656803d95c294f7852321748cb29d13466a1af8862e2db384a1b"),
        _yolo("yolo26m", "v8.4.0", 44.3, "401cea9ab23ad19246ff7744859816bc599f350e93c9dd30367b6f0a0745d0b7"),
        _yolo("yolo26l", "v8.4.0", 53.2, "9fe3c544f2b19bebad7ea41e76d7ad3d88b7c2f10d11d24430c5311f6b32db26"),
        _yolo("yolo26x", "v8.4.0", 118.7, "9fdd44a31c504547ffb81d2c6d9e6dac3493c8eaa8b0398d3f43bae6c7003e92"),
        Weights(
            "craft_mlt_25k.pth",
            "text",
            f"{EASYOCR}/pre-v1.1.6/craft_mlt_25k.zip",
            83.2,
            "MIT (NAVER CRAFT)",
            "4a5efbfb48b4081100544e75e1e2b57f8de3d84f213004b14b85fd4b3748db17",
            "craft_mlt_25k.pth",
        ),
        Weights(
            "ViT-B-32--laion2b_s34b_b79k.safetensors",
            "clip",
            f"{HUGGING_FACE}/laion/CLIP-ViT-B-32-laion2B-s34B-b79K/resolve/main/open_clip_model.safetensors",
            605.2,
            "MIT",
        ),
        Weights(
            "ViT-L-14--laion2b_s32b_b82k.safetensors",
            "clip",
            f"{HUGGING_FACE}/laion/CLIP-ViT-L-14-laion2B-s32B-b82K/resolve/main/open_clip_model.safetensors",
            1710.5,
            "MIT",
        ),
    )
}

DEFAULTS = {"people": "yolo11n.pt", "text": "craft_mlt_25k.pth", "clip": "ViT-B-32/laion2b_s34b_b79k"}
"""What the profile `full` uses where a recipe names no weights."""


def clip_file(model: str, tag: str) -> str:
    """The file name under which open_clip's weights `tag` of `model` are kept."""
    return f"{model}--{tag}.safetensors"
