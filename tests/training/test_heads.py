"""Decoders and task models: names and shapes of the released files, at all four sizes, without memory."""

import pytest
import torch

from training.config import UsageError
from training.labels.sets import ClassList, KeypointSet
from training.models.convert import official_name
from training.models.heads import HEADS, Head
from training.models.task import TaskModel, build_task, channels_of, load_task, write_task
from training.models.zoo import FAMILY, build_encoder

SIZES = ("0.3b", "0.6b", "1b", "2b")
LABELS = {
    "pose17": {"task": "pose", "keypoints": KeypointSet.load("coco17").to_dict()},
    "pose133": {"task": "pose", "keypoints": KeypointSet.load("wholebody133").to_dict()},
    "pose308": {"task": "pose", "keypoints": KeypointSet.load("goliath308").to_dict()},
    "parts28": {"task": "parts", "classes": ClassList.load("sapiens28").to_dict()},
    "parts20": {"task": "parts", "classes": ClassList.load("lip20").to_dict()},
    "depth": {"task": "depth"},
    "normals": {"task": "normals"},
}
CHANNELS = {"pose17": 17, "pose133": 133, "pose308": 308, "parts28": 28, "parts20": 20, "depth": 1, "normals": 3}


def released_layout(kind: str, width: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a released decoder, written down from the published state dicts."""
    channels = CHANNELS[kind]
    if kind.startswith("pose"):
        ups, convs, hidden, last = (0, 3), (0, 3), 768, "final_layer"
    elif kind == "depth":
        ups, convs, hidden, last = (0, 3, 6, 9), (0, 3), 384, "conv_seg"
    else:
        ups, convs, hidden, last = (0, 3, 6), (0, 3, 6), 768, "conv_seg"
    layout: dict[str, tuple[int, ...]] = {
        f"deconv_layers.{i}.weight": (hidden if i else width, hidden, 4, 4) for i in ups
    }
    for i in convs:
        layout |= {f"conv_layers.{i}.weight": (hidden, hidden, 1, 1), f"conv_layers.{i}.bias": (hidden,)}
    return layout | {f"{last}.weight": (channels, hidden, 1, 1), f"{last}.bias": (channels,)}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", LABELS)
def test_heads_have_the_released_names_and_shapes(size, kind):
    arch, task = FAMILY[size], LABELS[kind]["task"]
    with torch.device("meta"):
        head = Head(task, arch, channels_of(task, LABELS[kind]))
    assert {name: tuple(tensor.shape) for name, tensor in head.state_dict().items()} == released_layout(
        kind, arch.width
    )


@pytest.mark.parametrize(
    ("task", "channels", "size", "millions"),
    [
        ("pose", 17, "0.3b", 23.2),
        ("pose", 17, "2b", 34.2),
        ("parts", 28, "0.3b", 33.2),
        ("normals", 3, "2b", 44.3),
        ("depth", 1, "0.3b", 13.7),
        ("depth", 1, "2b", 19.2),
    ],
)
def test_heads_have_the_published_number_of_parameters(task, channels, size, millions):
    with torch.device("meta"):
        head = Head(task, FAMILY[size], channels)
    assert sum(p.numel() for p in head.parameters()) / 1e6 == pytest.approx(millions, abs=0.06)


@pytest.mark.parametrize("size", SIZES)
def test_the_task_encoder_has_the_released_names(size):
    arch = FAMILY[size]
    with torch.device("meta"):
        encoder = build_encoder(arch, (64, 48), cls_token=False)
    named = {f"backbone.{official_name(name)}": tuple(t.shape) for name, t in encoder.state_dict().items()}
    d = arch.width
    expected: dict[str, tuple[int, ...]] = {
        "pos_embed": (1, 3072, d),
        "patch_embed.projection.weight": (d, 3, 16, 16),
        "patch_embed.projection.bias": (d,),
        "ln1.weight": (d,),
        "ln1.bias": (d,),
    }
    for i in range(arch.depth):
        for name, shape in (
            ("ln1", (d,)),
            ("ln2", (d,)),
            ("attn.qkv", (3 * d, d)),
            ("attn.proj", (d, d)),
            ("ffn.layers.0.0", (4 * d, d)),
            ("ffn.layers.1", (d, 4 * d)),
        ):
            expected |= {f"layers.{i}.{name}.weight": shape, f"layers.{i}.{name}.bias": (shape[0],)}
    assert named == {f"backbone.{name}": shape for name, shape in expected.items()}


@pytest.mark.parametrize(("task", "scale"), [("pose", 4), ("parts", 2), ("depth", 1), ("normals", 2)])
def test_outputs_have_the_documented_size(task, scale):
    kind = {"pose": "pose17", "parts": "parts28"}.get(task, task)
    model = build_task(task, FAMILY["tiny"], LABELS[kind], (64, 48))
    output = model(torch.randint(0, 256, (2, 64, 48, 3), dtype=torch.uint8))
    assert output.shape == (2, CHANNELS[kind], 64 // scale, 48 // scale)
    assert output.dtype == torch.float32


@pytest.mark.parametrize("official", [False, True])
@pytest.mark.parametrize("kind", ["pose17", "parts28", "depth", "normals"])
def test_a_written_model_reads_back_the_same(tmp_path, kind, official):
    labels, task = {"format": 1, **LABELS[kind]}, LABELS[kind]["task"]
    torch.manual_seed(0)
    model = build_task(task, FAMILY["tiny"], labels, (64, 48), patch_padding=2)
    loaded = _saved(model, task, labels, tmp_path / "a.safetensors")
    write_task(loaded, tmp_path / "b.safetensors", official)
    again = load_task(tmp_path / "b.safetensors")
    assert (again.task, again.size, again.labels) == (task, (64, 48), labels)
    assert again.encoder_hash == loaded.encoder_hash
    assert again.model.encoder.patch_padding == 2
    image = torch.randint(0, 256, (1, 64, 48, 3), dtype=torch.uint8)
    assert torch.equal(again.model(image), model.eval()(image))


@pytest.mark.parametrize("kind", ["pose17", "pose133", "pose308", "parts28", "parts20", "depth", "normals"])
def test_a_file_in_the_released_layout_is_recognised(tmp_path, kind):
    """As released: a .pth of {'state_dict', 'meta'}, without a word on task, labels or padding. The decoder is
    narrower than the released ones, which changes no name.
    """
    task = LABELS[kind]["task"]
    model = build_task(task, FAMILY["tiny"], LABELS[kind], (1024, 768))
    tensors = {f"backbone.{official_name(n)}": t for n, t in model.encoder.state_dict().items()}
    tensors |= {f"{HEADS[task].prefix}.{n}": t for n, t in model.head.state_dict().items()}
    torch.save({"state_dict": tensors, "meta": {"epoch": 3}}, tmp_path / "released.pth")
    loaded = load_task(tmp_path / "released.pth")
    assert (loaded.task, loaded.size) == (task, (1024, 768))
    assert loaded.model.encoder.patch_padding == (0 if kind in ("parts28", "depth") else 2)
    if task in ("pose", "parts"):
        assert len(loaded.label_set.names) == CHANNELS[kind]
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], tensor)


def test_tasks_on_one_encoder_share_its_hash(tmp_path):
    torch.manual_seed(0)
    pose = build_task("pose", FAMILY["tiny"], LABELS["pose17"], (64, 48))
    depth = TaskModel(pose.encoder, Head("depth", FAMILY["tiny"], 1))
    other = build_task("depth", FAMILY["tiny"], {}, (64, 48))
    hashes = [
        _saved(model, task, labels, tmp_path / f"{i}.safetensors").encoder_hash
        for i, (model, task, labels) in enumerate(
            [(pose, "pose", LABELS["pose17"]), (depth, "depth", {}), (other, "depth", {})]
        )
    ]
    assert hashes[0] == hashes[1] != hashes[2]


def test_a_pretrained_encoder_is_no_task(tmp_path):
    from safetensors.torch import save_file

    encoder = build_encoder(FAMILY["tiny"])
    save_file(encoder.state_dict(), tmp_path / "encoder.safetensors", metadata={"grid": "16x16"})
    with pytest.raises(UsageError, match="no task decoder"):
        load_task(tmp_path / "encoder.safetensors")


def test_a_decoder_of_another_task_is_refused(tmp_path):
    model = build_task("depth", FAMILY["tiny"], {}, (64, 48))
    tensors = {name: tensor for name, tensor in model.state_dict().items() if "deconv_layers.9" not in name}
    torch.save({"state_dict": tensors}, tmp_path / "cut.pth")
    with pytest.raises(UsageError):
        load_task(tmp_path / "cut.pth")


def _saved(model, task, labels, path):
    import json

    from safetensors.torch import save_file

    facts = {
        "task": task,
        "grid": "4x3",
        "patch_padding": str(model.encoder.patch_padding),
        "labels": json.dumps(labels),
    }
    save_file(model.state_dict(), path, metadata=facts)
    return load_task(path)
