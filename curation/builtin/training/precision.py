"""Which arithmetic a training uses."""

from __future__ import annotations

import openvino as ov
import torch


def has_bf16(device: torch.device) -> bool:
    """Bfloat16 products are quick: on CUDA and on CPUs with units for them. Others emulate them, very slowly."""
    return device.type == "cuda" or "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
