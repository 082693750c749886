"""Scenes to learn people from: pictures scaled, mirrored, tiled and recoloured, with cut-out people pasted in."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from curation.builtin.boxes import GREY
from curation.builtin.training.collection import Boxes, Picture
from curation.builtin.training.people_labels import NONE, People, people_in
from curation.builtin.training.people_loss import Crowds

Image = NDArray[np.uint8]
KEEP_VISIBLE = 0.35  # less than this part of a person left in view: neither yes nor no
SMALLEST = 6.0  # pixels; smaller people teach nothing at stride 8


@dataclass(frozen=True)
class Scene:
    """uint8 `image` [S,S,3] and its people in pixels."""

    image: Image
    people: People


class Scenes(Dataset[Scene]):
    """Endless scenes of `size` pixels; scene i depends on (seed, i) alone."""

    def __init__(self, pictures: list[Picture], size: int, seed: int, first: int, count: int) -> None:
        self.pictures = pictures
        self.people = [people_in(p) for p in pictures]
        self.cutouts = [i for i, p in enumerate(pictures) if p.mask_png is not None]
        self.weights = _sampling_weights(pictures)
        self.size, self.seed, self.first, self.count = size, seed, first, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> Scene:
        return self.scene(np.random.default_rng((self.seed, self.first + i)))

    def scene(self, rng: np.random.Generator) -> Scene:
        """One scene: a mosaic of four pictures or a single one, people pasted into some, colours changed."""
        scene = self._mosaic(rng) if rng.random() < 0.5 else self._single(rng)
        if rng.random() < 0.3:
            for _ in range(rng.integers(1, 4)):
                scene = self._paste(scene, rng)
        return Scene(recolour(scene.image, rng), scene.people)

    def _pick(self, rng: np.random.Generator) -> tuple[Image, People]:
        i = int(np.searchsorted(self.weights, rng.random()))
        return self.pictures[i].rgb(), self.people[i]

    def _single(self, rng: np.random.Generator) -> Scene:
        image, people = self._pick(rng)
        canvas = np.full((self.size, self.size, 3), _background(rng), np.uint8)
        # Long side at 0.6 to 2.2 of the window: whole pictures, small ones, and crops.
        scale = self.size * np.exp(rng.uniform(np.log(0.6), np.log(2.2))) / max(image.shape[:2])
        return _place(canvas, image, people, scale, (0, 0, self.size, self.size), rng)

    def _mosaic(self, rng: np.random.Generator) -> Scene:
        size = self.size
        cx, cy = (int(size * rng.uniform(0.3, 0.7)) for _ in range(2))
        canvas = np.full((size, size, 3), _background(rng), np.uint8)
        parts = []
        for tile in ((0, 0, cx, cy), (cx, 0, size, cy), (0, cy, cx, size), (cx, cy, size, size)):
            image, people = self._pick(rng)
            longest = max(tile[2] - tile[0], tile[3] - tile[1])
            scale = longest * np.exp(rng.uniform(np.log(0.7), np.log(1.7))) / max(image.shape[:2])
            parts.append(_place(canvas, image, people, scale, tile, rng).people)
        return Scene(canvas, _join(parts))

    def _paste(self, scene: Scene, rng: np.random.Generator) -> Scene:
        """Cut a masked person out and put it over the scene, hiding what is behind."""
        picture = self.pictures[int(rng.choice(self.cutouts))]
        mask, image = picture.mask(), picture.rgb()
        if mask is None or mask.mean() == 0:
            return scene
        mask = (mask > 0).astype(np.uint8)
        ys, xs = np.nonzero(mask)
        window = slice(ys.min(), ys.max() + 1), slice(xs.min(), xs.max() + 1)
        image, mask = image[window], mask[window]
        height = self.size * np.exp(rng.uniform(np.log(0.12), np.log(1.1)))
        scale = height / image.shape[0]
        if rng.random() < 0.5:
            image, mask = image[:, ::-1], mask[:, ::-1]
        size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
        image = np.asarray(cv2.resize(np.ascontiguousarray(image), size, interpolation=cv2.INTER_AREA), np.uint8)
        alpha = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA)
        h, w = alpha.shape
        x = int(rng.integers(-w // 3, max(self.size - 2 * w // 3, 1 - w // 3)))
        y = int(rng.integers(-h // 6, max(self.size - h // 2, 1 - h // 6)))
        x0, y0, x1, y1 = max(x, 0), max(y, 0), min(x + w, self.size), min(y + h, self.size)
        if min(x1 - x0, y1 - y0) < SMALLEST:
            return scene
        piece = alpha[y0 - y : y1 - y, x0 - x : x1 - x, None]
        canvas = scene.image.copy()
        under = canvas[y0:y1, x0:x1]
        canvas[y0:y1, x0:x1] = under * (1 - piece) + image[y0 - y : y1 - y, x0 - x : x1 - x] * piece
        whole = picture.source != "mask-people"  # one mask may cover several people
        box = np.array([[x0, y0, x1, y1]], np.float32)
        behind = _hide_behind(scene.people, box[0])
        visible = (x1 - x0) * (y1 - y0) >= KEEP_VISIBLE * w * h
        if whole and visible:
            new = People(box, np.ones(1, np.float32), NONE, NONE)
        else:
            new = People(NONE, np.zeros(0, np.float32), box, NONE)
        return Scene(canvas, _join([behind, new]))


def together(scenes: list[Scene]) -> tuple[torch.Tensor, Crowds]:
    """Scenes as uint8 [B,3,S,S] and their people."""
    images = torch.from_numpy(np.stack([scene.image for scene in scenes])).permute(0, 3, 1, 2)
    people = [[torch.from_numpy(part) for part in vars(scene.people).values()] for scene in scenes]
    return images, Crowds(*(pad_sequence(list(parts), batch_first=True) for parts in zip(*people, strict=True)))


def recolour(image: Image, rng: np.random.Generator) -> Image:
    """Brightness, contrast, saturation, hue, sometimes grey, blurred, noisy or JPEG-pressed. uint8 in, uint8 out."""
    contrast, light = rng.uniform(0.65, 1.35), 128 * rng.uniform(0.65, 1.3)
    saturation = 0.0 if rng.random() < 0.08 else rng.uniform(0.5, 1.5)
    # (v - 128) · contrast + light, then towards or away from grey, then a gain per channel: one matrix for all.
    mix = saturation * np.eye(3) + (1 - saturation) * np.array([[0.299, 0.587, 0.114]] * 3)
    gain = rng.uniform(0.9, 1.1, 3)
    matrix = np.column_stack([gain[:, None] * mix * contrast, gain * (light - 128 * contrast)])
    done = np.asarray(cv2.transform(image, matrix), np.uint8)
    if rng.random() < 0.1:
        done = np.asarray(cv2.GaussianBlur(done, (0, 0), rng.uniform(0.4, 1.6)), np.uint8)
    if rng.random() < 0.1:
        noise = rng.normal(0, rng.uniform(2, 12), done.shape)
        done = np.clip(done + noise, 0, 255).astype(np.uint8)
    if rng.random() < 0.15:
        _, data = cv2.imencode(".jpg", done, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(30, 80))])
        done = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)
    return done


def _sampling_weights(pictures: list[Picture]) -> NDArray[np.float64]:
    """Cumulative chances: photos with several people and photos of nobody are rare and drawn more often."""
    factor = {
        "people-boxes": 2.0,
        "plain": 4.0,
        "pose-sport": 0.8,
        "parts-fashion": 0.6,
        "art": 1.0,
        "generated": 0.5,
    }
    weights = np.array([factor.get(p.source, 1.0) for p in pictures])
    return np.cumsum(weights / weights.sum())


def _background(rng: np.random.Generator) -> int:
    return GREY if rng.random() < 0.7 else int(rng.integers(0, 256))


def _place(
    canvas: Image,
    image: Image,
    people: People,
    scale: float,
    tile: tuple[int, int, int, int],
    rng: np.random.Generator,
) -> Scene:
    """Scale, stretch a little, mirror half the time, and put the picture at a random place of `tile`, cropped to it."""
    stretch = np.exp(rng.uniform(-0.18, 0.18))
    fx, fy = scale * stretch, scale / stretch
    mirrored = rng.random() < 0.5
    if mirrored:
        image = np.asarray(cv2.flip(image, 1), np.uint8)
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    w, h = max(1, round(image.shape[1] * fx)), max(1, round(image.shape[0] * fy))
    image_scaled = cv2.resize(image, (w, h), interpolation=interpolation)
    tx0, ty0, tx1, ty1 = tile
    x, y = (_offset(a0, a1 - a0, length, rng) for a0, a1, length in ((tx0, tx1, w), (ty0, ty1, h)))
    x0, y0, x1, y1 = max(x, tx0), max(y, ty0), min(x + w, tx1), min(y + h, ty1)
    canvas[y0:y1, x0:x1] = image_scaled[y0 - y : y1 - y, x0 - x : x1 - x]

    def move(boxes: Boxes) -> Boxes:
        b = boxes.copy()
        if mirrored:
            b[:, [0, 2]] = image.shape[1] - b[:, [2, 0]]
        return b * np.array([fx, fy, fx, fy], np.float32) + np.array([x, y, x, y], np.float32)

    moved = People(move(people.boxes), people.trust, move(people.unsure), move(people.settled))
    return Scene(canvas, _clip(moved, (x0, y0, x1, y1)))


def _offset(start: int, room: int, length: int, rng: np.random.Generator) -> int:
    slack = room - length
    return start + int(rng.integers(min(slack, 0), max(slack, 0) + 1))


def _clip(people: People, view: tuple[int, int, int, int]) -> People:
    """Cut boxes at the view; people mostly outside or too small become unsure, those outside vanish."""
    low, high = np.array(view[:2] * 2, np.float32), np.array(view[2:] * 2, np.float32)
    boxes = np.clip(people.boxes, low, high)
    size = boxes[:, 2:] - boxes[:, :2]
    before = np.clip(people.boxes[:, 2:] - people.boxes[:, :2], 1e-3, None).prod(1)
    seen = size.prod(1) / before
    keep = (seen >= KEEP_VISIBLE) & (size.min(1) >= SMALLEST)
    partly = ~keep & (size.min(1) > 1)
    unsure = np.clip(people.unsure, low, high)
    unsure = unsure[(unsure[:, 2:] - unsure[:, :2]).min(1, initial=1e9) > 1]
    settled = np.clip(people.settled, low, high)
    return People(boxes[keep], people.trust[keep], np.concatenate([unsure, boxes[partly]]), settled)


def _hide_behind(people: People, front: NDArray[np.float32]) -> People:
    """People more than 65 % covered by the box in front become unsure."""
    top, bottom = np.maximum(people.boxes[:, :2], front[:2]), np.minimum(people.boxes[:, 2:], front[2:])
    covered = np.clip(bottom - top, 0, None).prod(1) / (people.boxes[:, 2:] - people.boxes[:, :2]).prod(1)
    seen = covered < 1 - KEEP_VISIBLE
    unsure = np.concatenate([people.unsure, people.boxes[~seen]])
    return People(people.boxes[seen], people.trust[seen], unsure, people.settled)


def _join(parts: list[People]) -> People:
    return People(
        np.concatenate([p.boxes for p in parts]),
        np.concatenate([p.trust for p in parts]),
        np.concatenate([p.unsure for p in parts]),
        np.concatenate([p.settled for p in parts]),
    )
