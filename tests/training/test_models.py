"""The models are Sapiens': published sizes, positions, masks, loss; and short cuts that change nothing."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from shards.draws import bits
from training.models import vit
from training.models.mae import MAE, Decoder, mask_order, visible_count
from training.models.vit import Attention, ViT, patchify, resize_positions, sincos_positions, take, unpatchify
from training.models.zoo import FAMILY, build_encoder, build_mae, parameter_counts

PUBLISHED = {
    "0.3b": (307_295_232, 28_237_056),
    "0.6b": (635_910_400, 28_368_128),
    "1b": (1_140_739_584, 28_499_200),
    "2b": (2_133_912_960, 28_695_808),
}


def small(cross: bool = False, mask_ratio: float = 0.75, norm_pix: bool = True, predict: float | None = None) -> MAE:
    torch.manual_seed(0)
    encoder = ViT(width=32, depth=2, heads=4, grid=(4, 4))
    decoder = Decoder(32, width=16, depth=2, heads=2, grid=(4, 4), cross=cross)
    return MAE(encoder, decoder, mask_ratio, predict, norm_pix)


def pictures(n: int, height: int = 64, width: int = 64) -> torch.Tensor:
    return torch.randint(0, 256, (n, height, width, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


KEYS = torch.tensor([3, -(2**61), 77])


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameter_totals_are_the_published_ones(name):
    assert parameter_counts(FAMILY[name]) == PUBLISHED[name]


def test_tiny_is_about_five_million():
    encoder, decoder = parameter_counts(FAMILY["tiny"])
    assert 4.5e6 < encoder < 5.5e6
    assert decoder < 1e6


def test_patches_go_there_and_back():
    images = pictures(2, 48, 80)
    patches = patchify(images, 16)
    assert patches.shape == (2, 15, 768)
    assert torch.equal(patches[0, 6].reshape(16, 16, 3), images[0, 16:32, 16:32])
    assert torch.equal(unpatchify(patches, (3, 5), 16), images)
    with pytest.raises(ValueError, match="does not divide"):
        patchify(pictures(1, 50, 64), 16)


def test_positions_are_the_published_table():
    """Quarters sin r, cos r, sin c, cos c with 10000**(-i / (D/4)); the class token's are zero."""
    table = sincos_positions((3, 5), 16, cls_token=True)[0].numpy()
    assert table.shape == (16, 16)
    assert not table[0].any()
    r, c = 2, 3
    omega = 10_000.0 ** (-np.arange(4) / 4)
    expected = np.concatenate([np.sin(r * omega), np.cos(r * omega), np.sin(c * omega), np.cos(c * omega)])
    np.testing.assert_allclose(table[1 + r * 5 + c], expected, atol=1e-6)


def test_positions_resize_between_equal_token_counts_and_keep_the_class_token():
    table = sincos_positions((8, 6), 32, cls_token=True)
    turned = resize_positions(table, (8, 6), (6, 8))
    assert turned.shape == table.shape
    assert not torch.allclose(turned, table)
    assert torch.equal(turned[:, :1], table[:, :1])
    grid = table[:, 1:].reshape(1, 8, 6, 32).permute(0, 3, 1, 2)
    expected = F.interpolate(grid, (6, 8), mode="bicubic", align_corners=False)
    assert torch.equal(turned[:, 1:], expected.permute(0, 2, 3, 1).reshape(1, 48, 32))
    with pytest.raises(ValueError, match="do not fit"):
        resize_positions(table, (7, 6), (6, 8))


def test_the_patch_embedding_is_the_strided_convolution():
    encoder, images = small().encoder, pictures(2)
    chw = (images.permute(0, 3, 1, 2).float() - torch.tensor(vit.IMAGENET_MEAN)[:, None, None]) / torch.tensor(
        vit.IMAGENET_STD
    )[:, None, None]
    expected = encoder.patch_embed.proj(chw).flatten(2).transpose(1, 2)
    ours = encoder.patch_embed(vit.normalise(patchify(images, 16)))
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-4)


def test_patch_padding_is_the_padded_convolution():
    """The released pose and normal encoders: kernel 16, stride 16, padding 2 on the normalised image."""
    torch.manual_seed(0)
    encoder = ViT(width=32, depth=1, heads=4, grid=(4, 3), cls_token=False, patch_padding=2)
    images = pictures(1, 64, 48)
    chw = (images.permute(0, 3, 1, 2).float() - torch.tensor(vit.IMAGENET_MEAN)[:, None, None]) / torch.tensor(
        vit.IMAGENET_STD
    )[:, None, None]
    proj = encoder.patch_embed.proj
    x = F.conv2d(chw, proj.weight, proj.bias, stride=16, padding=2).flatten(2).transpose(1, 2) + encoder.pos_embed
    expected = encoder.norm(encoder.blocks[0](x))
    torch.testing.assert_close(encoder(images), expected, atol=1e-4, rtol=1e-4)


def test_keeping_every_patch_is_the_plain_encoder():
    encoder, images = small().encoder, pictures(3)
    keep = torch.arange(16).expand(3, -1)
    torch.testing.assert_close(encoder.encode(patchify(images, 16), (4, 4), keep), encoder(images))


