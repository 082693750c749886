"""The task decoders of Sapiens: deconvolutions, 1 x 1 convolutions, and one value per channel and pixel.

Tensors have the names and shapes of the released state dicts (`deconv_layers.0.weight` …), so those load
unchanged. Every hidden layer is followed by InstanceNorm without parameters and SiLU. Sources: the released
configurations of sapiens_pose, sapiens_seg, sapiens_depth and sapiens_normal.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from training.models.zoo import Architecture


@dataclass(frozen=True)
class HeadShape:
    """Layers of one task's decoder. ups: deconvolutions, each doubling the grid. half: half the usual width."""

    prefix: str  # of its tensors in released files
    last: str  # name of the last layer
    ups: int
    convs: int
    half: bool = False
    dropout: float = 0.0


HEADS = {
    "pose": HeadShape("head", "final_layer", ups=2, convs=2),
    "parts": HeadShape("decode_head", "conv_seg", ups=3, convs=3, dropout=0.1),
    "depth": HeadShape("decode_head", "conv_seg", ups=4, convs=2, half=True, dropout=0.1),
    "normals": HeadShape("decode_head", "conv_seg", ups=3, convs=3),
}
"""One decoder per task; with patches of 16 px its output has 1/4, 1/2, 1/1 and 1/2 of the input's sides."""


class Head(nn.Module):
    """Feature maps (B, D, h, w) → (B, channels, h·2^ups, w·2^ups)."""

    def __init__(self, task: str, arch: Architecture, channels: int) -> None:
        super().__init__()
        shape = HEADS[task]
        width = arch.head_width // 2 if shape.half else arch.head_width
        ups: list[nn.Module] = []
        convs: list[nn.Module] = []
        for i in range(shape.ups):
            up = nn.ConvTranspose2d(width if i else arch.width, width, 4, stride=2, padding=1, bias=False)
            ups += [up, nn.InstanceNorm2d(width), nn.SiLU()]
        for _ in range(shape.convs):
            convs += [nn.Conv2d(width, width, 1), nn.InstanceNorm2d(width), nn.SiLU()]
        self.deconv_layers = nn.Sequential(*ups)
        self.conv_layers = nn.Sequential(*convs)
        self.dropout = nn.Dropout2d(shape.dropout)
        self.add_module(shape.last, nn.Conv2d(width, channels, 1))
        self._last = shape.last
        self._initialise(task)

    def forward(self, features: Tensor) -> Tensor:
        x = self.dropout(self.conv_layers(self.deconv_layers(features)))
        return self.get_submodule(self._last)(x)

    def _initialise(self, task: str) -> None:
        """Pose: normal(0.001) everywhere; the others: torch's default, and normal(0.01) in the last layer.

        The depth bias starts in the middle of the range 0 … 1: its loss has no gradient where the output is
        not positive.
        """
        if task == "pose":
            for layer in self.modules():
                if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                    nn.init.normal_(layer.weight, std=0.001)
        last = self.get_submodule(self._last)
        assert isinstance(last, nn.Conv2d)
        assert last.bias is not None
        nn.init.normal_(last.weight, std=0.001 if task == "pose" else 0.01)
        nn.init.constant_(last.bias, 0.5 if task == "depth" else 0.0)
