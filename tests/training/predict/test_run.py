"""The command: every input is a row, what cannot be meant is one sentence."""

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.shard_factory import photo, write_foreign
from tests.training.predict.conftest import write_video
from training.config import UsageError
from training.predict import run
from training.predict.results import ENDINGS, held
from training.predict.run import Options, predict, summary

WHOLE = Options(boxes="whole", device="cpu")


def test_every_input_is_a_row_whatever_it_holds(checkpoints, photos: Path, tmp_path):
    (photos / "empty.jpg").write_bytes(b"")
    (photos / "text.png").write_text("no picture")
    (photos / "notes.txt").write_text("no picture")
    (photos / "cut.jpg").write_bytes(photo(5, 400, 400)[:2000])
    os.mkfifo(photos / "pipe.jpg")
    write_foreign(photos / "shard.tar", range(2))
    rows = predict([str(photos)], tmp_path / "out", checkpoints, WHOLE)
    table = pd.read_parquet(tmp_path / "out" / "manifest.parquet").set_index("name")
    assert len(table) == len(rows) == 9
    failed = table[table.status == "failed"].error_message
    assert sorted(failed.index) == ["cut", "empty", "pipe", "text"]
    assert failed["pipe"].startswith("OSError: not a regular file")
    assert (failed.drop("pipe").str.startswith("BrokenImage")).all()
    good = table[table.status == "success"]
    assert sorted(good.index) == ["a", "b", "more/a", "shard/000000", "shard/000001"]
    assert (good.num_persons == 1).all()
    assert dict(zip(good.width, good.height, strict=True)).items() >= {120: 96, 30: 50, 200: 300}.items()
    assert all((tmp_path / "out" / file).is_file() for files in good.files for file in files)
    passed_over = json.loads((tmp_path / "out" / "run.json").read_text())["passed_over"]
    told = "5 photos with 5 people; 4 failed; 1 passed over as no photos or videos: 1 .txt"
    assert summary(rows, passed_over) == told
    assert summary([row for row in rows if row.name == "a"], {}) == "1 photo with 1 person"


def test_batches_over_images_of_mixed_sizes_do_not_change_the_answers(checkpoints, photos: Path, tmp_path):
    boxes = [{"uri": str(p), "boxes": [[2, 2, 28, 48], [5, 9, 25, 40]]} for p in photos.rglob("*.*")]
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    for batch in (1, 5):
        options = Options(boxes=str(tmp_path / "boxes.json"), device="cpu", batch=batch)
        predict([str(photos)], tmp_path / f"out{batch}", checkpoints, options)
    for name in ("a", "b", "more/a"):
        one, five = (json.loads((tmp_path / f"out{n}" / f"{name}.keypoints.json").read_text()) for n in (1, 5))
        assert len(one["people"]) == 2
        for p, q in zip(one["people"], five["people"], strict=True):
            np.testing.assert_allclose(p["keypoints"], q["keypoints"], atol=0.02)
        depths = [np.load(tmp_path / f"out{n}" / f"{name}.depth.npy") for n in (1, 5)]
        np.testing.assert_allclose(*depths, atol=1e-4)


def test_an_image_without_people_gives_empty_results(checkpoints, photos: Path, tmp_path):
    (tmp_path / "boxes.json").write_text(
        json.dumps(
            [{"uri": str(photos / "a.jpg"), "boxes": []}, {"uri": str(photos / "b.PNG"), "boxes": [[99, 0, 120, 9]]}]
        )
    )
    options = Options(boxes=str(tmp_path / "boxes.json"), device="cpu")
    a, b, more = predict([str(photos)], tmp_path / "out", checkpoints, options)
    assert (a.status, a.num_persons, a.dropped_boxes) == ("success", 0, 0)
    assert (b.status, b.num_persons, b.dropped_boxes) == ("success", 0, 1)
    assert (more.status, more.error_message.split(":")[0]) == ("failed", "NoBoxes")
    assert np.isnan(np.load(tmp_path / "out" / "a.normals.npy")).all()


