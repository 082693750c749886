"""Weights in and out: Sapiens' released files, our checkpoints, timm's names.

Inside, names are timm's; a released file is renamed on reading. Nothing loads halfway: names and shapes agree
or the file is refused. `torch.load` reads tensors and plain values only, never code.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from manifests.store import as_umask_says
from training import checkpoint
from training.config import UsageError
from training.models.mae import MAE
from training.models.vit import Grid, ViT, resize_positions
from training.models.zoo import FAMILY, Architecture, build_encoder, build_mae

LAYOUTS = ("encoder", "mae", "task", "official")

_BLOCK_NAMES = (
    (r"^layers\.(\d+)\.", r"blocks.\1."),
    (r"\.ln1\.", ".norm1."),
    (r"\.ln2\.", ".norm2."),
    (r"\.ffn\.layers\.0\.0\.", ".mlp.fc1."),
    (r"\.ffn\.layers\.1\.", ".mlp.fc2."),
)
_ENCODER_NAMES = ((r"^patch_embed\.projection\.", "patch_embed.proj."), (r"^ln1\.", "norm."), *_BLOCK_NAMES)
_DECODER_NAMES = (
    (r"^decoder_blocks\.", "layers."),
    (r"^decoder_", ""),
    (r"^ln1\.", "norm."),
    *_BLOCK_NAMES,
)

_KNOWN_GRIDS = {4096: (64, 64), 3072: (64, 48)}
"""Tokens of the released position tables: pretraining at 1024 x 1024, tasks at 1024 x 768 (rows x columns).
"""


@dataclass(frozen=True)
class Weights:
    """What a file holds, under our names. head: as stored, without its prefix; empty for pretrained files.
    facts: what is written beside the tensors.
    """

    path: str
    arch: Architecture
    grid: Grid
    patch_padding: int
    encoder: dict[str, Tensor]
    decoder: dict[str, Tensor]
    head: dict[str, Tensor]
    facts: Mapping[str, Any]

    @property
    def has_cls_token(self) -> bool:
        return "cls_token" in self.encoder


def read_weights(path: str | Path, grid: Grid | None = None, patch_padding: int | None = None) -> Weights:
    """Read a released .pth, a .safetensors file, or a checkpoint or run folder of ours; as float32, whatever is stored.

    grid: rows and columns of the stored position table, needed only where neither the file nor its token
    count says.
    patch_padding: 0 or 2, needed only for a head that was not released (see `released_padding`).
    """
    stored, facts = _read_any(Path(path))
    tensors = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in stored.items()}
    encoder, decoder, head = _sort_by_part(tensors)
    if "patch_embed.proj.weight" not in encoder or "pos_embed" not in encoder:
        raise UsageError(
            f"{path} holds no Sapiens encoder: patch_embed and pos_embed are not among its {len(tensors)} tensors "
            f"({', '.join(sorted(tensors)[:4])} …)"
        )
    tokens = encoder["pos_embed"].shape[1] - ("cls_token" in encoder)
    grid = grid or _grid_in(facts) or _KNOWN_GRIDS.get(tokens)
    if grid is None or grid[0] * grid[1] != tokens:
        raise UsageError(
            f"{path} has {tokens} positions and {'no known grid' if grid is None else f'not {grid[0]} x {grid[1]}'}; "
            "give --grid ROWSxCOLUMNS"
        )
    if patch_padding is None:
        patch_padding = int(facts["patch_padding"]) if "patch_padding" in facts else released_padding(head)
    weights = Weights(str(path), _recognise(encoder, str(path)), grid, patch_padding, encoder, decoder, head, facts)
    _check(weights)
    return weights


def load_encoder(
    path: str | Path,
    grid: Grid | None = None,
    cls_token: bool = True,
    patch_padding: int | None = None,
    stored_grid: Grid | None = None,
) -> ViT:
    """The encoder of a file, its position table resized to `grid` (default: as stored).

    cls_token=False drops the token and its position, as fine-tuning does. patch_padding=None takes what the
    weights were trained with.
    """
    weights = read_weights(path, stored_grid, patch_padding)
    if cls_token and not weights.has_cls_token:
        raise UsageError(
            f"{path} has no class token (the task encoders were trained without); load it with cls_token=False"
        )
    tensors = dict(weights.encoder)
    tensors["pos_embed"] = resize_positions(tensors["pos_embed"], weights.grid, grid or weights.grid)
    if weights.has_cls_token and not cls_token:
        del tensors["cls_token"]
        tensors["pos_embed"] = tensors["pos_embed"][:, 1:]
    with torch.device("meta"):
        encoder = build_encoder(weights.arch, grid or weights.grid, cls_token, weights.patch_padding)
    encoder.load_state_dict(tensors, assign=True)
    encoder.pos_embed.requires_grad_(False)
    return encoder


def load_mae(path: str | Path) -> MAE:
    """Encoder and decoder of one of our checkpoints or `mae` files, or of an mmengine file that still has its
    decoder.
    """
    weights = read_weights(path)
    if not weights.decoder:
        raise UsageError(
            f"{path} has no decoder of a masked autoencoder (the released files have none), so it cannot reconstruct; "
            "give a run of `sapiens-train pretrain`"
        )
    with torch.device("meta"):
        model = build_mae(
            weights.arch,
            weights.grid,
            cross="blocks.0.attn.kv.weight" in weights.decoder,
            norm_pix=str(weights.facts.get("norm_pix", True)).lower() == "true",
        )
    named = {f"encoder.{n}": t for n, t in weights.encoder.items()} | {
        f"decoder.{n}": t for n, t in weights.decoder.items()
    }
    model.load_state_dict(named, assign=True)
    for table in (model.encoder.pos_embed, model.decoder.pos_embed):
        table.requires_grad_(False)
    if "size" in weights.facts:
        model.size = parse_grid(str(weights.facts["size"]))
    return model


def write_weights(weights: Weights, path: str | Path, layout: str) -> None:
    """Write a safetensors file.

    encoder: timm's names, for `timm.models.VisionTransformer`. mae: both parts, prefixed. official: the names
    of Sapiens' released pretrained files.
    """
    if layout == "mae":
        if not weights.decoder:
            raise UsageError(f"{weights.path} has no decoder; write the layout 'encoder' or 'official'")
        tensors = {f"encoder.{n}": t for n, t in weights.encoder.items()}
        tensors |= {f"decoder.{n}": t for n, t in weights.decoder.items()}
    elif layout == "official":
        tensors = {official_name(n): t for n, t in weights.encoder.items()}
    else:
        tensors = dict(weights.encoder)
    facts = {
        "model": weights.arch.name,
        "grid": f"{weights.grid[0]}x{weights.grid[1]}",
        "patch_padding": str(weights.patch_padding),
        "layout": layout,
    }
    if layout == "mae":
        facts["norm_pix"] = str(weights.facts.get("norm_pix", True))
        if "size" in weights.facts:
            facts["size"] = str(weights.facts["size"])
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata=facts)
    as_umask_says(Path(path))


def released_padding(head: Mapping[str, Tensor]) -> int:
    """Padding of the patch convolution in Sapiens' released configurations, told by the head that came with
    the encoder.

    2 for pose (every keypoint set), surface normals, and parts with 20 classes (CIHP, LIP); 0 for
    pretraining, depth and the 28 classes of Goliath. The wrong one loads without a word and shifts every
    token by 2 pixels.
    """
    if not head:
        return 0
    if any(name.startswith("final_layer.") for name in head):
        return 2
    classes = head["conv_seg.weight"].shape[0] if "conv_seg.weight" in head else -1
    if classes not in (1, 3, 20, 28):
        raise UsageError(
            f"this head has {classes} output channels, which no released model has, so the padding of its patch "
            "convolution is not known; give --patch-padding 0 or 2"
        )
    return {1: 0, 3: 2, 20: 2, 28: 0}[classes]


def official_name(name: str) -> str:
    """Name of an encoder tensor in Sapiens' released pretrained files."""
    name = re.sub(r"^norm\.", "ln1.", name)
    name = name.replace("patch_embed.proj.", "patch_embed.projection.").replace("blocks.", "layers.")
    name = name.replace(".norm1.", ".ln1.").replace(".norm2.", ".ln2.")
    return name.replace(".mlp.fc1.", ".ffn.layers.0.0.").replace(".mlp.fc2.", ".ffn.layers.1.")


