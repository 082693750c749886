"""Released layouts load, what is wrong is refused by name, and what is written reads back."""

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from training import checkpoint
from training.config import UsageError
from training.models.convert import load_encoder, load_mae, official_name, parse_grid, read_weights, write_weights
from training.models.zoo import FAMILY, build_encoder, build_mae
from training.pretrain import pretrain

TINY = FAMILY["tiny"]


def official_encoder(arch_name: str, cls_token: bool = True, grid=(16, 16)) -> dict[str, Tensor]:
    """Random weights under the names that the released pretrained files have, written out independently of the code."""
    a = FAMILY[arch_name]
    d, tokens = a.width, grid[0] * grid[1] + cls_token
    shapes = {
        "pos_embed": (1, tokens, d),
        "patch_embed.projection.weight": (d, 3, 16, 16),
        "patch_embed.projection.bias": (d,),
        "ln1.weight": (d,),
        "ln1.bias": (d,),
    }
    if cls_token:
        shapes["cls_token"] = (1, 1, d)
    for i in range(a.depth):
        shapes |= {
            f"layers.{i}.ln1.weight": (d,),
            f"layers.{i}.ln1.bias": (d,),
            f"layers.{i}.attn.qkv.weight": (3 * d, d),
            f"layers.{i}.attn.qkv.bias": (3 * d,),
            f"layers.{i}.attn.proj.weight": (d, d),
            f"layers.{i}.attn.proj.bias": (d,),
            f"layers.{i}.ln2.weight": (d,),
            f"layers.{i}.ln2.bias": (d,),
            f"layers.{i}.ffn.layers.0.0.weight": (4 * d, d),
            f"layers.{i}.ffn.layers.0.0.bias": (4 * d,),
            f"layers.{i}.ffn.layers.1.weight": (d, 4 * d),
            f"layers.{i}.ffn.layers.1.bias": (d,),
        }
    device = "cpu" if arch_name == "tiny" else "meta"
    return {name: torch.randn(shape, device=device) * 0.02 for name, shape in shapes.items()}


HEADS = {
    "pose": ({"head.deconv_layers.0.weight": (256, 8, 4, 4), "head.final_layer.weight": (17, 8, 1, 1)}, 2),
    "parts": ({"decode_head.conv_seg.weight": (28, 8, 1, 1), "decode_head.conv_seg.bias": (28,)}, 0),
    "cihp": ({"decode_head.conv_seg.weight": (20, 8, 1, 1)}, 2),
    "normals": ({"decode_head.conv_seg.weight": (3, 8, 1, 1)}, 2),
    "depth": ({"decode_head.conv_seg.weight": (1, 8, 1, 1)}, 0),
}


def task_file(path, head, grid=(16, 12)):
    state = {f"backbone.{n}": t for n, t in official_encoder("tiny", cls_token=False, grid=grid).items()}
    state |= {n: torch.zeros(shape) for n, shape in head.items()}
    state["data_preprocessor.mean"] = torch.zeros(3)
    torch.save({"state_dict": state, "meta": {"epoch": 7, "cfg": "model = dict()"}}, path)
    return state


@pytest.mark.parametrize("name", FAMILY)
def test_official_names_cover_the_model_exactly_at_every_size(name):
    rows = FAMILY[name].image // 16
    stored = official_encoder(name, grid=(rows, rows))
    with torch.device("meta"):
        model = build_encoder(FAMILY[name]).state_dict()
    assert {official_name(n): t.shape for n, t in model.items()} == {n: t.shape for n, t in stored.items()}


def test_a_released_pretrained_file_loads_and_computes_alike(tmp_path):
    stored = official_encoder("tiny")
    torch.save(stored, tmp_path / "clean.pth")
    encoder = load_encoder(tmp_path / "clean.pth", stored_grid=(16, 16))
    assert torch.equal(encoder.blocks[5].mlp.fc2.weight, stored["layers.5.ffn.layers.1.weight"])
    assert torch.equal(encoder.norm.bias, stored["ln1.bias"])
    assert torch.equal(encoder.blocks[0].norm1.weight, stored["layers.0.ln1.weight"])
    assert encoder(torch.zeros(1, 256, 256, 3, dtype=torch.uint8)).shape == (1, 257, 256)


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16])
def test_a_file_of_half_the_size_trains_as_float32(tmp_path, stored):
    state = {name: tensor.to(stored) for name, tensor in official_encoder("tiny").items()}
    save_file(state, tmp_path / "half.safetensors")
    encoder = load_encoder(tmp_path / "half.safetensors", stored_grid=(16, 16))
    assert {parameter.dtype for parameter in encoder.parameters()} == {torch.float32}
    assert torch.equal(encoder.blocks[0].attn.qkv.weight, state["layers.0.attn.qkv.weight"].float())
    assert encoder(torch.zeros(1, 256, 256, 3, dtype=torch.uint8)).isfinite().all()