def test_what_a_killed_run_left_of_an_input_does_not_stay_beside_the_next_ones(checkpoints, photos: Path, tmp_path):
    out, killed = tmp_path / "out", {"depth": checkpoints["depth"]}
    predict([str(photos)], out, killed, WHOLE)
    (out / "manifest.parquet").unlink()  # SIGKILL leaves files and no rows
    rows = predict([str(photos / "a.jpg")], out, {"pose": checkpoints["pose"]}, WHOLE)
    assert {p.name for p in out.glob("a.*")} == set(rows[0].files)
    assert (out / "b.depth.npy").is_file()  # of another input


def test_all_that_is_written_about_an_input_is_known_by_its_ending(checkpoints, photos: Path, tmp_path):
    video = write_video(tmp_path / "film.mp4", 2)
    rows = predict([str(photos / "a.jpg"), str(video)], tmp_path / "out", checkpoints, WHOLE)
    assert {file.removeprefix(f"{row.name}.") for row in rows for file in row.files} == ENDINGS


def test_the_manifest_is_a_file_of_boxes_for_the_next_run(checkpoints, photos: Path, tmp_path):
    predict([str(photos)], tmp_path / "out", {"pose": checkpoints["pose"]}, WHOLE)
    again = Options(boxes=str(tmp_path / "out" / "manifest.parquet"), device="cpu")
    rows = predict([str(photos)], tmp_path / "two", {"pose": checkpoints["pose"]}, again)
    assert [row.num_persons for row in rows] == [1, 1, 1]


def test_the_record_states_models_and_conventions(checkpoints, photos: Path, tmp_path):
    predict([str(photos / "a.jpg")], tmp_path / "out", checkpoints, WHOLE)
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["encoder_passes"] == 2
    assert list(record["models"]) == ["pose", "parts", "depth", "normals"]
    assert "relative within one person" in record["conventions"]["depth.npy"]


def test_the_same_command_again_writes_the_same(checkpoints, photos: Path, tmp_path):
    first = predict([str(photos)], tmp_path / "out", checkpoints, WHOLE)
    before = {p: p.read_bytes() for p in (tmp_path / "out").rglob("*.n*")}
    assert predict([str(photos)], tmp_path / "out", checkpoints, WHOLE) == first
    assert {p: p.read_bytes() for p in (tmp_path / "out").rglob("*.n*")} == before


def test_an_output_that_holds_something_else_is_refused(checkpoints, photos: Path, tmp_path):
    with pytest.raises(UsageError, match="is not empty and holds no earlier results"):
        predict([str(photos / "a.jpg")], photos, checkpoints, WHOLE)
    with pytest.raises(UsageError, match="is a file; the last argument is the folder"):
        predict([str(photos / "a.jpg")], photos / "b.PNG", checkpoints, WHOLE)
    (tmp_path / "curated").mkdir()
    (tmp_path / "curated" / "run.json").write_text('{"source": "photos"}')
    with pytest.raises(UsageError, match="is not empty and holds no earlier results"):
        predict([str(photos / "a.jpg")], tmp_path / "curated", checkpoints, WHOLE)


def test_another_run_leaves_nothing_of_the_one_before(checkpoints, photos: Path, tmp_path):
    out = tmp_path / "out"
    predict([str(photos)], out, checkpoints, WHOLE)
    (out / "mine.txt").write_text("of the user")
    (photos / "more" / "a.jpg").write_bytes(b"broken by now")
    rows = predict([str(photos)], out, {"pose": checkpoints["pose"]}, Options("whole", device="cpu", pictures=False))
    assert [row.files for row in rows] == [("a.keypoints.json",), ("b.keypoints.json",), ()]
    left = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert left == {"a.keypoints.json", "b.keypoints.json", "manifest.parquet", "run.json", ".lock", "mine.txt"}


