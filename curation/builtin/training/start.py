"""Weights to start from: the convolutions of the people network in the `nudenet` wheel."""

from __future__ import annotations

import re

import numpy as np
import openvino as ov
import torch

from curation.builtin.detector import PeopleDetector
from curation.builtin.wheels import nudenet_file


def nudenet_convolutions() -> dict[str, np.ndarray]:
    """Every convolution of the wheel's graph: `<layer path>.weight` and `.bias`, named as in the graph, float32."""
    found: dict[str, np.ndarray] = {}
    for op in ov.Core().read_model(nudenet_file()).get_ordered_ops():
        name = op.get_friendly_name()
        if op.get_type_name() != "Convolution" or "dfl" in name:
            continue
        path = re.sub(r"^/model\.|/Conv/WithoutBiases$", "", name).replace("/", ".")
        found[path + ".weight"] = op.input_value(1).get_node().data.astype(np.float32)
        (add,) = [t.get_node() for t in op.output(0).get_target_inputs() if t.get_node().get_type_name() == "Add"]
        bias = add.input_value(1).get_node()
        if bias.get_type_name() == "Reshape":
            bias = bias.input_value(0).get_node()
        found[path + ".bias"] = bias.data.astype(np.float32).reshape(-1)
    return found


def start_from_nudenet(detector: PeopleDetector) -> None:
    """Copy backbone, neck and box branches in place; the person branch starts from the body-part branch, its last layer
    from the mean over the 18 parts with a rare-object bias."""
    source = nudenet_convolutions()
    state = detector.state_dict()
    for name, value in state.items():
        key = re.sub(r"^layers\.", "", name)
        key = re.sub(r"^sides\.(\d)\.(\d)", r"22.cv2.\1.cv2.\1.\2", key)
        key = re.sub(r"^person\.(\d)\.(\d)", r"22.cv3.\1.cv3.\1.\2", key)
        array = torch.from_numpy(source[key])
        if array.shape != value.shape:
            array = array.mean(0, keepdim=True) if value.ndim > 1 else torch.full_like(value, -4.0)
        value.copy_(array)
