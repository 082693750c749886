"""The published optimiser: which parameters decay, how the rate moves, what clipping and averaging do."""

import math

import pytest
import torch

from training.models.zoo import FAMILY, build_mae
from training.optim import adamw, clip_gradients, learning_rate, update_average


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