def test_a_manifest_that_names_files_elsewhere_deletes_none_of_them(checkpoints, photos: Path, tmp_path):
    out, models = tmp_path / "out", {"pose": checkpoints["pose"]}
    (tmp_path / "theirs.txt").write_text("not of predict")
    predict([str(photos / "a.jpg")], out, models, WHOLE)
    rows = pq.read_table(out / "manifest.parquet")
    files = pa.array([["../theirs.txt", str(tmp_path / "theirs.txt")]], rows.schema.field("files").type)
    pq.write_table(rows.set_column(rows.schema.get_field_index("files"), "files", files), out / "manifest.parquet")
    predict([str(photos / "a.jpg")], out, models, WHOLE)
    assert (tmp_path / "theirs.txt").read_text() == "not of predict"


def files_in(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}


def test_results_of_other_inputs_stay_as_they_are(checkpoints, photos: Path, tmp_path):
    out = tmp_path / "out"
    predict([str(photos / "a.jpg"), str(photos / "b.PNG")], out, checkpoints, WHOLE)
    before = files_in(out)
    predict([str(photos / "more" / "a.jpg")], out, {"pose": checkpoints["pose"]}, WHOLE)
    for name in ("a.panel.jpg", "a.depth.npy", "b.parts.png"):
        assert files_in(out)[name] == before[name]
    table = pq.read_table(out / "manifest.parquet").to_pylist()
    assert [(row["name"], row["uri"]) for row in table] == [
        ("a", str(photos / "a.jpg")),
        ("b", str(photos / "b.PNG")),
        ("a-2", str(photos / "more" / "a.jpg")),
    ]
    predict([str(photos / "a.jpg")], out, {"pose": checkpoints["pose"]}, Options("whole", device="cpu", pictures=False))
    table = pq.read_table(out / "manifest.parquet").to_pylist()
    assert [row["name"] for row in table] == ["a", "b", "a-2"]
    assert table[0]["files"] == ["a.keypoints.json"]
    named = {file for row in table for file in row["files"]}
    assert set(files_in(out)) == named | {"manifest.parquet", "run.json", ".lock"}


def test_an_interrupted_second_run_leaves_what_was_there(checkpoints, photos: Path, tmp_path, monkeypatch):
    out, models = tmp_path / "out", {"pose": checkpoints["pose"]}
    video = write_video(photos / "walk.mp4", frames=9)
    predict([str(photos)], out, models, WHOLE)
    before = files_in(out)

    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "write_photo", interrupted)
    with pytest.raises(KeyboardInterrupt):
        predict([str(photos)], out, models, WHOLE)
    assert files_in(out) == before
    real, calls = run.Writer.add, []
    monkeypatch.setattr(run.Writer, "add", lambda *a: real(*a) if calls.append(0) or len(calls) < 3 else interrupted())
    with pytest.raises(KeyboardInterrupt):
        predict([str(video)], out, models, WHOLE)
    assert files_in(out) == before


def test_killed_before_the_old_files_are_gone_the_same_command_deletes_them(
    checkpoints, photos: Path, tmp_path, monkeypatch
):
    out, models = tmp_path / "out", {"pose": checkpoints["pose"]}
    few = Options("whole", device="cpu", pictures=False)
    predict([str(photos)], out, models, WHOLE)

    def killed(*arguments, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", killed)
        with pytest.raises(KeyboardInterrupt):
            predict([str(photos)], out, models, few)
    assert (out / "a.panel.jpg").exists()
    predict([str(photos)], out, models, few)
    predict([str(photos)], tmp_path / "fresh", models, few)
    assert set(files_in(out)) == set(files_in(tmp_path / "fresh"))


def test_a_second_process_is_refused(checkpoints, photos: Path, tmp_path):
    with held(tmp_path / "out"), pytest.raises(UsageError, match=rf"process {os.getpid()} on .* writes results into"):
        predict([str(photos)], tmp_path / "out", {"pose": checkpoints["pose"]}, WHOLE)


def test_a_wrong_checkpoint_is_told_before_anything_is_written(checkpoints, photos: Path, tmp_path):
    with pytest.raises(UsageError, match="which was trained for parts; give it as --parts"):
        predict([str(photos)], tmp_path / "out", {"pose": checkpoints["parts"]}, WHOLE)
    assert not (tmp_path / "out").exists()