@pytest.mark.parametrize(("height", "width"), [(64, 48), (48, 64), (32, 128)])
def test_any_size_and_aspect(height, width):
    model = small()
    assert model.encoder(pictures(1, height, width)).shape == (1, 1 + height * width // 256, 32)
    assert torch.isfinite(model(pictures(3, height, width), KEYS))


def test_masks_are_the_documented_draws_and_static():
    order = mask_order(KEYS, 64)
    for row, key in zip(order, KEYS, strict=True):
        draws = bits(int(key) % 2**64, 64).view(np.int64)
        assert row.tolist() == np.argsort(draws, kind="stable").tolist()
    many = mask_order(torch.arange(4000), 16)[:, :4]
    share = torch.bincount(many.flatten(), minlength=16) / 4000
    assert (share - 0.25).abs().max() < 0.04
    assert visible_count(4096, 0.75) == 1024
    assert visible_count(4, 0.99) == 1
    assert visible_count(4, 0.05) == 3


def test_the_loss_is_that_of_the_paper():
    """Written out: full decoder with tokens put back in their places, loss over masked patches only."""
    model, images = small(), pictures(3)
    order = mask_order(KEYS, 16)
    keep, restore = order[:, :4], order.argsort(1)
    patches = patchify(images, 16)
    latents = model.encoder.encode(patches, (4, 4), keep)
    decoder = model.decoder
    x = decoder.embed(latents)
    tokens = torch.cat([x[:, 1:], decoder.mask_token.expand(3, 12, -1)], dim=1)
    x = torch.cat([x[:, :1], take(tokens, restore)], dim=1) + decoder.pos_embed
    for block in decoder.blocks:
        x = block(x)
    predicted = decoder.pred(decoder.norm(x))[:, 1:]
    target = vit.normalise(patches)
    target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6) ** 0.5
    hidden = torch.ones(3, 16).scatter(1, keep, 0.0)
    error = ((predicted - target) ** 2).mean(-1)
    expected = (error * hidden).sum() / hidden.sum()
    torch.testing.assert_close(model(images, KEYS), expected, atol=1e-5, rtol=1e-5)


def test_predicting_the_mean_of_each_patch_costs_one():
    """What a model that learnt nothing can reach: the yardstick for a loss curve."""
    model = small()
    torch.nn.init.zeros_(model.decoder.pred.weight)
    assert float(model(pictures(3), KEYS)) == pytest.approx(767 / 768, abs=1e-4)


@pytest.mark.parametrize("mask_ratio", [0.6, 0.7, 0.75])
def test_the_faithful_decoder_predicts_every_hidden_patch(mask_ratio):
    found = small(mask_ratio=mask_ratio).reconstruct(pictures(3), KEYS)
    assert found.predicted.shape[1] == 16 - visible_count(16, mask_ratio)


def test_the_cross_decoder_predicts_any_subset_alike():
    whole, part = small(cross=True), small(cross=True, predict=0.25)
    images = pictures(3)
    all_of_them, some = whole.reconstruct(images, KEYS), part.reconstruct(images, KEYS)
    assert all_of_them.predicted.shape[1] == 12
    assert some.predicted.shape[1] == 4
    assert torch.equal(some.masked, all_of_them.masked[:, :4])
    torch.testing.assert_close(some.predicted, all_of_them.predicted[:, :4])


def test_of_few_patches_one_is_predicted_at_least():
    assert small(cross=True, predict=0.01).reconstruct(pictures(3), KEYS).predicted.shape[1] == 1


def test_biases_inside_mlps_start_near_nothing_and_others_at_nothing():
    for name, parameter in build_mae(FAMILY["tiny"]).named_parameters():
        if ".mlp." in name and name.endswith("bias"):
            assert 0 < parameter.std() < 2e-6, name
        elif name.endswith(("qkv.bias", "proj.bias")):
            assert not parameter.any(), name


@pytest.mark.parametrize("cross", [False, True])
def test_every_trainable_parameter_gets_a_gradient(cross):
    model = small(cross)
    model(pictures(3), KEYS).backward()
    without = [n for n, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert without == []


def test_cpu_attention_in_bf16_is_the_fused_one():
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 4, 37, 60, dtype=torch.bfloat16)
    fused = F.scaled_dot_product_attention(q.float(), k.float(), v.float())
    torch.testing.assert_close(vit.attend(q, k, v).float(), fused, atol=0.03, rtol=0.03)


def test_attention_with_the_head_size_of_2b():
    """60 is no multiple of 8, which fused kernels pad: the result must not show it."""
    torch.manual_seed(0)
    attention, x = Attention(120, 2), torch.randn(2, 9, 120)
    q, k, v = attention.qkv(x).reshape(2, 9, 3, 2, 60).permute(2, 0, 3, 1, 4)
    weights = (q @ k.transpose(-1, -2) / 60**0.5).softmax(-1)
    torch.testing.assert_close(attention(x), attention.proj((weights @ v).transpose(1, 2).reshape(2, 9, 120)))


@pytest.mark.parametrize("name", FAMILY)
def test_every_model_of_the_family_builds_with_and_without_class_token(name):
    with torch.device("meta"):
        mae = build_mae(FAMILY[name])
        task = build_encoder(FAMILY[name], grid=(64, 48), cls_token=False, patch_padding=2)
    rows = FAMILY[name].image // 16
    assert mae.encoder.pos_embed.shape == (1, rows * rows + 1, FAMILY[name].width)
    assert task.pos_embed.shape == (1, 3072, FAMILY[name].width)
    assert not mae.encoder.pos_embed.requires_grad
