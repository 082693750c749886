"""One CLIP image embedding per picture, and questions in words that are asked of it.

The image tower runs through the engine; the text tower runs once per machine and set of prompts, and only its answers
are kept.
"""

import io
import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional as F

from curation.engines import Precision, cache_folder, weights_identity
from curation.errors import UsageError, reason_of
from curation.full.catalogue import CATALOGUE, clip_file
from curation.full.concepts import Concept
from curation.full.fetch import fetch, home_expanded
from curation.full.network import Built, Network, Runner, gpu, normalised, spread
from curation.full.torchvision_ops import make_importable
from manifests.store import Store

Floats = NDArray[np.float32]
BATCH = 8
VERSION = 2  # of what happens around the network
FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
STRIP = 16  # times longer than wide; of what is longer the ends are not looked at
PREPARATION = ("mean", "std", "interpolation", "resize_mode")
CONFIG, WEIGHTS = "open_clip_config.json", ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")


@dataclass(frozen=True)
class ClipWeights:
    """A model of open_clip: its name there (`ViT-B-32`, or `local-dir:/folder`), the file of its weights, and
    open_clip's name for these ("" for a file of the user's), which says how pictures are prepared for them."""

    model: str
    file: Path
    tag: str = ""


class Clip:
    """An open_clip model. `identity` covers its weights, not the prompts."""

    def __init__(self, weights: ClipWeights, threads: int = 1, precision: Precision = "auto") -> None:
        self.weights = weights
        name = weights.model.removeprefix("local-dir:").rstrip("/").rsplit("/", 1)[-1]
        name = f"{name}-{weights.tag}" if weights.tag else name
        config = [weights.file.parent / CONFIG] if weights.model.startswith("local-dir:") else []
        self.identity = weights_identity(name, weights.file, *config, version=VERSION)
        network = Network(self.identity, lambda: _build(weights), normalised, BATCH)
        self._runner = Runner(network, threads, precision)

    def embed(self, images: Sequence[NDArray[np.uint8]]) -> Floats:
        """uint8 RGB [H,W,3] images of any sizes → float32 [B,D] of length 1."""
        facts = self._runner.facts
        how = facts["size"], facts["resize_mode"], facts["interpolation"]
        squares = spread(lambda image: fit(image, *how), images, self._runner.threads)
        embeddings = np.stack([output for (output,) in self._runner(squares)])
        return embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)

    def asked(self, concept: Concept) -> "Question":
        """The concept's phrases as text embeddings; computed once per machine."""
        digest = sha256(json.dumps([self.identity, concept.sentences()]).encode()).hexdigest()[:24]
        store, name = Store(cache_folder() / "prompts"), f"{digest}.npz"
        if not store.exists(name):
            classes, scale = self._text(concept)
            buffer = io.BytesIO()
            np.savez(buffer, classes=classes, scale=np.float32(scale))
            store.write_bytes(name, buffer.getvalue())  # whole or not at all: the threads of a worker ask at once
        with np.load(store.full(name)) as known:
            return Question(known["classes"], float(known["scale"]), len(concept.yes))

    def _text(self, concept: Concept) -> tuple[Floats, float]:
        model, tokenizer = self._in_torch
        sentences = concept.sentences()
        with torch.no_grad():
            tokens = tokenizer([sentence for phrase in sentences for sentence in phrase]).to(model.logit_scale.device)
            every = F.normalize(torch.cat([model.encode_text(part) for part in tokens.split(64)]).float(), dim=-1)
            mean = every.unflatten(0, (len(sentences), -1)).mean(1)
            return F.normalize(mean, dim=-1).cpu().numpy(), float(model.logit_scale.exp())

    @cached_property
    def _in_torch(self) -> tuple[Any, Any]:
        make_importable()
        import open_clip

        device = gpu(torch.cuda.device_count()) if torch.cuda.is_available() else "cpu"
        try:
            tokenizer = open_clip.get_tokenizer(self.weights.model)
        except Exception as error:  # some models' tokenizers lie on the Hugging Face hub
            reason = reason_of(error)
            raise UsageError(
                f"weights.clip: the tokenizer of {self.weights.model} cannot be loaded: {reason}"
            ) from None
        return load_clip(self.weights).to(device), tokenizer


@dataclass(frozen=True)
class Question:
    """`classes` float32 [C,D] of length 1, the first `yes` of which mean yes; `scale` is the model's inverse
    temperature."""

    classes: Floats
    scale: float
    yes: int

    def answer(self, embeddings: Floats) -> Floats:
        """float32 [B,D] of length 1 → [B] chance of yes, 0…1: softmax over the classes, yes classes added up."""
        logits = self.scale * embeddings @ self.classes.T
        chances = np.exp(logits - logits.max(1, keepdims=True))
        return chances[:, : self.yes].sum(1) / chances.sum(1)


