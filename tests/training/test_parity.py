"""Beside another implementation: ViTMAE of `transformers` with our weights and masks gives our loss and gradients."""

import pytest
import torch

from benchmarks.pretrain import build_theirs, copy_weights
from curation.full.torchvision_ops import make_importable
from training.models.mae import mask_order
from training.models.vit import IMAGENET_MEAN, IMAGENET_STD
from training.models.zoo import Architecture, build_mae
from training.optim import clip_gradients


def test_transformers_computes_the_same_loss_and_gradient():
    arch = Architecture("small", 64, 2, 4, image=64, decoder_width=32, decoder_depth=2, decoder_heads=4)
    make_importable()  # transformers imports torchvision, which does not load beside a CPU-only torch
    pytest.importorskip("transformers", reason="the extra `bench` is not installed")
    torch.manual_seed(0)
    ours, theirs = build_mae(arch), build_theirs(arch)
    copy_weights(ours, theirs)
    images, keys = torch.randint(0, 256, (3, 64, 64, 3), dtype=torch.uint8), torch.arange(3)
    pixels = ((images.float() - torch.tensor(IMAGENET_MEAN)) / torch.tensor(IMAGENET_STD)).permute(0, 3, 1, 2)
    losses = ours(images, keys), theirs(pixels, noise=mask_order(keys, 16).argsort(1).float()).loss
    for loss in losses:
        loss.backward()
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-5, atol=1e-6)
    assert float(clip_gradients(ours.parameters(), 9e9)) == pytest.approx(
        float(clip_gradients(theirs.parameters(), 9e9)), rel=1e-4
    )
