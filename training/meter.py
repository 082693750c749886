"""How much work a step is, how fast it goes, and one line that says so.

Floating-point operations count a multiply-add as 2, attention included, recomputation not:
    block(N, d)  = 24·N·d² + 4·N²·d          N tokens of width d, MLP ratio 4
    a training step = 3 × the forward pass   (backward: twice the forward)
"""

import json
import re
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from manifests.store import Store
from training.models.heads import HEADS
from training.models.mae import visible_count
from training.models.zoo import PATCH, Architecture
from training.tell import tell

PEAK_TFLOPS = {
    "GB200": 2500.0,
    "B200": 2250.0,
    "H200 NVL": 835.0,
    "H200": 989.4,
    "H100 PCIe": 756.0,
    "H100 NVL": 835.0,
    "H100": 989.4,
    "A100": 312.0,
    "L40S": 362.0,
    "L40": 181.0,
    "L4": 121.0,
    "A10G": 70.0,
    "RTX 4090": 165.2,
    "RTX 3090": 71.0,
}
"""Dense bf16 peaks from the makers' data sheets, by a part of the device's name; the first that fits counts.
"""


@dataclass(frozen=True)
class Work:
    """Floating-point operations of one image in the forward pass, with and without those of attention's two
    products.
    """

    encoder: float
    decoder: float
    encoder_attention: float
    decoder_attention: float
    frozen: bool = False

    @property
    def forward(self) -> float:
        return self.encoder + self.decoder

    @property
    def training(self) -> float:
        """Forward and backward pass; through a frozen encoder forward only."""
        return 3 * self.forward - (2 * self.encoder if self.frozen else 0.0)


def _blocks(depth: int, tokens: int, width: int) -> tuple[float, float]:
    """Operations of a stack of blocks: all, and attention's products."""
    attention = 4.0 * tokens**2 * width * depth
    return 24.0 * tokens * width**2 * depth + attention, attention


