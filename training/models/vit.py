"""The Sapiens vision transformer: a plain pre-norm ViT with fixed 2-D sine-cosine positions.

Images are uint8 (or float 0 … 255) tensors of shape (B, H, W, 3); normalisation happens inside, on the
device. Parameters carry timm's names, so exported weights load there unchanged.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)

Grid = tuple[int, int]
"""Rows and columns of patches."""


def patchify(images: Tensor, patch: int) -> Tensor:
    """(B, H, W, 3) → (B, H/p·W/p, p·p·3), rows first; pixels inside a patch in (row, column, colour) order."""
    b, height, width, colours = images.shape
    if height % patch or width % patch:
        raise ValueError(f"an image of {height} x {width} px does not divide into patches of {patch} px")
    rows, columns = height // patch, width // patch
    patches = images.reshape(b, rows, patch, columns, patch, colours).permute(0, 1, 3, 2, 4, 5)
    return patches.reshape(b, rows * columns, patch * patch * colours)


def unpatchify(patches: Tensor, grid: Grid, patch: int) -> Tensor:
    """The inverse of `patchify`."""
    b, (rows, columns) = patches.shape[0], grid
    pixels = patches.reshape(b, rows, columns, patch, patch, 3).permute(0, 1, 3, 2, 4, 5)
    return pixels.reshape(b, rows * patch, columns * patch, 3)


def take(tokens: Tensor, index: Tensor) -> Tensor:
    """Tokens (B, N, D) at the indices (B, K) of each image: (B, K, D)."""
    return tokens.gather(1, index.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))


def sincos_positions(grid: Grid, width: int, cls_token: bool) -> Tensor:
    """(1, [1+]rows·columns, width) float32: quarters [sin r, cos r, sin c, cos c], temperature 10 000, class
    token zeros.
    """
    omega = 10_000.0 ** -(torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    rows, columns = torch.meshgrid(
        torch.arange(grid[0], dtype=torch.float64), torch.arange(grid[1], dtype=torch.float64), indexing="ij"
    )
    angles = [place.flatten()[:, None] * omega for place in (rows, columns)]
    table = torch.cat([f(angle) for angle in angles for f in (torch.sin, torch.cos)], dim=1)
    if cls_token:
        table = torch.cat([torch.zeros(1, width, dtype=torch.float64), table])
    return table.float()[None]


def resize_positions(table: Tensor, old: Grid, new: Grid) -> Tensor:
    """Position table for another grid as Sapiens does it: bicubic, no antialias, float32; class-token rows
    stay.

    Both grids are given, never guessed: 64 x 48 and 48 x 64 have the same number of tokens.
    """
    if old == new:
        return table
    prefix = table.shape[1] - old[0] * old[1]
    if prefix not in (0, 1):
        raise ValueError(f"{table.shape[1]} positions do not fit a grid of {old[0]} x {old[1]}")
    places = table[:, prefix:].float().reshape(1, *old, -1).permute(0, 3, 1, 2)
    places = F.interpolate(places, size=new, mode="bicubic", align_corners=False, antialias=False)
    places = places.permute(0, 2, 3, 1).reshape(1, new[0] * new[1], -1)
    return torch.cat([table[:, :prefix], places.to(table.dtype)], dim=1)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax attention over (B, heads, N, d): fused, but for short bf16 sequences on a CPU.

    There the backward pass of the fused kernel takes 2 to 5 times as long as plain matrix products
    (benchmarks/pretrain.py).
    """
    short = q.shape[-2] * k.shape[-2] <= 512 * 512
    if q.device.type == "cpu" and q.dtype == torch.bfloat16 and short:
        with torch.autocast("cpu", enabled=False):  # it would make float32 copies of the scores
            scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
            return scores.softmax(-1) @ v
    return F.scaled_dot_product_attention(q, k, v)


