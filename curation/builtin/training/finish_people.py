"""Calibrate the person detector: python -m curation.builtin.training.finish_people DATA --work FOLDER

A box says little about the rest of the picture. A head on the detector's pooled features learns from `train/` whether
anybody is in the picture; on `dev/` three numbers are then fitted so that a box's score is the chance of a person:
    logit(score) = a · detector's logit + b · head's logit + c.
`a` goes into the detector's last layer, `b` and `c` into the head.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from curation.builtin import Builtin
from curation.builtin.boxes import input_shape, keep_best
from curation.builtin.detector import likely_boxes
from curation.builtin.heads import Head
from curation.builtin.networks import PEOPLE_SIZE, PERSON_OVERLAP, VERSION
from curation.builtin.training.arrays import write_arrays
from curation.builtin.training.calibrate import fit_line
from curation.builtin.training.collection import Picture, read_collection
from curation.builtin.training.fit_head import fit, save
from curation.builtin.training.metrics import auc, average_precision, top_scores
from curation.builtin.training.people_labels import overlap, people_in
from curation.builtin.training.variants import UNKNOWN, recolour_gently
from curation.engines import weights_identity

SEED, LEAST = 3, 0.01
Floats = NDArray[np.float32]


def main() -> None:
    args = _arguments()
    torch.set_num_threads(args.threads)
    out = args.work / "finished"
    out.mkdir(exist_ok=True)
    builtin = Builtin(args.threads, weights=out)
    detector = load_file(args.work / "people.safetensors")
    save_file(detector, out / "people.safetensors")
    kept = args.work / f"{weights_identity('presence', out / 'people.safetensors', version=VERSION)}.npz"
    head = fit(*_training_set(args.data, kept, builtin))
    save(head, out / "presence.safetensors")
    pictures = read_collection(args.data, "dev", {"people-coco", "people-voc"})
    known, hits = [], []
    for picture in pictures:
        rows, presence = _raw_boxes(builtin, picture.rgb())
        known.append(np.stack([rows[:, 4], np.full(len(rows), presence)], 1))
        hits.append(matched(rows, picture.persons))
    (a, b), c = fit_line(np.concatenate(known), np.concatenate(hits))
    print(f"logit = {a:.3f} · detector {b:+.3f} · presence {c:+.3f}")
    for name in (f"person.{branch}.2.{part}" for branch in range(3) for part in ("weight", "bias")):
        detector[name] = (detector[name].float() * a).half()
    save_file(detector, out / "people.safetensors")
    lines = {"slope": np.array([b], np.float32), "offset": np.array([c], np.float32)}
    save(Head(**{**vars(head), **lines}), out / "presence.safetensors")
    _report(pictures, Builtin(args.threads, weights=out))


def _training_set(data: Path, path: Path, builtin: Builtin) -> tuple[Floats, NDArray[np.int8]]:
    """Features [n,1344] and "somebody is there" [n,1] of `train/`, each picture as it is and mirrored."""
    if not path.exists():
        rng = np.random.default_rng(SEED)
        features, truths = [], []
        for picture in read_collection(data, "train"):
            image = picture.rgb()
            changed = recolour_gently(np.ascontiguousarray(image[:, ::-1]), rng)
            features += [_features(builtin, image), _features(builtin, changed)]
            truths += [_anybody(picture)] * 2
        write_arrays(path, features=np.stack(features).astype(np.float16), truths=np.array(truths, np.int8))
    with np.load(path) as saved:
        return saved["features"].astype(np.float32), saved["truths"][:, None]


def _features(builtin: Builtin, image: NDArray[np.uint8]) -> Floats:
    return builtin.features([image], {"style"}).of("people_pooled")[0]


def _anybody(picture: Picture) -> int:
    """1: a box or a mask. 0: no box although all are boxed, or not even a guess of the teacher's."""
    if len(people_in(picture).boxes) or picture.label.get("persons_at_least"):
        return 1
    return 0 if picture.complete or not len(picture.teacher) else UNKNOWN


def _raw_boxes(builtin: Builtin, image: NDArray[np.uint8]) -> tuple[Floats, float]:
    """([n,5] boxes after suppression, in pixels of the picture, with the detector's logit in place of the score; the
    head's logit)."""
    f = builtin.features([image], {"people"})
    ((sides, logits),) = f.of("person_cells")
    boxes, scores = likely_boxes(sides, logits, input_shape(image.shape[0], image.shape[1], PEOPLE_SIZE), LEAST)
    rows = keep_best(boxes, scores, LEAST, PERSON_OVERLAP)
    rows[:, :4] *= max(image.shape[:2]) / PEOPLE_SIZE
    rows[:, 4] = np.log(rows[:, 4] / (1 - rows[:, 4]))
    return rows, float(f.of("anybody")[0])


def matched(rows: Floats, people: Floats) -> NDArray[np.bool_]:
    """Which boxes, best first, are the first to cover a person with an IoU of at least 0.5."""
    iou, free, hits = overlap(rows[:, :4], people), np.ones(len(people), bool), np.zeros(len(rows), bool)
    for i in range(len(rows)):
        fit_here = np.where(free, iou[i], 0.0)
        if len(people) and fit_here.max() >= 0.5:
            free[fit_here.argmax()], hits[i] = False, True
    return hits


def _report(pictures: list[Picture], builtin: Builtin) -> None:
    for source in sorted({p.source for p in pictures}):
        chosen = [p for p in pictures if p.source == source]
        boxes = [builtin.people(builtin.features([p.rgb()], {"people"}))[0] for p in chosen]
        truth = [p.persons for p in chosen]
        there = [len(t) > 0 for t in truth]
        print(f"{source}: AP50 {average_precision(boxes, truth):.3f}, AUC {auc(top_scores(boxes), there):.3f}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with train/, dev/ and people_teacher.parquet")
    parser.add_argument("--work", type=Path, required=True, help="the folder that slim_people wrote its weights to")
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