def pretraining_work(
    arch: Architecture,
    size: tuple[int, int],
    mask_ratio: float,
    cross: bool = False,
    predict_ratio: float = 0.25,
    masks: int = 1,
) -> Work:
    """Work of one image with so many masks."""
    patches = (size[0] // PATCH) * (size[1] // PATCH)
    visible = visible_count(patches, mask_ratio) + 1
    hidden = patches + 1 - visible
    pixels = PATCH * PATCH * 3
    encoder, encoder_attention = _blocks(arch.depth, visible, arch.width)
    encoder += 2.0 * visible * pixels * arch.width
    d = arch.decoder_width
    if cross:
        hidden = min(hidden, max(round(patches * predict_ratio), 1))
        decoder_attention = 4.0 * hidden * visible * d * arch.decoder_depth
        linear = 20.0 * hidden * d**2 + 4.0 * visible * d**2  # q, proj, MLP of the queries; k, v of the latents
        decoder = arch.decoder_depth * linear + decoder_attention
    else:
        decoder, decoder_attention = _blocks(arch.decoder_depth, patches + 1, d)
    decoder += 2.0 * visible * arch.width * d + 2.0 * hidden * d * pixels
    return Work(masks * encoder, masks * decoder, masks * encoder_attention, masks * decoder_attention)


def encoder_work(arch: Architecture, size: tuple[int, int], cls_token: bool = True) -> Work:
    """Work of the encoder alone on a whole image, as in feature extraction and fine-tuning."""
    patches = (size[0] // PATCH) * (size[1] // PATCH)
    tokens = patches + cls_token
    total, attention = _blocks(arch.depth, tokens, arch.width)
    return Work(total + 2.0 * patches * PATCH * PATCH * 3 * arch.width, 0.0, attention, 0.0)


def finetuning_work(arch: Architecture, size: tuple[int, int], task: str, channels: int, frozen: bool = False) -> Work:
    """Work of one labelled image: the encoder on all patches, and the task's decoder."""
    encoder = encoder_work(arch, size, cls_token=False)
    shape = HEADS[task]
    width = arch.head_width // 2 if shape.half else arch.head_width
    pixels, decoder, before = (size[0] // PATCH) * (size[1] // PATCH), 0.0, arch.width
    for _ in range(shape.ups):
        decoder += 2.0 * pixels * before * width * 16
        pixels, before = 4 * pixels, width
    decoder += 2.0 * pixels * width * (shape.convs * width + channels)
    return Work(encoder.encoder, decoder, encoder.encoder_attention, 0.0, frozen)


def device_peak(device: torch.device) -> float:
    """Dense bf16 peak in TFLOP/s; 0 where it is not known."""
    if device.type != "cuda":
        return 0.0
    name = torch.cuda.get_device_name(device)
    if " MIG " in name:  # a slice of a device
        return 0.0
    other = r"(?!\d| Ti\b| D\b| Laptop)"  # chips that share a name
    return next((peak for part, peak in PEAK_TFLOPS.items() if re.search(part + other, name)), 0.0)


def memory_gb(device: torch.device) -> float:
    """Peak memory of this process in GB: of the GPU where there is one, else resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device) / 1e9
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale / 1e9


class Meter:
    """Times the steps between two metrics lines."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._waited = 0.0
        self._images = 0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Time spent in here is time without data to work on."""
        start = time.perf_counter()
        yield
        self._waited += time.perf_counter() - start

    def step(self, images: int) -> None:
        self._images += images

    def read(self, work: Work, world: int, peak_tflops: float) -> dict[str, Any]:
        """Rates since the meter was made, over all devices; mfu and data_wait in percent, mfu None where the
        peak is unknown.
        """
        seconds = time.perf_counter() - self._start
        rate = self._images / seconds
        tflops = rate * work.training / 1e12 / world
        return {
            "images_per_s": rate,
            "tflops_per_device": tflops,
            "mfu": 100 * tflops / peak_tflops if peak_tflops else None,
            "data_wait": 100 * self._waited / seconds,
        }


class MetricsLog:
    """metrics.jsonl, TensorBoard where it is installed, and the line on the screen; nothing on other ranks
    than the first.
    """

    def __init__(self, folder: Path, resumed_step: int, active: bool = True) -> None:
        self.active = active
        if not active:
            return
        self.path = folder / "metrics.jsonl"
        self._forget_after(resumed_step)
        self._file = self.path.open("a")
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            self._board = None
        else:
            self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=resumed_step + 1)

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(self, *_: object) -> None:
        if self.active:
            self._file.close()
            if self._board:
                self._board.close()

    def write(self, metrics: dict[str, Any]) -> None:
        if not self.active:
            return
        self._file.write(json.dumps(metrics) + "\n")
        self._file.flush()
        if self._board:
            for name, value in metrics.items():
                if isinstance(value, int | float) and name != "step":
                    self._board.add_scalar(name, value, metrics["step"])
        tell(line(metrics))

    def _forget_after(self, step: int) -> None:
        """Drop what an interrupted run wrote after the checkpoint that we go on from, and a torn last line."""
        if not self.path.exists():
            return
        kept = []
        for text in self.path.read_text().splitlines():
            try:
                if json.loads(text)["step"] <= step:
                    kept.append(text + "\n")
            except (ValueError, KeyError):
                continue
        Store(self.path.parent).write_bytes(self.path.name, "".join(kept).encode())


def line(metrics: dict[str, Any]) -> str:
    """One readable line of a step's metrics."""

    def shown(name: str, form: str) -> str:
        return "n/a" if metrics[name] is None else format(metrics[name], form)

    counted = [f"{name} {metrics[name]}" for name in ("skipped", "replaced") if metrics[name]]
    return "  ".join(
        [
            f"step {metrics['step']}/{metrics['steps']}",
            f"loss {shown('loss', '.4f')}",
            f"lr {metrics['lr']:.2e}",
            f"grad {shown('grad_norm', '.3f')}",
            f"{metrics['images_per_s']:.1f} img/s",
            f"{metrics['tflops_per_device']:.2f} TFLOP/s",
            f"MFU {shown('mfu', '.1f')}%" if metrics["mfu"] is not None else "MFU n/a",
            f"data {metrics['data_wait']:.0f}%",
            f"mem {metrics['memory_gb']:.1f} GB",
            f"ETA {duration(metrics['eta_s'])}",
            *counted,
        ]
    )


def duration(seconds: float) -> str:
    """Seconds as 12s, 3m20s, 5h07m or 12d04h."""
    s = round(seconds)
    if s < 60:
        return f"{s}s"
    if s < 3600:
        return f"{s // 60}m{s % 60:02d}s"
    if s < 86400:
        return f"{s // 3600}h{s % 3600 // 60:02d}m"
    return f"{s // 86400}d{s % 86400 // 3600:02d}h"
