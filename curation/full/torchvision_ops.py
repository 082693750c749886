"""Let torchvision be imported beside a torch that its compiled operators were not built for.

The torchvision of PyPI is built for the CUDA torch of PyPI. Beside a CPU-only torch its shared library does not load,
and `import torchvision` ends in "operator torchvision::nms does not exist". EasyOCR, open_clip and timm import it for
Python code alone: layers, transforms, model definitions. Declaring the operators that this import looks up is enough
for them.
"""

import importlib.util
import logging
import threading
from functools import cache
from pathlib import Path

import numpy as np
import torch

# The two schemas that torchvision/_meta_registrations.py looks up when it is imported; they stand in torchvision's
# csrc/ops/nms.cpp and csrc/ops/quantized/cpu/qnms_kernel.cpp.
SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
_declared: list[torch.library.Library] = []  # a library's operators live as long as the object does
_declaring = threading.Lock()


def make_importable() -> bool:
    """Call before importing torchvision or what imports it. True where its own operators load, False where `nms` is
    replaced by the one below and the others are absent; that is logged once."""
    with _declaring:  # torch refuses a second declaration, and a worker's threads come at once
        return _made_importable()


@cache
def _made_importable() -> bool:
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("torchvision is not installed; pip install 'sapiens-curation[full]'")
    if _loads(Path(spec.origin).parent):
        return True
    library = torch.library.Library("torchvision", "DEF")
    for schema in SCHEMAS.values():
        library.define(schema)
    library.impl("nms", nms, "CompositeExplicitAutograd")
    _declared.append(library)

    from torchvision.ops import boxes

    boxes._assert_has_ops = lambda: None  # of the operators this module guards, nms is here now
    logging.getLogger("curation").warning(
        "torchvision's compiled operators do not fit torch %s: nms runs in torch instead, the others are absent",
        torch.__version__,
    )
    return False


def nms(boxes: torch.Tensor, scores: torch.Tensor, iou_threshold: float) -> torch.Tensor:
    """Non-maximum suppression as torchvision defines it.

    boxes float [N,4] are x0 y0 x1 y1, scores float [N]. Returns int64 indices of the boxes kept, by falling score:
    each has an overlap (intersection over union) of at most `iou_threshold` with every better one that is kept.
    """
    order = scores.argsort(descending=True, stable=True)
    best_first = boxes[order].cpu().numpy()  # single numbers and rows, where numpy takes a quarter of torch's time
    areas = (best_first[:, 2:] - best_first[:, :2]).prod(1)
    dropped = np.zeros(len(best_first), bool)
    for i in range(len(best_first)):
        if dropped[i]:
            continue
        low = np.maximum(best_first[i, :2], best_first[i + 1 :, :2])
        high = np.minimum(best_first[i, 2:], best_first[i + 1 :, 2:])
        shared = (high - low).clip(min=0).prod(1)
        dropped[i + 1 :] |= shared > iou_threshold * (areas[i] + areas[i + 1 :] - shared)
    return order[torch.from_numpy(~dropped).to(order.device)]


def _loads(package: Path) -> bool:
    files = sorted(package.glob("_C*"))
    try:
        for file in files:
            torch.ops.load_library(file)
    except OSError:
        return False
    return bool(files)
