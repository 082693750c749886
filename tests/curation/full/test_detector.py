"""The person detector gives what ultralytics' own `predict` gives."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from curation.errors import UsageError
from curation.full.detector import LEAST_SCORE, MOST_BOXES, OVERLAP, Detector, load_model
from curation.full.torchvision_ops import make_importable
from tests.curation.full.conftest import yolo

Photos = list[NDArray[np.uint8]]


def predicted(weights: Path, photo: NDArray[np.uint8]) -> NDArray[np.float32]:
    make_importable()
    from ultralytics import YOLO

    (result,) = YOLO(weights).predict(
        photo[..., ::-1], conf=LEAST_SCORE, iou=OVERLAP, max_det=MOST_BOXES, classes=[0], device="cpu", verbose=False
    )
    return torch.cat([result.boxes.xyxy, result.boxes.conf[:, None]], 1).numpy()


def assert_same(found: NDArray[np.float32], wanted: NDArray[np.float32], cut_before: bool = False) -> None:
    """Every box of either has one of the other within 1 px and 0.01, but for ties where the list is cut off, which an
    end-to-end head does before the other classes' boxes are taken out.
    """
    assert min(len(found), len(wanted)) > 5
    assert len(found) == len(wanted) or (cut_before and abs(len(found) - len(wanted)) <= 2)
    cut = max(found[-1, 4], wanted[-1, 4]) + 0.001 if cut_before or len(wanted) == MOST_BOXES else 0
    near = (np.abs(found[:, None] - wanted) < [1, 1, 1, 1, 0.01]).all(2)
    assert near[:, wanted[:, 4] > cut].any(0).all()
    assert near[found[:, 4] > cut].any(1).all()


def test_boxes_are_those_of_predict(yolo_pt: Path, photos: Photos) -> None:
    for found, photo in zip(Detector(yolo_pt, precision="fp32").people(photos), photos, strict=True):
        assert_same(found, predicted(yolo_pt, photo))


@pytest.mark.parametrize("fused", [False, True], ids=["both heads", "the end-to-end head alone"])
def test_a_model_with_an_end_to_end_head_answers_as_predict_does(tmp_path: Path, photos: Photos, fused: bool) -> None:
    """`predict` takes the head that needs NMS; where fusing has removed it, the end-to-end one."""
    model = yolo("yolo26n.yaml")
    model.end2end = True
    file = tmp_path / "yolo26n-made.pt"
    torch.save({"model": model.fuse(verbose=False) if fused else model, "train_args": {}}, file)
    some, detector = photos[2:], Detector(file, precision="fp32")
    for found, photo in zip(detector.people(some), some, strict=True):
        assert_same(found, predicted(file, photo), cut_before=fused)
    assert detector._runner.facts["end2end"] is fused


def test_a_model_of_another_size_and_stride_sees_what_predict_shows_it(tmp_path: Path, photos: Photos) -> None:
    """Trained at 320 px; a P6 model's inputs are multiples of 64."""
    file = tmp_path / "p6.pt"
    torch.save({"model": yolo("yolov8n-p6.yaml"), "train_args": {"imgsz": 320}}, file)
    detector = Detector(file, precision="fp32")
    for found, photo in zip(detector.people(photos), photos, strict=True):
        assert_same(found, predicted(file, photo))
    assert (detector._runner.facts["side"], detector._runner.facts["stride"]) == (320, 64)


def test_class_names_may_be_a_list(tmp_path: Path, photos: Photos) -> None:
    model = yolo("yolo11n.yaml")
    model.names = list(model.names.values())
    torch.save({"model": model, "train_args": {}}, tmp_path / "list.pt")
    assert len(Detector(tmp_path / "list.pt").people(photos[:1])[0]) > 5


def test_answers_do_not_depend_on_the_company(yolo_pt: Path, photos: Photos) -> None:
    detector = Detector(yolo_pt)
    together = detector.people(photos)
    alone = [detector.people([photo])[0] for photo in photos]
    assert all(np.array_equal(a, b) for a, b in zip(together, alone, strict=True))


def test_plain_tensors_with_a_yaml(yolo_pt: Path, photos: Photos, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    model = yolo("yolo11n.yaml")
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, tmp_path / "yolo11n.safetensors")
    (tmp_path / "yolo11n.yaml").write_text(_yaml_of("yolo11n.yaml"))
    (found,) = Detector(tmp_path / "yolo11n.safetensors", precision="fp32").people(photos[:1])
    (wanted,) = Detector(yolo_pt, precision="fp32").people(photos[:1])
    assert np.allclose(found, wanted, atol=1e-3)


