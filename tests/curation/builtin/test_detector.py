"""The person detector: its start, its boxes, its loss."""

import numpy as np
import torch

from curation.builtin.detector import BINS, WIDE, PeopleDetector, by_cell, cells, likely_boxes, to_boxes
from curation.builtin.training.people_labels import NONE, People
from curation.builtin.training.people_loss import Crowds, assign, complete_iou, people_loss, plain_iou
from curation.builtin.training.people_scenes import Scene, together
from curation.builtin.training.slim_people import differences
from curation.builtin.training.start import start_from_nudenet
from curation.builtin.wheels import nudenet_file
from curation.engines import compile_onnx


def test_the_start_answers_as_the_wheels_network_does() -> None:
    net = PeopleDetector(WIDE).eval()
    start_from_nudenet(net)
    x = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    (theirs,) = compile_onnx(nudenet_file(), (64, 96), precision="fp32")(x.numpy())
    with torch.no_grad():
        boxes = to_boxes(by_cell(net(x)[0]), *cells(64, 96))
    centre_and_size = torch.cat([(boxes[0, :, :2] + boxes[0, :, 2:]) / 2, boxes[0, :, 2:] - boxes[0, :, :2]], 1)
    np.testing.assert_allclose(centre_and_size.numpy(), theirs[0, :4].T, atol=1e-2)


def test_a_sure_distribution_gives_its_distance_in_strides() -> None:
    centres, strides = cells(64, 64)
    sides = torch.full((1, len(centres), 4, BINS), -50.0)
    sides[..., 3] = 50.0
    boxes = to_boxes(sides, centres, strides)[0]
    torch.testing.assert_close(boxes[:, 2:] - boxes[:, :2], 6 * strides[:, None].expand(-1, 2))
    torch.testing.assert_close((boxes[:, :2] + boxes[:, 2:]) / 2, centres)


def test_boxes_of_the_likely_cells_are_those_of_all_cells() -> None:
    generator = torch.Generator().manual_seed(0)
    centres, strides = cells(96, 64)
    sides = torch.randn(4 * BINS, len(centres), generator=generator)
    logits = torch.randn(len(centres), generator=generator)
    boxes, scores = likely_boxes(sides.numpy(), logits.numpy(), (96, 64), 0.4)
    chosen = logits.sigmoid() >= 0.4
    assert 0 < len(boxes) == chosen.sum() < len(centres)
    np.testing.assert_allclose(scores, logits[chosen].sigmoid().numpy(), rtol=1e-5)
    np.testing.assert_allclose(boxes, to_boxes(by_cell(sides[None]), centres, strides)[0, chosen].numpy(), atol=1e-4)
    assert likely_boxes(sides.numpy(), logits.numpy() - 99, (96, 64), 0.4)[0].shape == (0, 4)


def test_narrow_heads_that_answer_alike_have_nothing_to_learn() -> None:
    generator = torch.Generator().manual_seed(0)
    sides, logits = torch.randn(2, 4 * BINS, 30, generator=generator), torch.randn(2, 30, generator=generator)
    for part in differences(sides, logits, sides, logits):
        assert abs(float(part)) < 1e-5
    for part in differences(sides, logits, sides.flip(1), logits - 1):
        assert float(part) > 0.05


def test_every_person_gets_cells_inside_it_and_none_is_shared() -> None:
    centres, strides = cells(128, 128)
    truth = torch.tensor([[[10.0, 10, 60, 110], [50, 20, 100, 120], [0, 0, 0, 0]]])
    around = torch.cat([centres - 2 * strides[:, None], centres + 2 * strides[:, None]], 1)
    quality, owner = (row[0] for row in assign(around[None], torch.full((1, len(centres)), 0.1), centres, truth))
    assert not ((quality > 0) & (owner == 2)).any()  # a box of no size is nobody
    for person in range(2):
        mine = (quality > 0) & (owner == person)
        assert 0 < mine.sum() <= 10
        x, y = centres[mine].T
        x0, y0, x1, y1 = truth[0, person]
        assert bool(((x > x0) & (x < x1) & (y > y0) & (y < y1)).all())


def test_ious_of_known_boxes() -> None:
    a, b = torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([[0.0, 5, 10, 15]])
    torch.testing.assert_close(plain_iou(a, b), torch.tensor([1 / 3]))
    torch.testing.assert_close(complete_iou(a, a), torch.tensor([1.0]))
    assert complete_iou(a, b)[0] < plain_iou(a, b)[0]


def test_filling_up_a_batch_changes_no_picture_of_it() -> None:
    centres, strides = cells(128, 128)
    boxes = [NONE, np.array([[10, 10, 60, 110]], np.float32), np.array([[5, 5, 50, 90], [40, 20, 90, 120]], np.float32)]
    unsure = [np.array([[0, 0, 32, 64]], np.float32), NONE, np.array([[90, 0, 128, 128]], np.float32)]
    scenes = [
        Scene(np.zeros((128, 128, 3), np.uint8), People(b, np.full(len(b), 0.8, np.float32), u, NONE))
        for b, u in zip(boxes, unsure, strict=True)
    ]
    generator = torch.Generator().manual_seed(0)
    sides = torch.randn(3, len(centres), 4, BINS, generator=generator)
    logits = torch.randn(3, len(centres), generator=generator)
    summed, weights = 0.0, 0.0
    for i, scene in enumerate(scenes):
        alone = together([scene])[1]
        loss, _ = people_loss(sides[i : i + 1], logits[i : i + 1], centres, strides, alone)
        found = to_boxes(sides[i : i + 1], centres, strides)
        quality, _ = assign(found, logits[i : i + 1].sigmoid(), centres, alone.boxes)
        weight = float(quality.sum()) * 0.8
        summed, weights = summed + float(loss) * max(weight, 1.0), weights + weight
    whole, _ = people_loss(sides, logits, centres, strides, together(scenes)[1])
    assert weights > 1
    torch.testing.assert_close(float(whole), summed / weights, rtol=1e-4, atol=0)


def test_nobody_is_learnt_where_it_is_unsure() -> None:
    centres, strides = cells(64, 64)
    sides = torch.zeros(1, len(centres), 4, BINS, requires_grad=True)
    logits = torch.zeros(1, len(centres), requires_grad=True)
    none = torch.zeros(1, 0, 4)
    nobody = Crowds(none, torch.zeros(1, 0), torch.tensor([[[0.0, 0, 32, 64]]]), none)
    loss, _ = people_loss(sides, logits, centres, strides, nobody)
    loss.backward()
    left = centres[:, 0] < 32
    assert (logits.grad[0, left] == 0).all()
    assert (logits.grad[0, ~left] > 0).all()


def test_a_few_steps_find_the_person_they_are_shown() -> None:
    torch.manual_seed(0)
    net = PeopleDetector(WIDE)
    start_from_nudenet(net)
    image = torch.zeros(1, 3, 96, 96)
    image[:, :, 16:80, 30:62] = 1.0
    none = torch.zeros(1, 0, 4)
    person = Crowds(torch.tensor([[[30.0, 16, 62, 80]]]), torch.ones(1, 1), none, none)
    centres, strides = cells(96, 96)
    optimizer = torch.optim.AdamW(net.parameters(), 1e-3)
    for _ in range(25):
        sides, logits, *_ = net(image)
        loss, _ = people_loss(by_cell(sides), logits, centres, strides, person)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        sides, logits, *_ = net(image)
    best = to_boxes(by_cell(sides), centres, strides)[0, logits[0].argmax()]
    assert plain_iou(best, person.boxes[0, 0]) > 0.6
    assert logits.max().sigmoid() > 0.3
