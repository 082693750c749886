"""What the teacher adds to the people of a scene."""

from pathlib import Path

import pytest
import torch

from curation.builtin.boxes import letterbox
from curation.builtin.training.collection import read_collection
from curation.builtin.training.people_loss import Crowds, plain_iou
from curation.builtin.training.teacher import Teacher, load_teacher, people_seen, taught

KNOWN = [10.0, 10, 50, 110]


def crowd(unsure: list[float], settled: list[float]) -> Crowds:
    boxes, nobody = torch.tensor([[KNOWN]]), torch.zeros(1, 0, 4)
    unsure_boxes, settled_boxes = (torch.tensor([[b]]) if b else nobody for b in (unsure, settled))
    return Crowds(boxes, torch.ones(1, 1), unsure_boxes, settled_boxes)


def added(people: Crowds, answer: list[float], score: float) -> bool:
    after = taught(people, torch.tensor([[answer]]), torch.tensor([[score]]))
    assert after.boxes.shape == (1, 2, 4)
    assert after.trust[0, 0] == 1
    return bool(after.trust[0, 1] > 0)


def test_only_new_people_are_added() -> None:
    people = crowd([], [])
    assert added(people, [60.0, 10, 90, 110], 0.6)
    assert not added(people, [60.0, 10, 90, 110], 0.05)
    assert not added(people, [12.0, 10, 52, 108], 0.9)  # known
    assert not added(people, [12.0, 12, 30, 40], 0.9)  # a part of one


def test_where_everybody_is_known_the_teacher_is_asked_about_the_unsure_alone() -> None:
    stranger = [60.0, 10, 90, 110]
    assert not added(crowd([], [0.0, 0, 128, 128]), stranger, 0.9)
    assert added(crowd([58.0, 0, 92, 128], [0.0, 0, 128, 128]), stranger, 0.9)


def test_the_likeliest_of_overlapping_answers_stays() -> None:
    class Fixed(Teacher):
        def __init__(self) -> None:
            torch.nn.Module.__init__(self)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            boxes = torch.zeros(1, 300, 4)
            boxes[0, 7], boxes[0, 8], boxes[0, 9] = (
                torch.tensor(b) for b in (KNOWN, [11.0, 10, 51, 110], [80.0, 0, 99, 40])
            )
            scores = torch.zeros(1, 300)
            scores[0, 7:10] = torch.tensor([0.5, 0.7, 0.2])
            return boxes, scores

    boxes, scores = people_seen(Fixed(), torch.zeros(1, 3, 128, 128), 4)
    torch.testing.assert_close(scores, torch.tensor([[0.7, 0.2, 0.0, 0.0]]))
    torch.testing.assert_close(boxes[0, :2], torch.tensor([[11.0, 10, 51, 110], [80.0, 0, 99, 40]]))


@pytest.mark.real_data
def test_the_loaded_teacher_answers_as_its_table_says(shared_data: Path) -> None:
    teacher = load_teacher(shared_data / "weights" / "coco-detector-yolov5n.pt")
    pictures = [p for p in read_collection(shared_data, "dev", {"people-voc"}) if p.teacher[:, 4].max(initial=0) > 0.7]
    for picture in pictures[:6]:
        square, scale = letterbox(picture.rgb(), 640, narrow=())
        boxes, scores = people_seen(teacher, torch.from_numpy(square).permute(2, 0, 1)[None].float() / 255, 1)
        wanted = torch.from_numpy(picture.teacher[picture.teacher[:, 4].argmax()])
        assert float(plain_iou(boxes[0] / scale, wanted[None, :4])) > 0.85, picture.key
        assert float(scores[0, 0]) == pytest.approx(float(wanted[4]), abs=0.12), picture.key