class PatchEmbed(nn.Module):
    """A strided convolution, applied as one matrix product to the patches that are asked for."""

    def __init__(self, width: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch, patch)

    def forward(self, patches: Tensor) -> Tensor:
        weight = self.proj.weight.permute(0, 2, 3, 1).flatten(1)  # (D, 3, p, p) → (D, p·p·3)
        return F.linear(patches, weight, self.proj.bias)


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, n, width = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        x = attend(q, k, v)
        return self.proj(x.transpose(1, 2).reshape(b, n, width))


class Mlp(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """Pre-norm block: x + attn(norm1(x)), then x + mlp(norm2(x))."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = Mlp(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ViT(nn.Module):
    """The encoder.

    grid: patches of the native resolution, the size of the position table; other sizes resize it as they
    come.
    cls_token: as in pretraining; the fine-tuned Sapiens encoders have none.
    patch_padding: pixels the patch grid is shifted by (0 or 2). The released pose and normal encoders were
    trained with the padded
    convolution, those for pretraining, parts and depth without: weights of one read through the other load
    silently and do worse.
    """

    def __init__(
        self,
        width: int,
        depth: int,
        heads: int,
        grid: Grid,
        patch: int = 16,
        cls_token: bool = True,
        patch_padding: int = 0,
    ) -> None:
        super().__init__()
        self.grid, self.patch, self.patch_padding = grid, patch, patch_padding
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width)) if cls_token else None
        self.pos_embed = nn.Parameter(sincos_positions(grid, width, cls_token), requires_grad=False)
        self.patch_embed = PatchEmbed(width, patch)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        if self.cls_token is not None:
            nn.init.normal_(self.cls_token, std=0.02)
        initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        """(B, H, W, 3) uint8 or float 0 … 255 → (B, [1+]H/p·W/p, D): the class token, where there is one,
        comes first.
        """
        grid = (images.shape[1] // self.patch, images.shape[2] // self.patch)
        return self.encode(patchify(self._shifted(images), self.patch), grid)

    def encode(self, patches: Tensor, grid: Grid, keep: Tensor | None = None) -> Tensor:
        """Tokens of raw patches (B, N, p·p·3), or only of those at the indices keep (B, V): (B, [1+]V, D),
        normed.
        """
        positions = resize_positions(self.pos_embed, self.grid, grid)
        prefix = 0 if self.cls_token is None else 1
        places = positions[:, prefix:].expand(patches.shape[0], -1, -1)  # len() would fix the batch on export
        if keep is not None:
            patches, places = take(patches, keep), take(places, keep)
        x = self.patch_embed(normalise(patches)) + places
        if self.cls_token is not None:
            x = torch.cat([(self.cls_token + positions[:, :1]).expand(x.shape[0], -1, -1), x], dim=1)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def _shifted(self, images: Tensor) -> Tensor:
        """The image moved down and right by `patch_padding`, the rim filled with the mean colour: a padded
        convolution.
        """
        if not self.patch_padding:
            return images
        shift = self.patch_padding
        canvas = images.new_tensor(IMAGENET_MEAN, dtype=torch.float32).expand(images.shape).clone()
        canvas[:, shift:, shift:] = images[:, :-shift, :-shift].float()
        return canvas


def normalise(patches: Tensor) -> Tensor:
    """Raw patches (…, p·p·3) in 0 … 255 → float32 with ImageNet's mean and deviation."""
    mean, std = (torch.tensor(colour, device=patches.device) for colour in (IMAGENET_MEAN, IMAGENET_STD))
    repeats = patches.shape[-1] // 3
    return torch.addcmul((-mean / std).repeat(repeats), patches.float(), (1 / std).repeat(repeats))


def initialise(module: nn.Module) -> None:
    """Xavier-uniform matrices (the patch embedding as one too), zero biases, unit norms; biases inside MLPs
    normal(1e-6).
    """
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    for layer in module.modules():  # apart, as an Mlp comes before its own layers
        if isinstance(layer, nn.Linear | nn.Conv2d):
            nn.init.xavier_uniform_(layer.weight.view(layer.weight.shape[0], -1))
        if isinstance(layer, Mlp):
            nn.init.normal_(layer.fc1.bias, std=1e-6)
            nn.init.normal_(layer.fc2.bias, std=1e-6)