def _renamed(name: str, rules: tuple[tuple[str, str], ...]) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def _sort_by_part(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """Tensors of encoder, decoder and head under our names, from any of the known layouts."""
    encoder, decoder, head = {}, {}, {}
    for name, tensor in tensors.items():
        part, _, rest = name.partition(".")
        if part == "data_preprocessor":
            continue
        if part in ("head", "decode_head"):
            head[rest] = tensor
        elif part == "neck":
            decoder[_renamed(rest, _DECODER_NAMES)] = tensor
        elif part == "decoder":
            decoder[rest] = tensor
        else:
            encoder[_renamed(rest if part in ("backbone", "encoder") else name, _ENCODER_NAMES)] = tensor
    return encoder, decoder, head


def _recognise(encoder: Mapping[str, Tensor], path: str) -> Architecture:
    width = encoder["patch_embed.proj.weight"].shape[0]
    depth = len({name.split(".")[1] for name in encoder if name.startswith("blocks.")})
    for arch in FAMILY.values():
        if arch.width == width and abs(arch.depth - depth) <= arch.depth // 2:  # some blocks may be missing: said below
            return arch
    known = ", ".join(f"{a.name} ({a.width} wide, {a.depth} deep)" for a in FAMILY.values())
    raise UsageError(f"{path} holds an encoder {width} wide and {depth} blocks deep; known are {known}")


def _check(weights: Weights) -> None:
    """Refuse what does not have exactly the tensors of its model, in their shapes."""
    with torch.device("meta"):
        cross = "blocks.0.attn.kv.weight" in weights.decoder
        encoder = build_encoder(weights.arch, weights.grid, weights.has_cls_token)
        decoder = build_mae(weights.arch, weights.grid, cross=cross).decoder
    parts: list[tuple[nn.Module, dict[str, Tensor]]] = [(encoder, weights.encoder)]
    if weights.decoder:
        parts.append((decoder, weights.decoder))
    for module, tensors in parts:
        expected = {name: list(tensor.shape) for name, tensor in module.state_dict().items()}
        checkpoint.compare_names(set(tensors), set(expected), weights.path)
        for name, shape in expected.items():
            if list(tensors[name].shape) != shape:
                raise UsageError(
                    f"{weights.path} is not a sapiens-{weights.arch.name}: {name} is {list(tensors[name].shape)}, "
                    f"expected {shape}"
                )


def parse_grid(text: str) -> Grid:
    """Rows and columns from text such as 64x48."""
    if not re.fullmatch(r"\d+x\d+", text):
        raise UsageError(f"grid is '{text}'; give rows x columns of patches, such as 64x48")
    rows, columns = text.split("x")
    return int(rows), int(columns)


def _grid_in(facts: Mapping[str, Any]) -> Grid | None:
    return parse_grid(str(facts["grid"])) if "grid" in facts else None


def _read_any(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors of a file or folder and the facts stored beside them."""
    if path.is_dir():
        return _read_folder(path)
    if not path.is_file():
        raise UsageError(f"{path} does not exist; give a .pth or .safetensors file, or a checkpoint or run folder")
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, framework="pt") as file:
                names = file.keys()
                return {name: file.get_tensor(name) for name in names}, dict(file.metadata() or {})
        except SafetensorError as error:
            raise UsageError(f"{path} is not a whole safetensors file: {error}") from error
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise UsageError(
            f"{path} is no file of plain tensors; give a .pth or .safetensors file, or a checkpoint or run folder "
            "(a .pth that holds other Python objects must be saved again with its 'state_dict' only)"
        ) from error
    loaded = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else {}
    return {name: value for name, value in loaded.items() if isinstance(value, Tensor)}, {}


def _read_folder(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A checkpoint folder, or the newest checkpoint of a run folder; either way one that verifies. Weights of which the
    run keeps an average are that average.
    """
    if (path / "manifest.json").is_file():
        manifest = checkpoint.verify(path)
    else:
        found = checkpoint.newest(path / "ckpt")
        if found is None:
            raise UsageError(f"{path} is neither a checkpoint nor a run folder with one")
        path, manifest = found, checkpoint.read_manifest(found)
    weights: dict[str, Tensor] = {}
    for part in ("model.", "average."):
        tensors = {
            name: torch.empty(entry["shape"], dtype=getattr(torch, entry["dtype"]))
            for name, entry in manifest["tensors"].items()
            if name.startswith(part)
        }
        checkpoint.load(path, tensors, part=part)
        weights |= {name.removeprefix(part): tensor for name, tensor in tensors.items()}
    return weights, {**manifest["weights"], "size": manifest["identity"]["size"]}