@pytest.mark.parametrize("task", HEADS)
def test_a_task_file_loads_with_the_padding_it_was_trained_with(tmp_path, task):
    head, padding = HEADS[task]
    state = task_file(tmp_path / "task.pth", head)
    weights = read_weights(tmp_path / "task.pth", grid=(16, 12))
    assert weights.patch_padding == padding
    assert set(weights.head) == {n.split(".", 1)[1] for n in head}
    encoder = load_encoder(tmp_path / "task.pth", cls_token=False, stored_grid=(16, 12))
    assert encoder.patch_padding == padding
    assert torch.equal(encoder.pos_embed, state["backbone.pos_embed"])
    with pytest.raises(UsageError, match="no class token"):
        load_encoder(tmp_path / "task.pth", stored_grid=(16, 12))


def test_an_unknown_head_wants_its_padding_told(tmp_path):
    task_file(tmp_path / "task.pth", {"decode_head.conv_seg.weight": (19, 8, 1, 1)})
    with pytest.raises(UsageError, match="give --patch-padding 0 or 2"):
        read_weights(tmp_path / "task.pth", grid=(16, 12))
    assert read_weights(tmp_path / "task.pth", grid=(16, 12), patch_padding=2).patch_padding == 2


def test_a_raw_training_file_brings_its_decoder(tmp_path):
    torch.manual_seed(0)
    model = build_mae(TINY)
    state = {f"backbone.{official_name(n)}": t for n, t in model.encoder.state_dict().items()}
    for name, tensor in model.decoder.state_dict().items():
        official = {"embed": "decoder_embed", "pos_embed": "decoder_pos_embed", "pred": "decoder_pred", "norm": "ln1"}
        part, dot, rest = name.partition(".")
        if part == "blocks":
            number, _, inner = rest.partition(".")
            state[f"neck.decoder_blocks.{number}.{official_name('blocks.0.' + inner).removeprefix('layers.0.')}"] = (
                tensor
            )
        else:
            state[f"neck.{official.get(part, part)}{dot}{rest}"] = tensor
    torch.save({"state_dict": state, "meta": {}}, tmp_path / "epoch_1.pth")
    weights = read_weights(tmp_path / "epoch_1.pth", grid=(16, 16))
    assert weights.decoder.keys() == model.decoder.state_dict().keys()
    assert all(torch.equal(t, weights.decoder[n]) for n, t in model.decoder.state_dict().items())


def test_dropping_the_class_token_and_changing_the_grid(tmp_path):
    stored = official_encoder("tiny")
    torch.save(stored, tmp_path / "clean.pth")
    encoder = load_encoder(tmp_path / "clean.pth", grid=(16, 12), cls_token=False, stored_grid=(16, 16))
    assert encoder.cls_token is None
    assert encoder.pos_embed.shape == (1, 192, 256)
    assert encoder(torch.zeros(2, 256, 192, 3, dtype=torch.uint8)).shape == (2, 192, 256)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda s: s.pop("layers.3.attn.proj.bias"), r"lacks blocks\.3\.attn\.proj\.bias"),
        (lambda s: [s.pop(n) for n in list(s) if n.startswith("layers.5.")], r"lacks blocks\.5\..*12 in all"),
        (lambda s: s.update(extra=torch.zeros(1)), "unexpectedly, extra"),
        (lambda s: s.update({"ln1.bias": torch.zeros(5)}), r"norm\.bias is \[5\], expected \[256\]"),
        (lambda s: s.pop("patch_embed.projection.weight"), "holds no Sapiens encoder"),
        (lambda s: s.update({"patch_embed.projection.weight": torch.zeros(7, 3, 16, 16)}), "7 wide"),
    ],
)
def test_a_partial_or_foreign_file_is_refused_by_name(tmp_path, change, says):
    state = official_encoder("tiny")
    change(state)
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(UsageError, match=says):
        read_weights(tmp_path / "x.pth", grid=(16, 16))


def test_a_grid_is_never_guessed(tmp_path):
    torch.save(official_encoder("tiny"), tmp_path / "x.pth")
    with pytest.raises(UsageError, match="256 positions and no known grid"):
        read_weights(tmp_path / "x.pth")
    with pytest.raises(UsageError, match="not 16 x 12"):
        read_weights(tmp_path / "x.pth", grid=(16, 12))
    with pytest.raises(UsageError, match="such as 64x48"):
        parse_grid("64")