def find_clip(spec: str) -> ClipWeights:
    """`ViT-B-32/laion2b_s34b_b79k` (open_clip's names), `ViT-B-32/path/to/weights.safetensors`, or a folder that holds
    `open_clip_config.json` and the weights. Raises UsageError."""
    folder = home_expanded(spec)
    if folder.is_dir():
        files = [folder / name for name in WEIGHTS]
        if not (folder / CONFIG).is_file() or not any(file.is_file() for file in files):
            raise UsageError(f"weights.clip: {spec} must hold {CONFIG} and {' or '.join(WEIGHTS)}")
        return ClipWeights(f"local-dir:{folder}", next(file for file in files if file.is_file()))
    if folder.is_file():
        raise UsageError(
            f"weights.clip: {spec} is a file; write open_clip's name of its model before it: ViT-B-32/{spec}"
        )
    model, _, tag = spec.partition("/")
    if (file := home_expanded(tag)).is_file():
        return ClipWeights(model, file)
    known = clip_file(model, tag)
    if known in CATALOGUE:
        return ClipWeights(model, fetch(CATALOGUE[known]), tag)
    return _from_open_clip(model, tag)


def fit(image: NDArray[np.uint8], size: int, resize_mode: str, interpolation: str) -> NDArray[np.uint8]:
    """The picture as open_clip's evaluation transform cuts it: uint8 [size,size,3].

    `shortest`: the shorter side becomes `size` and the middle is cut out; `squash`: both sides become `size`.
    """
    height, width = image.shape[:2]
    if resize_mode == "squash":
        w = h = size
    else:
        if max(height, width) > STRIP * min(height, width):  # or all of it would be enlarged for its middle
            image = _middle(image, STRIP * min(height, width))
            height, width = image.shape[:2]
        w, h = (size, int(size * height / width)) if width <= height else (int(size * width / height), size)
    resized = np.asarray(Image.fromarray(image).resize((w, h), FILTERS[interpolation]))
    top, left = round((h - size) / 2), round((w - size) / 2)
    return resized[top : top + size, left : left + size]


def _middle(image: NDArray[np.uint8], most: int) -> NDArray[np.uint8]:
    top, left = (max(0, side - most) // 2 for side in image.shape[:2])
    return image[top : top + most, left : left + most]


def load_clip(weights: ClipWeights) -> Any:
    """The model in torch, fp32, ready to embed. Raises UsageError where the weights do not fit."""
    make_importable()
    import open_clip
    from open_clip.factory import load_checkpoint
    from open_clip.pretrained import get_pretrained_cfg

    settings = get_pretrained_cfg(weights.model, weights.tag) if weights.tag else {}
    try:
        with _no_word_of_random_weights():
            model = open_clip.create_model(
                weights.model,
                load_weights=False,
                pretrained_text=False,
                force_quick_gelu=bool(settings.get("quick_gelu")),
                force_preprocess_cfg={name: settings[name] for name in PREPARATION if name in settings},
            )
        load_checkpoint(model, str(weights.file), weights_only=True)
    except Exception as error:
        reason = reason_of(error)
        raise UsageError(f"weights.clip: {weights.file} does not fit open_clip's {weights.model}: {reason}") from None
    return model.eval()


@contextmanager
def _no_word_of_random_weights() -> Iterator[None]:
    """open_clip warns that a model is initialised randomly; its weights are loaded right after."""

    def is_another(record: logging.LogRecord) -> bool:
        return "initialized randomly" not in record.getMessage()

    root = logging.getLogger()
    root.addFilter(is_another)
    try:
        yield
    finally:
        root.removeFilter(is_another)


class _Pooled(torch.nn.Module):
    """An image tower's embedding alone; CoCa's gives its tokens too."""

    def __init__(self, visual: torch.nn.Module) -> None:
        super().__init__()
        self.visual = visual

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.visual(x)
        return out[0] if isinstance(out, tuple) else out


def _build(weights: ClipWeights) -> Built:
    model = load_clip(weights)
    settings = model.visual.preprocess_cfg
    facts = {name: settings[name] for name in PREPARATION}
    if facts["resize_mode"] not in {"shortest", "squash"} or facts["interpolation"] not in FILTERS:
        raise UsageError(
            f"weights.clip: {weights.model} resizes by {facts['resize_mode']}, {facts['interpolation']}: not known"
        )
    sides = {settings["size"]} if isinstance(settings["size"], int) else set(settings["size"])
    if len(sides) > 1:
        raise UsageError(
            f"weights.clip: {weights.model} takes pictures of {settings['size']} pixels; give one for squares"
        )
    (size,) = sides
    return Built(_Pooled(model.visual), (size, size), facts | {"size": size})


def _from_open_clip(model: str, tag: str) -> ClipWeights:
    """Weights that open_clip knows and fetches itself, from the Hugging Face hub."""
    make_importable()
    import open_clip
    from open_clip.pretrained import download_pretrained, get_pretrained_cfg

    tags = open_clip.list_pretrained_tags_by_model(model)
    if tag not in tags:
        allowed = (
            f"{model} has {', '.join(tags)}" if tags else f"models are {', '.join(open_clip.list_models()[:20])}, …"
        )
        raise UsageError(f"weights.clip: no weights {model}/{tag}; {allowed}; a folder or model/file does as well")
    settings = get_pretrained_cfg(model, tag)
    try:
        file = Path(download_pretrained(settings, prefer_hf_hub=True))
    except Exception as error:
        raise UsageError(
            f"weights.clip: {model}/{tag} is not on this machine and cannot be downloaded "
            f"({type(error).__name__}): give a folder with {CONFIG} and {WEIGHTS[0]}, "
            "or use `profile: builtin`, which needs no download"
        ) from None
    return ClipWeights(model, file, tag)
