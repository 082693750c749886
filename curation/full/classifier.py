"""A plain image classifier of timm, for the known watermark and art models: which index means yes is said by the
recipe."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn

from curation.engines import Precision, weights_identity
from curation.errors import UsageError, reason_of
from curation.full.clip import fit
from curation.full.concepts import Classifier
from curation.full.fetch import home_expanded
from curation.full.network import Built, Network, Runner, normalised
from curation.full.torchvision_ops import make_importable

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
VERSION = 2  # of what happens around the network


class TrainedAnswer:
    """Softmax chance of a classifier's `yes` class."""

    def __init__(self, classifier: Classifier, threads: int = 1, precision: Precision = "auto") -> None:
        self.classifier = classifier
        file = home_expanded(classifier.weights)
        if not file.is_file():
            raise UsageError(f"classifiers: no file {file}; give the state dict of a timm {classifier.model}")
        settings = f"{classifier.size}-{classifier.resize}-{classifier.yes}"
        self.identity = weights_identity(f"{classifier.model}-{settings}", file, version=VERSION)
        self._runner = Runner(Network(self.identity, lambda: _build(classifier), normalised), threads, precision)

    def answer(self, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """uint8 RGB [H,W,3] images → [B] chance of yes, 0…1."""
        c = self.classifier
        squares = [fit(image, c.size, c.resize, "bicubic") for image in images]
        return np.array([chances[c.yes] for (chances,) in self._runner(squares)], np.float32)


class _Softmax(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x).softmax(1)


def _build(classifier: Classifier) -> Built:
    make_importable()
    import timm

    if classifier.yes >= classifier.classes:
        raise UsageError(f"classifiers: yes is {classifier.yes}, but there are {classifier.classes} classes, from 0")
    file = home_expanded(classifier.weights)
    try:
        net = timm.create_model(classifier.model, pretrained=False, num_classes=classifier.classes)
        safe = file.suffix == ".safetensors"
        state = load_file(file) if safe else torch.load(file, map_location="cpu", weights_only=True)
        net.load_state_dict(dict(state.get("state_dict", state)))
    except Exception as error:
        reason = reason_of(error)
        raise UsageError(f"classifiers: {file} does not fit timm's {classifier.model}: {reason}") from None
    net.eval()
    try:
        with torch.no_grad():
            net(torch.zeros(1, 3, classifier.size, classifier.size))
    except Exception as error:
        reason = reason_of(error)
        raise UsageError(
            f"classifiers: {classifier.model} takes no pictures of {classifier.size} pixels ({reason}); set `size`"
        ) from None
    known: Any = net.pretrained_cfg
    facts = {name: list(known.get(name, usual)) for name, usual in IMAGENET.items()}
    return Built(_Softmax(net).eval(), (classifier.size, classifier.size), facts)
