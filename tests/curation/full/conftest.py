"""Weights made here, in the files that ultralytics, EasyOCR and open_clip use, and real photos to run them on.

Random initial values give networks that see nothing, so the last layers are nudged until they answer something: that is
enough to compare two ways of running the same network.
"""

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from curation import winograd

# Without the extra `full` there is nothing here to test.
MISSING = [package for package in ("ultralytics", "easyocr", "open_clip") if find_spec(package) is None]
collect_ignore_glob = ["test_*"] if MISSING else []


@pytest.fixture(params=["ncnn", "OpenVINO"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What runs the text network: each of the two is the quicker on some CPU."""
    if request.param == "ncnn" and not (find_spec("ncnn") and find_spec("pnnx")):
        pytest.skip("the extra `full` brings ncnn on x86-64 alone")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(winograd, "is_quicker_here", lambda: request.param == "ncnn")
    return str(request.param)


@pytest.fixture(scope="session")
def photos() -> list[NDArray[np.uint8]]:
    """uint8 RGB photos of four shapes, from the packages that carry them."""
    import ultralytics

    assets = Path(ultralytics.__file__).parent / "assets"
    bus, zidane = (np.asarray(Image.open(assets / name).convert("RGB")) for name in ("bus.jpg", "zidane.jpg"))
    return [bus, zidane, np.ascontiguousarray(bus[200:700, :500]), np.ascontiguousarray(zidane[::2, ::2])]


def yolo(name: str) -> torch.nn.Module:
    """An untrained ultralytics detector whose boxes and scores vary over a photo."""
    from ultralytics.nn.tasks import DetectionModel

    torch.manual_seed(0)
    model = DetectionModel(name, verbose=False)
    model.names[0] = "person"
    _settle(model)
    head = model.model[-1]
    persons_likely = torch.full((head.nc,), -12.0)  # mean logits: persons, and one class that is sometimes likelier
    persons_likely[:2] = torch.tensor([-4.5, -6.0])
    for branches in (head.one2many, head.one2one) if head.reg_max == 1 else ():
        for branch in branches["cls_head"]:
            _set_output(model, branch, persons_likely, torch.full((head.nc,), 1.2))
        for branch in branches["box_head"]:  # the sides' distances: positive, so that boxes have an inside
            _set_output(model, branch, torch.full((4,), 4.0), torch.full((4,), 0.8))
    if head.reg_max > 1:
        with torch.no_grad():
            for branch in head.cv2:
                branch[-1].weight.mul_(4)
            for branch in head.cv3:
                logits: list[torch.Tensor] = []
                hook = branch.register_forward_hook(lambda *call, seen=logits: seen.append(call[2]))
                model(bus_input(int(model.stride.max())))
                hook.remove()
                person = logits[0][:, 0] - branch[-1].bias[0]
                branch[-1].weight.mul_(1.2 / person.std())
                branch[-1].bias.fill_(-12)
                branch[-1].bias[0] = -4.5 - person.mean() * 1.2 / person.std()
    return model.eval()


@torch.no_grad()
def _set_output(model: torch.nn.Module, branch: torch.nn.Module, mean: torch.Tensor, spread: torch.Tensor) -> None:
    """Give a branch's outputs on a photo this mean and standard deviation, channel by channel."""
    seen: list[torch.Tensor] = []
    hook = branch.register_forward_hook(lambda *call: seen.append(call[2]))
    model(bus_input(int(model.stride.max())))
    hook.remove()
    last = branch[-1]
    scale = spread / seen[0].std((0, 2, 3)).clamp(min=1e-6)
    last.weight.mul_(scale[:, None, None, None])
    last.bias.copy_(mean - (seen[0].mean((0, 2, 3)) - last.bias) * scale)


def bus_input(stride: int = 32) -> torch.Tensor:
    """float32 [1,3,640,480] in 0…1; 512 wide where `stride` does not divide 480."""
    import ultralytics

    size = (480 if stride <= 32 else 512, 640)
    photo = Image.open(Path(ultralytics.__file__).parent / "assets" / "bus.jpg").convert("RGB").resize(size)
    return torch.from_numpy(np.array(photo)).permute(2, 0, 1)[None].float() / 255


def _settle(model: torch.nn.Module) -> None:
    """Give batch norms the statistics of noise, so that signals neither vanish nor explode."""
    for layer in model.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = None
    model.train()
    with torch.no_grad():
        model(torch.rand(2, 3, 128, 128))
    model.eval()


@pytest.fixture(scope="session")
def yolo_pt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`yolo11n` as ultralytics saves it: a pickled model."""
    file = tmp_path_factory.mktemp("yolo") / "yolo11n-made.pt"
    torch.save({"model": yolo("yolo11n.yaml"), "train_args": {}}, file)
    return file


@pytest.fixture(scope="session")
def craft_pth(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """EasyOCR's detector as EasyOCR lays it down: a folder with `craft_mlt_25k.pth`, names prefixed by `module.`."""
    from curation.full.torchvision_ops import make_importable

    make_importable()
    from easyocr.craft import CRAFT

    torch.manual_seed(1)
    craft = CRAFT()
    _settle(craft)
    with torch.no_grad():
        last = craft.conv_cls[-1]
        maps = craft(bus_input() * 4 - 2)[0]
        scale = 0.22 / maps.std((0, 1, 2))
        last.weight.mul_(scale[:, None, None, None])
        last.bias.copy_(0.3 - (maps.mean((0, 1, 2)) - last.bias) * scale)
    folder = tmp_path_factory.mktemp("easyocr")
    torch.save({f"module.{name}": value for name, value in craft.state_dict().items()}, folder / "craft_mlt_25k.pth")
    return folder


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small open_clip model in the layout of the Hugging Face hub."""
    from curation.full.torchvision_ops import make_importable

    make_importable()
    import open_clip
    from safetensors.torch import save_file

    config = {
        "embed_dim": 64,
        "vision_cfg": {"image_size": 64, "layers": 2, "width": 64, "patch_size": 16, "head_width": 32},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
    }
    folder = tmp_path_factory.mktemp("clip")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {"size": 64}}))
    torch.manual_seed(2)
    model = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
    with torch.no_grad():
        model.logit_scale.fill_(float(np.log(100)))
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return folder
