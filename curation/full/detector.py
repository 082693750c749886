"""Person boxes from any ultralytics detection network, as its own `predict` gives them.

A `.pt` of ultralytics is a pickled model. It is read by torch's restricted unpickler against ultralytics' list of its
own layers, so that a file of unknown origin cannot run code. A `.safetensors` needs the model's `.yaml` of the same
name beside it, with its classes under `names`.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn

from curation.engines import Pixels, Precision, weights_identity
from curation.errors import UsageError, reason_of
from curation.full.network import Built, Network, Runner, spread
from curation.full.torchvision_ops import make_importable

os.environ.setdefault("YOLO_OFFLINE", "true")  # no calls home when it is imported
os.environ.setdefault("YOLO_AUTOINSTALL", "false")  # and no packages installed behind the user's back

SIDE = 640  # pixels of the longer side where the weights tell no size, ultralytics' default
STRIDE = 32  # pixels of which both sides are multiples, at least
LEAST_SCORE = 0.05
OVERLAP = 0.7  # intersection over union above which the weaker of two boxes goes; ultralytics' default
MOST_BOXES = 300
VERSION = 4  # of what happens around the network


class Detector:
    """`weights`: a `.pt` of ultralytics, or a `.safetensors` with its `.yaml`."""

    def __init__(self, weights: Path, threads: int = 1, precision: Precision = "auto") -> None:
        files = [weights] if weights.suffix == ".pt" else [weights, weights.with_suffix(".yaml")]
        if missing := [file for file in files if not file.is_file()]:
            raise UsageError(
                f"weights.people: no file {missing[0]}; give an ultralytics .pt, or .safetensors and .yaml"
            )
        self.identity = weights_identity(weights.stem, *files, version=VERSION)
        network = Network(self.identity, lambda: _build(weights), lambda facts: Pixels(), any_size=True)
        self._runner = Runner(network, threads, precision)

    def people(self, images: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.float32]]:
        """Per uint8 RGB [H,W,3] image: float32 [n,5], x0 y0 x1 y1 in its pixels and a score over 0.05, best first."""
        make_importable()
        side, stride = self._runner.facts["side"], self._runner.facts["stride"]
        squares = spread(lambda image: letterbox(image, side, stride), images, self._runner.threads)
        outputs = self._runner(squares)
        found = [(output, *pictures) for (output,), *pictures in zip(outputs, squares, images, strict=True)]
        return spread(lambda one: self._boxes(*one), found, self._runner.threads)

    def _boxes(self, output: NDArray[Any], square: NDArray[np.uint8], image: NDArray[np.uint8]) -> NDArray[np.float32]:
        import torchvision  # noqa: F401 - ultralytics has two NMS and takes torchvision's once that is imported: always, then
        from ultralytics.utils import nms, ops

        (found,) = nms.non_max_suppression(
            torch.from_numpy(output)[None],
            LEAST_SCORE,
            OVERLAP,
            max_det=MOST_BOXES,
            end2end=self._runner.facts["end2end"],
        )
        found[:, :4] = ops.scale_boxes(square.shape[:2], found[:, :4], image.shape[:2])
        return found[:, :5].numpy()


def letterbox(image: NDArray[np.uint8], side: int = SIDE, stride: int = STRIDE) -> NDArray[np.uint8]:
    """Longer side `side`, the shorter one padded with grey to a multiple of `stride`, as `predict` does with a single
    image.
    """
    from ultralytics.data.augment import LetterBox

    return np.asarray(LetterBox((side, side), auto=True, stride=stride)(image=image))


class PersonsOnly(nn.Module):
    """An ultralytics detection network whose outputs are cut down to persons.

    float32 [B,3,H,W] in 0…1 → [B,5,N], box centre x, y, width, height in pixels and the score of persons, which is 0
    where another class has a higher one; with an end-to-end head [B,300,6], x0 y0 x1 y1, score, class, the score 0
    unless person.
    """

    def __init__(self, model: nn.Module, person: int, end2end: bool) -> None:
        super().__init__()
        self.model, self.person, self.end2end = model, person, end2end

    def forward(self, x: Tensor) -> Tensor:
        y = self.model(x)
        if self.end2end:
            is_person = (y[..., 5:6] == self.person).float()
            return torch.cat([y[..., :4], y[..., 4:5] * is_person, y[..., 5:6]], -1)
        score = y[:, 4 + self.person : 5 + self.person]
        best = y[:, 4:].amax(1, keepdim=True)
        return torch.cat([y[:, :4], torch.where(score >= best, score, torch.zeros_like(score))], 1)


def plain_decoding(head: Any) -> Callable[[dict[str, Any]], Tensor]:
    """An ultralytics head's step from maps to boxes and scores, on one device throughout (ultralytics makes its anchors
    on the CPU, and copying them waits for the GPU six times) and without autocast: in bf16 corners would be off by 2
    px."""
    numbers = [float(stride) for stride in head.stride]

    def run(maps: dict[str, Any]) -> Tensor:
        with torch.autocast(maps["boxes"].device.type, enabled=False):
            levels = [_anchors(feature, stride) for feature, stride in zip(maps["feats"], numbers, strict=True)]
            anchors, strides = (torch.cat(parts, 1) for parts in zip(*levels, strict=True))
            boxes = head.decode_bboxes(head.dfl(maps["boxes"].float()), anchors.unsqueeze(0)) * strides
            return torch.cat([boxes, maps["scores"].float().sigmoid()], 1)

    return run


def _anchors(feature: Tensor, stride: float) -> tuple[Tensor, Tensor]:
    """The centres of a map's cells, float32 [2,N] of x and y in cells, and the stride of each, [1,N]."""
    height, width = feature.shape[2:]
    y, x = (torch.arange(side, device=feature.device).float() + 0.5 for side in (height, width))
    centres = torch.stack([x.expand(height, width), y.unsqueeze(1).expand(height, width)]).flatten(1)
    return centres, torch.full_like(centres[:1], stride)