class Payload:
    """What a malicious pickle would hold: code that runs on reading."""

    def __reduce__(self):
        return (exec, ("raise SystemExit('the pickle was executed')",))


def test_code_in_a_file_is_not_run(tmp_path):
    torch.save({"state_dict": {"a": torch.zeros(1)}, "hook": Payload()}, tmp_path / "evil.pth")
    with pytest.raises(UsageError, match="state_dict") as told:
        read_weights(tmp_path / "evil.pth")
    assert "will likely succeed" not in str(told.value), "torch's own advice is to run the code"


@pytest.mark.parametrize("damage", ["truncated.safetensors", "truncated.pth", "missing.pth"])
def test_damaged_files_are_refused(tmp_path, damage):
    path = tmp_path / damage
    if "missing" not in damage:
        tensors = official_encoder("tiny")
        save_file(tensors, path) if path.suffix == ".safetensors" else torch.save(tensors, path)
        path.write_bytes(path.read_bytes()[:20_000])
    with pytest.raises(UsageError, match=damage):
        read_weights(path, grid=(16, 16))


def test_a_run_converts_to_every_layout_and_back(tmp_path, config):
    pretrain(config(images=16, size=""))
    weights = read_weights(tmp_path / "run")
    model = load_mae(tmp_path / "run")
    for layout in ("encoder", "mae", "official"):
        write_weights(weights, tmp_path / f"{layout}.safetensors", layout)
        again = read_weights(tmp_path / f"{layout}.safetensors")
        assert again.grid == (16, 16)
        assert all(torch.equal(t, weights.encoder[n]) for n, t in again.encoder.items())
    assert "blocks.0.mlp.fc1.weight" in load_file(tmp_path / "encoder.safetensors")
    assert set(load_file(tmp_path / "official.safetensors")) == set(official_encoder("tiny"))
    assert torch.equal(load_mae(tmp_path / "mae.safetensors").decoder.pred.weight, model.decoder.pred.weight)
    with pytest.raises(UsageError, match="no decoder"):
        load_mae(tmp_path / "encoder.safetensors")
    with pytest.raises(UsageError, match="neither a checkpoint nor a run"):
        read_weights(tmp_path / "data")


def test_the_encoder_in_ones_own_code_as_the_page_shows_it(tmp_path, config):
    pretrain(config(images=8, run=str(tmp_path / "run")))
    page = (Path(__file__).parents[2] / "docs" / "pretrain.md").read_text()
    (block,) = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    names: dict[str, object] = {}
    exec(block.replace("runs/first", str(tmp_path / "run")), names)  # our own page, nothing else
    assert names["features"].shape == (2, 1 + 64 * 48, TINY.width)


@pytest.mark.parametrize("norm_pix", [True, False])
def test_a_written_mae_knows_what_its_pixels_mean(tmp_path, config, norm_pix):
    pretrain(config(images=8, size="", norm_pix=norm_pix))
    write_weights(read_weights(tmp_path / "run"), tmp_path / "mae.safetensors", "mae")
    assert load_mae(tmp_path / "run").norm_pix is norm_pix
    assert load_mae(tmp_path / "mae.safetensors").norm_pix is norm_pix


def test_a_written_mae_knows_the_size_it_was_trained_at(tmp_path, config):
    pretrain(config(images=8, size="64x96"))
    write_weights(read_weights(tmp_path / "run"), tmp_path / "mae.safetensors", "mae")
    assert load_mae(tmp_path / "run").size == load_mae(tmp_path / "mae.safetensors").size == (64, 96)


def test_others_may_read_what_the_umask_lets_them(tmp_path, config):
    pretrain(config(images=8, size=""))
    write_weights(read_weights(tmp_path / "run"), tmp_path / "encoder.safetensors", "encoder")
    (tmp_path / "plain").touch()
    mode = (tmp_path / "plain").stat().st_mode
    files = [tmp_path / "encoder.safetensors", *(tmp_path / "run/ckpt").glob("*/*")]
    assert len(files) == 3
    assert {file.stat().st_mode for file in files} == {mode}


def test_a_damaged_checkpoint_folder_is_refused(tmp_path, config):
    pretrain(config(images=8))
    found = checkpoint.newest(tmp_path / "run/ckpt")
    file = found / "rank-00000.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UsageError, match=r"rank-00000.safetensors is missing or not \d+ bytes long"):
        read_weights(found)


def test_a_damaged_tensor_name_set_in_a_checkpoint_is_told(tmp_path, config):
    pretrain(config(images=16))
    found = checkpoint.newest(tmp_path / "run/ckpt")
    with pytest.raises(UsageError, match=r"lacks model\.nothing"):
        checkpoint.load(found, {"model.nothing": torch.zeros(1)}, part="model.nothing")
