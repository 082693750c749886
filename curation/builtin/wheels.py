"""Where the wheels we depend on keep their networks, found without importing them."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path


def nudenet_file() -> Path:
    """YOLOv8n at 320 px for faces and body parts, from the `nudenet` wheel."""
    return _in_wheel("nudenet", "320n.onnx")


def ppocr_file() -> Path:
    """PP-OCR's text detector, from the `rapidocr` wheel."""
    return _in_wheel("rapidocr", "models/PP-OCRv6_det_small.onnx")


def _in_wheel(package: str, inside: str) -> Path:
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(f"the builtin profile needs the package {package!r}: pip install {package}")
    path = Path(spec.submodule_search_locations[0]) / inside
    if not path.is_file():
        raise FileNotFoundError(f"{package} is installed without {inside}: reinstall it, pip install -U {package}")
    return path
