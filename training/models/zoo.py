"""The family of models, and those it is compared with."""

from dataclasses import dataclass

import torch

from training.models.mae import MAE, Decoder
from training.models.vit import Grid, ViT

PATCH = 16


@dataclass(frozen=True)
class Architecture:
    """Sizes of one model. image: its native square resolution in pixels. batch: images per optimiser step of
    pretraining. head_width: channels of the task decoders.
    """

    name: str
    width: int
    depth: int
    heads: int
    image: int = 1024
    decoder_width: int = 512
    decoder_depth: int = 8
    decoder_heads: int = 16
    batch: int = 4096
    head_width: int = 768

    @property
    def grid(self) -> Grid:
        return (self.image // PATCH, self.image // PATCH)

    @property
    def task_size(self) -> tuple[int, int]:
        """Rows and columns in pixels of what the tasks see: three quarters as wide as high."""
        return (self.image, self.image * 3 // 4)


FAMILY = {
    model.name: model
    for model in (
        Architecture(
            "tiny", 256, 6, 4, image=256, decoder_width=128, decoder_depth=4, decoder_heads=4, batch=128, head_width=48
        ),
        Architecture("0.3b", 1024, 24, 16),
        Architecture("0.6b", 1280, 32, 16),
        Architecture("1b", 1536, 40, 24),
        Architecture("2b", 1920, 48, 32),
    )
}


def build_encoder(arch: Architecture, grid: Grid | None = None, cls_token: bool = True, patch_padding: int = 0) -> ViT:
    """The encoder with fresh weights on torch's default device. grid: of its position table; default: the
    native one.
    """
    return ViT(
        arch.width,
        arch.depth,
        arch.heads,
        grid or arch.grid,
        PATCH,
        cls_token=cls_token,
        patch_padding=patch_padding,
    )


def build_mae(
    arch: Architecture,
    grid: Grid | None = None,
    cross: bool = False,
    mask_ratio: float = 0.75,
    predict_ratio: float | None = None,
    norm_pix: bool = True,
) -> MAE:
    """Encoder and decoder with fresh weights on torch's default device."""
    decoder = Decoder(
        arch.width,
        arch.decoder_width,
        arch.decoder_depth,
        arch.decoder_heads,
        grid or arch.grid,
        PATCH,
        cross=cross,
    )
    return MAE(build_encoder(arch, grid), decoder, mask_ratio, predict_ratio, norm_pix)


def parameter_counts(arch: Architecture) -> tuple[int, int]:
    """Parameters of encoder and decoder, position tables included (as the published totals), counted on the
    real modules.
    """
    with torch.device("meta"):
        model = build_mae(arch)
    return (
        sum(p.numel() for p in model.encoder.parameters()),
        sum(p.numel() for p in model.decoder.parameters()),
    )


@dataclass(frozen=True)
class Published:
    """A model of someone else, as published. params in 10**9; macs: 10**12 multiply-adds without attention,
    as papers print them.
    """

    name: str
    data: str
    images: str
    resolution: str
    params: float
    macs: float
    source: str


COMPARED = (
    Published("DINOv2-g", "LVD-142M", "142M", "224", 1.1, 0.291, "Sapiens paper, table 1"),
    Published("ViT-6.5B (MAWS)", "IG-3B", "3B", "224", 6.5, 1.657, "Sapiens paper, table 1"),
    Published("AIM-6.5B", "DFN-2B+", "2B", "224", 6.5, 1.657, "Sapiens paper, table 1"),
    Published("Sapiens2-0.1B", "Humans-1B", "1B", "1024x768", 0.114, 0.342, "Sapiens2 paper"),
    Published("Sapiens2-0.4B", "Humans-1B", "1B", "1024x768", 0.398, 1.260, "Sapiens2 paper"),
    Published("Sapiens2-0.8B", "Humans-1B", "1B", "1024x768", 0.818, 2.592, "Sapiens2 paper"),
    Published("Sapiens2-1B", "Humans-1B", "1B", "1024x768", 1.462, 4.715, "Sapiens2 paper"),
    Published("Sapiens2-5B", "Humans-1B", "1B", "1024x768", 5.071, 15.722, "Sapiens2 paper"),
)
