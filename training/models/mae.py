"""Masked autoencoding as Sapiens does it (paper §3.2; He et al. 2022): hide 75 % of the patches, predict
their pixels.

The encoder embeds the visible patches only. Everything has a static shape: which patches are visible comes
from an argsort of random numbers, and the numbers from one integer key per image, so a mask belongs to a
sample and not to a device.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.models.vit import (
    Block,
    Grid,
    Mlp,
    ViT,
    attend,
    initialise,
    normalise,
    patchify,
    resize_positions,
    sincos_positions,
    take,
)


@dataclass(frozen=True)
class Reconstruction:
    """What the model thinks of some hidden patches.

    predicted: (B, K, p·p·3) in the space of the targets. target: the same, what it should be. masked: (B, K)
    their indices.
    """

    predicted: Tensor
    target: Tensor
    masked: Tensor


def mask_order(keys: Tensor, patches: int) -> Tensor:
    """A random order of the patches for each image: keys (B,) int64 → (B, patches) int64. The first ones stay
    visible.

    The draws are those of `shards.draws` in two's complement, so that CPU and GPU agree to the bit.
    """

    def shifted(x: Tensor, places: int) -> Tensor:
        return (x >> places) & ((1 << (64 - places)) - 1)  # torch shifts the sign in; a mask takes it out again

    counters = torch.arange(1, patches + 1, device=keys.device) * -0x61C8864680B583EB
    x = keys[:, None] + counters
    x = (x ^ shifted(x, 30)) * -0x40A7B892E31B1A47
    x = (x ^ shifted(x, 27)) * -0x6B2FB644ECCEEE15
    return (x ^ shifted(x, 31)).argsort(dim=1, stable=True)


class CrossAttention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        b, n, width = x.shape
        head = width // self.heads
        q = self.q(x).reshape(b, n, self.heads, head).transpose(1, 2)
        k, v = self.kv(memory).reshape(b, -1, 2, self.heads, head).permute(2, 0, 3, 1, 4)
        x = attend(q, k, v)
        return self.proj(x.transpose(1, 2).reshape(b, n, width))


class CrossBlock(nn.Module):
    """x + cross(norm1(x), memory), then x + mlp(norm2(x)): mask tokens read the latents, never each other."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = CrossAttention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = Mlp(width)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x), memory)
        return x + self.mlp(self.norm2(x))


class Decoder(nn.Module):
    """Predicts hidden patches from visible latents.

    Faithful (`cross=False`): latents and mask tokens attend to each other, as in the paper. Attention does
    not see the order of
    its tokens, so the masked ones simply follow the visible ones with their own positions: the same result as
    putting them back in place, without the two shuffles. `cross=True`: CrossMAE's decoder (Fu et al. 2024):
    mask tokens read the latents and never each other, so that any subset of them can be predicted for a part
    of the cost.
    """

    def __init__(
        self,
        encoder_width: int,
        width: int,
        depth: int,
        heads: int,
        grid: Grid,
        patch: int = 16,
        cross: bool = False,
    ) -> None:
        super().__init__()
        self.grid, self.cross = grid, cross
        self.embed = nn.Linear(encoder_width, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(sincos_positions(grid, width, cls_token=True), requires_grad=False)
        block = CrossBlock if cross else Block
        self.blocks = nn.ModuleList(block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.pred = nn.Linear(width, patch * patch * 3)
        nn.init.normal_(self.mask_token, std=0.02)
        initialise(self)

    def forward(self, latents: Tensor, grid: Grid, visible: Tensor, masked: Tensor) -> Tensor:
        """latents (B, 1+V, D), visible (B, V) and masked (B, K) indices → predictions (B, K, p·p·3)."""
        positions = resize_positions(self.pos_embed, self.grid, grid)
        places = positions[:, 1:].expand(len(latents), -1, -1)
        seen = self.embed(latents) + torch.cat(
            [positions[:, :1].expand(len(latents), -1, -1), take(places, visible)], dim=1
        )
        hidden = self.mask_token + take(places, masked)
        if self.cross:
            for block in self.blocks:
                hidden = block(hidden, seen)
        else:
            tokens = torch.cat([seen, hidden], dim=1)
            for block in self.blocks:
                tokens = block(tokens)
            hidden = tokens[:, seen.shape[1] :]
        return self.pred(self.norm(hidden))


class MAE(nn.Module):
    """Encoder and decoder with the masked loss.

    mask_ratio: share of the patches that are hidden. predict_ratio: share of all patches that are predicted,
    at most mask_ratio; less than that only with the cross decoder. norm_pix: targets are normalised patch by
    patch. `size`: rows and columns in pixels of the images it was trained on.
    """

    def __init__(
        self,
        encoder: ViT,
        decoder: Decoder,
        mask_ratio: float = 0.75,
        predict_ratio: float | None = None,
        norm_pix: bool = True,
    ) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        self.mask_ratio, self.norm_pix = mask_ratio, norm_pix
        self.predict_ratio = mask_ratio if predict_ratio is None else predict_ratio
        self.size = (encoder.grid[0] * encoder.patch, encoder.grid[1] * encoder.patch)

    def forward(self, images: Tensor, mask_keys: Tensor) -> Tensor:
        """Mean squared error over the predicted patches, a float32 scalar.

        images: (B, H, W, 3) uint8. mask_keys: (B,) int64.
        """
        guess = self.reconstruct(images, mask_keys)
        return F.mse_loss(guess.predicted.float(), guess.target)

    def reconstruct(self, images: Tensor, mask_keys: Tensor, mask_ratio: float | None = None) -> Reconstruction:
        """Predictions for the hidden patches, with another masking ratio if one is given (then for all of
        them).
        """
        patch = self.encoder.patch
        grid = (images.shape[1] // patch, images.shape[2] // patch)
        patches = patchify(images, patch)
        order = mask_order(mask_keys, patches.shape[1])
        keep = visible_count(patches.shape[1], self.mask_ratio if mask_ratio is None else mask_ratio)
        hidden = patches.shape[1] - keep
        if mask_ratio is None and self.decoder.cross:
            hidden = min(hidden, max(round(patches.shape[1] * self.predict_ratio), 1))
        visible, masked = order[:, :keep], order[:, keep : keep + hidden]

        latents = self.encoder.encode(patches, grid, visible)
        predicted = self.decoder(latents, grid, visible, masked)
        return Reconstruction(predicted, self.target(take(patches, masked)), masked)

    def target(self, patches: Tensor) -> Tensor:
        """What is to be predicted for raw patches (…, p·p·3), float32 (paper §3.2; unbiased variance, as MAE
        and Sapiens).
        """
        pixels = normalise(patches)
        if not self.norm_pix:
            return pixels
        # (x - mean) / sqrt(unbiased variance + 1e-6), written as the one fused kernel that has the biased
        # variance
        n = pixels.shape[-1]
        return F.layer_norm(pixels, (n,), eps=1e-6 * (n - 1) / n) * ((n - 1) / n) ** 0.5


def visible_count(patches: int, mask_ratio: float) -> int:
    """Patches that stay visible; at least one, and at least one is hidden."""
    return min(max(int(patches * (1 - mask_ratio) + 1e-9), 1), patches - 1)
