"""The published optimiser: which parameters decay, how the rate moves, what clipping and averaging do."""

import math

import pytest
import torch

from training.models.task import TaskModel, build_task
from training.models.zoo import FAMILY, build_mae
from training.optim import (
    adamw,
    clip_gradients,
    layerwise_adamw,
    learning_rate,
    set_learning_rate,
    task_learning_rate,
    update_average,
)


def test_norms_biases_positions_and_tokens_do_not_decay():
    model = build_mae(FAMILY["tiny"])
    optimizer = adamw(model, 1e-3, (0.9, 0.95), 0.05)
    names = {p: n for n, p in model.named_parameters()}
    decayed, plain = ([names[p] for p in group["params"]] for group in optimizer.param_groups)
    assert [g["weight_decay"] for g in optimizer.param_groups] == [0.05, 0.0]
    assert all(n.endswith("weight") and "norm" not in n for n in decayed)
    assert {"encoder.cls_token", "decoder.mask_token", "encoder.norm.weight", "encoder.patch_embed.proj.bias"} <= set(
        plain
    )
    assert set(decayed) | set(plain) == set(names.values()) - {"encoder.pos_embed", "decoder.pos_embed"}


def test_the_rate_rises_and_falls_by_images_seen():
    rate = [learning_rate(2.0, seen, 1000, 0.1) for seen in range(1001)]
    assert rate[0] == pytest.approx(2e-4)
    assert max(rate) == rate[100] == 2.0
    assert rate[550] == pytest.approx(1.0)
    assert rate[1000] == pytest.approx(0.0, abs=1e-12)
    assert learning_rate(2.0, 0, 1000, 0.0) == 2.0
    assert all(math.isfinite(learning_rate(1.0, s, 10, 1.0)) for s in range(12))


def test_clipping_returns_the_norm_before():
    weights = [
        torch.nn.Parameter(torch.zeros(3)),
        torch.nn.Parameter(torch.zeros(1)),
        torch.nn.Parameter(torch.zeros(2)),
    ]
    weights[0].grad, weights[1].grad = torch.tensor([3.0, 0.0, 0.0]), torch.tensor([4.0])
    assert float(clip_gradients(weights, 1.0)) == pytest.approx(5.0)
    assert weights[0].grad[0] == pytest.approx(0.6, abs=1e-5)
    weights[1].grad = torch.tensor([float("inf")])
    assert not torch.isfinite(clip_gradients(weights, 1.0))


def test_the_average_follows_slowly():
    weight = torch.nn.Parameter(torch.tensor([1.0]))
    average = {"w": torch.zeros(1)}
    for _ in range(3):
        update_average(average, {"w": weight, "other": weight}, 0.9)
    assert float(average["w"]) == pytest.approx(1 - 0.9**3)


def test_learning_rates_fall_layer_by_layer_towards_the_input():
    """As published: block i of L gets 0.85^(L-i), patches and positions 0.85^(L+1), final norm and decoder all."""
    arch = FAMILY["tiny"]
    model = build_task("depth", arch, {}, (64, 48))
    optimizer = layerwise_adamw(model, arch.depth, 0.85, (0.9, 0.999), 0.1)
    set_learning_rate(optimizer, 1.0)
    rate = {id(p): (group["lr"], group["weight_decay"]) for group in optimizer.param_groups for p in group["params"]}
    found = {name: rate[id(p)] for name, p in model.named_parameters()}
    assert len(found) == len(rate)
    assert found["encoder.pos_embed"] == (pytest.approx(0.85**7), 0.0)
    assert found["encoder.patch_embed.proj.weight"] == (pytest.approx(0.85**7), 0.1)
    assert found["encoder.blocks.0.attn.qkv.weight"] == (pytest.approx(0.85**6), 0.1)
    assert found["encoder.blocks.5.mlp.fc2.bias"] == (pytest.approx(0.85), 0.0)
    assert found["encoder.norm.weight"] == (1.0, 0.0)
    assert found["head.deconv_layers.0.weight"] == (1.0, 0.1)


@pytest.mark.parametrize(("depth", "rate"), [(24, 0.80), (32, 0.85), (40, 0.90), (56, 0.94)])
def test_deeper_encoders_decay_less_where_asked(depth, rate):
    blocks = torch.nn.ModuleList([torch.nn.Linear(2, 2)])
    model = torch.nn.ModuleDict({"encoder": torch.nn.ModuleDict({"blocks": blocks})})
    optimizer = layerwise_adamw(model, depth, 0.0, (0.9, 0.999), 0.1)
    assert [group["lr_scale"] for group in optimizer.param_groups] == pytest.approx([rate**depth] * 2)


def test_a_frozen_encoder_is_not_in_the_optimizer():
    made = build_task("depth", FAMILY["tiny"], {}, (64, 48))
    model = TaskModel(made.encoder, made.head, frozen=True)
    optimizer = layerwise_adamw(model, 6, 0.85, (0.9, 0.999), 0.1)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(model.head.parameters()))


def test_the_pose_schedule_steps_down_twice():
    rates = [task_learning_rate("pose", 1.0, step, 2100, 500) for step in (0, 250, 500, 1699, 1700, 1999, 2000, 2099)]
    assert rates == pytest.approx([1e-3, 0.5005, 1.0, 1.0, 0.1, 0.1, 0.01, 0.01])


def test_the_other_schedules_fall_in_a_line_to_zero():
    rates = [task_learning_rate("parts", 2.0, step, 1000, 400) for step in (0, 400, 500, 750, 1000)]
    assert rates == pytest.approx([2e-3, 1.2, 1.0, 0.5, 0.0])