def load_model(weights: Path) -> Any:
    """The ultralytics model in `weights`, fp32. Raises UsageError where the file is none."""
    try:
        model = _pickled(weights) if weights.suffix == ".pt" else _of_tensors(weights)
    except Exception as error:
        reason = reason_of(error)
        raise UsageError(
            f"weights.people: {weights} is no ultralytics model that can be loaded safely: {reason}"
        ) from None
    from ultralytics.nn.modules import Detect, v10Detect
    from ultralytics.nn.tasks import DetectionModel

    if not isinstance(model, DetectionModel):
        raise UsageError(f"weights.people: {weights} holds a {type(model).__name__}; a detection model is needed")
    layers: Any = model.model
    head = type(layers[-1])
    if head not in {Detect, v10Detect}:  # those of other tasks add masks, keypoints or angles to their answers
        raise UsageError(
            f"weights.people: {weights} holds a {type(model).__name__} that ends in {head.__name__}; a plain detection "
            "model is needed, without -seg, -pose or -obb in its name, and no RT-DETR or YOLO-World"
        )
    return model.eval()


def _pickled(weights: Path) -> Any:
    """The model in a `.pt`, read under a name of our own: ultralytics takes quotes out of names, turns `yolov5n.pt`
    into `yolov5nu.pt`, asks the network for what is then not there, and deletes a damaged `yolo11n.pt`."""
    from ultralytics.nn.tasks import torch_safe_load

    with TemporaryDirectory() as folder:
        link = Path(folder) / "model.pt"
        link.symlink_to(weights.resolve())
        try:
            checkpoint: dict[str, Any] = torch_safe_load(link, safe_only=True)[0]
        except Exception as error:
            raise ValueError(str(error).replace(str(link), weights.name)) from None
    model = checkpoint.get("ema") or checkpoint.get("model")
    if not isinstance(model, nn.Module):
        raise ValueError(
            f"it holds {', '.join(map(str, checkpoint))[:80]} and no model; a state dict is to be a .safetensors, with "
            "the model's .yaml beside it"
        )
    found: Any = model.float()
    found.imgsz = _longest((checkpoint.get("train_args") or {}).get("imgsz"))
    return found


def _of_tensors(weights: Path) -> Any:
    from ultralytics.nn.tasks import DetectionModel

    model: Any = DetectionModel(str(weights.with_suffix(".yaml")), verbose=False)
    model.load_state_dict({name: value.float() for name, value in load_file(weights).items()})
    model.names = model.yaml.get("names", model.names)
    model.imgsz = _longest(model.yaml.get("imgsz"))
    return model


def _longest(size: Any) -> int:
    """A number of pixels, or the larger of two; ultralytics' own where nothing is said."""
    return int(np.max(np.asarray(size or SIDE, dtype=int)))


def _build(weights: Path) -> Built:
    from ultralytics.nn.modules import Detect

    model = load_model(weights)
    named = model.names if isinstance(model.names, dict) else dict(enumerate(model.names))
    names = {str(name): index for index, name in named.items()}
    if "person" not in names:
        raise UsageError(
            f"weights.people: {weights} knows no class 'person'; it knows {', '.join(names)[:200]}; if one of these "
            "means a person, name it so (docs/full-profile.md)"
        )
    model.end2end = False  # as `predict` does: of two heads the one that needs NMS, and the other where it is alone
    model = model.fuse(verbose=False)
    head = model.model[-1]
    head.export, head.format, head.dynamic = True, "openvino", True  # one plain output, anchors from the input's size
    if type(head)._inference is Detect._inference and type(head)._get_decode_boxes is Detect._get_decode_boxes:
        head._inference = plain_decoding(head)
    end2end = bool(getattr(head, "end2end", False))
    stride = max(int(model.stride.max()), STRIDE)
    side = -(-model.imgsz // stride) * stride  # the size it was trained at, as `predict` takes it
    facts = {"end2end": end2end, "side": side, "stride": stride}
    return Built(PersonsOnly(model, names["person"], end2end).eval(), (side, side), facts)