def test_a_pickle_that_runs_code_is_refused(tmp_path: Path, photos: Photos) -> None:
    touched = tmp_path / "touched"
    torch.save({"model": _Touch(touched)}, tmp_path / "evil.pt")
    with pytest.raises(UsageError, match=r"evil.pt is no ultralytics model that can be loaded safely"):
        Detector(tmp_path / "evil.pt").people(photos[:1])
    assert not touched.exists()


def test_a_model_without_persons_is_refused(tmp_path: Path, photos: Photos) -> None:
    model = yolo("yolo11n.yaml")
    model.names = dict.fromkeys(range(80), "cat")
    torch.save({"model": model, "train_args": {}}, tmp_path / "cats.pt")
    with pytest.raises(UsageError, match="knows no class 'person'"):
        Detector(tmp_path / "cats.pt").people(photos[:1])


@pytest.mark.parametrize("task", ["seg", "pose", "obb"])
def test_a_model_of_another_task_is_refused(tmp_path: Path, task: str) -> None:
    """Its masks, keypoints or angles would be taken for scores: nobody was found, or every image failed."""
    from ultralytics.nn.tasks import OBBModel, PoseModel, SegmentationModel

    model = {"seg": SegmentationModel, "pose": PoseModel, "obb": OBBModel}[task](f"yolo11n-{task}.yaml", verbose=False)
    model.names[0] = "person"
    torch.save({"model": model, "train_args": {}}, tmp_path / "best.pt")
    with pytest.raises(
        UsageError, match=r"best.pt holds a \w+Model that ends in \w+; a plain detection model is needed"
    ):
        load_model(tmp_path / "best.pt")


def test_tensors_of_another_task_or_model_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    (tmp_path / "best.yaml").write_text(_yaml_of("yolo11n.yaml"))
    save_file({"weight": torch.zeros(1)}, tmp_path / "best.safetensors")
    with pytest.raises(UsageError, match=r"best.safetensors is no ultralytics model .*Missing key"):
        load_model(tmp_path / "best.safetensors")
    (tmp_path / "best.safetensors").write_bytes(b"half")
    with pytest.raises(UsageError, match=r"best.safetensors is no ultralytics model"):
        load_model(tmp_path / "best.safetensors")


def test_a_name_that_ultralytics_would_change_is_taken_as_it_is(
    yolo_pt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It reads `yolov5n.pt` as `yolov5nu.pt`, drops quotes, and would ask the network for what is then not there."""
    import requests

    monkeypatch.setattr(requests, "get", lambda *_, **__: pytest.fail("asked the network"))
    folder = tmp_path / "Anna's"
    folder.mkdir()
    (folder / "yolov5n.pt").write_bytes(yolo_pt.read_bytes())
    assert load_model(folder / "yolov5n.pt").names[0] == "person"


def test_a_damaged_file_is_refused_and_stays(yolo_pt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ultralytics deletes a damaged `yolo11n.pt` in the working directory and fetches another."""
    import requests

    monkeypatch.setattr(requests, "get", lambda *_, **__: pytest.fail("asked the network"))
    monkeypatch.chdir(tmp_path)
    half = yolo_pt.read_bytes()[:100_000]
    Path("yolo11n.pt").write_bytes(half)
    with pytest.raises(UsageError, match=r"yolo11n.pt is not a loadable checkpoint"):
        load_model(Path("yolo11n.pt"))
    assert Path("yolo11n.pt").read_bytes() == half


def test_a_pickled_state_dict_is_told_from_a_model(tmp_path: Path) -> None:
    torch.save({"state_dict": {}, "names": ["person"]}, tmp_path / "state.pt")
    with pytest.raises(UsageError, match=r"it holds state_dict, names and no model; a state dict is to be"):
        load_model(tmp_path / "state.pt")


class _Touch:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (self.path,)  # type: ignore[return-value]


def _yaml_of(name: str) -> str:
    import yaml
    from ultralytics.nn.tasks import yaml_model_load

    return yaml.safe_dump(
        {k: v for k, v in yaml_model_load(name).items() if k != "yaml_file"} | {"names": {0: "person"}}
    )
