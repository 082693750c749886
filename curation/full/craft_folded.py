"""CRAFT (arXiv 1904.01941) with what is linear in it multiplied out: the same maps for a twentieth fewer products.

Batch normalisation goes into the convolution before it. The dilated convolution, the 1 x 1 convolution after it and the
decoder's first one have nothing between them, so they are one. And a 1 x 1 convolution of an enlarged map is the
enlarged convolution of the map, at a quarter of the work.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, relu
from torch.nn.utils.fusion import fuse_conv_bn_eval

SKIPS = 4, 6, 9
"""After so many activations the decoder sees the backbone: VGG16's conv2_2, conv3_2 and conv4_2."""


class Folded(nn.Module):
    """float32 [B,3,H,W], sides that 32 divides → [B,H/2,W/2,2], chance of a character and of a link between two.

    `craft`: EasyOCR's, in evaluation mode. It is not changed.
    """

    def __init__(self, craft: Any) -> None:
        super().__init__()
        base, decoder = craft.basenet, [craft.upconv1, craft.upconv2, craft.upconv3, craft.upconv4]
        self.backbone = nn.Sequential(*_normalised([*base.slice1, *base.slice2, *base.slice3, *base.slice4]))
        steps = [_normalised(step.conv) for step in decoder]
        self.pool, dilated, last = base.slice5
        below = [last.out_channels] + [step[2].out_channels for step in steps[:-1]]
        halves = [_halves(step[0], channels) for step, channels in zip(steps, below, strict=True)]
        self.below = nn.ModuleList([_product(halves[0][0], _product(last, dilated)), *(half for half, _ in halves[1:])])
        self.beside = nn.ModuleList([half for _, half in halves])
        self.joined = nn.ModuleList([step[2] for step in steps])
        self.answer = craft.conv_cls

    def forward(self, x: Tensor) -> Tensor:
        seen: list[Tensor] = []
        for layer in self.backbone:
            x = relu(x) if isinstance(layer, nn.ReLU) else layer(x)  # EasyOCR's write over their input
            if isinstance(layer, nn.ReLU):
                seen.append(x)
        y = relu(self.joined[0](relu(self.below[0](self.pool(x)) + self.beside[0](x))))
        for number, skip in enumerate(reversed(SKIPS), 1):
            larger = interpolate(self.below[number](y), scale_factor=2.0, mode="bilinear", align_corners=False)
            y = relu(self.joined[number](relu(larger + self.beside[number](seen[skip - 1]))))
        return self.answer(y).permute(0, 2, 3, 1)


def _normalised(layers: Any) -> list[Any]:
    """The layers, each normalisation multiplied into the convolution before it."""
    done: list[Any] = []
    for layer in layers:
        if isinstance(layer, nn.BatchNorm2d):
            done[-1] = fuse_conv_bn_eval(done[-1], layer)
        else:
            done.append(layer)
    return done


def _halves(both: nn.Conv2d, first: int) -> tuple[nn.Conv2d, nn.Conv2d]:
    """A 1 x 1 convolution of two maps' channels as the sum of one of each: the `first` channels', without the bias, and
    the others'."""
    parts: list[nn.Conv2d] = []
    for weight in both.weight.split([first, both.in_channels - first], 1):
        part = nn.Conv2d(weight.shape[1], both.out_channels, 1, bias=bool(parts))
        part.weight = nn.Parameter(weight.detach().clone())
        parts.append(part)
    parts[1].bias = both.bias
    return parts[0], parts[1]


@torch.no_grad()
def _product(after: Any, before: Any) -> nn.Conv2d:
    """One convolution for two, the second of 1 x 1; computed in float64."""
    mixing = after.weight[:, :, 0, 0].double()
    product = nn.Conv2d(
        before.in_channels, after.out_channels, before.kernel_size, padding=before.padding, dilation=before.dilation
    )
    bias = mixing @ before.bias.double() + (0 if after.bias is None else after.bias.double())
    product.weight = nn.Parameter(torch.einsum("om,mihw->oihw", mixing, before.weight.double()).float())
    product.bias = nn.Parameter(bias.float())
    return product
