"""Reconstruction figures: what is shown is what the model saw and said."""

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from tests.shard_factory import photo, write_foreign
from training.cli import app
from training.config import UsageError
from training.figures import guess, reconstruct
from training.models.zoo import FAMILY, build_mae
from training.pretrain import pretrain


def picture(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (256, 256, 3), dtype=np.uint8)


@pytest.mark.parametrize("norm_pix", [True, False])
def test_a_perfect_prediction_gives_the_photo_back(norm_pix):
    """With predictions replaced by the targets, giving back the pixel statistics restores every pixel."""
    model = build_mae(FAMILY["tiny"], norm_pix=norm_pix)
    real = model.reconstruct

    def perfect(*a):
        result = real(*a)
        return type(result)(result.target, result.target, result.masked)

    model.reconstruct = perfect
    shown = guess(model, picture(), 0.75, seed=1)
    assert np.array_equal(shown.reconstructed, shown.original)
    assert shown.error == 0


@pytest.mark.parametrize(("ratio", "hidden"), [(0.75, 192), (0.95, 244)])
def test_visible_patches_stay_and_hidden_ones_are_grey(ratio, hidden):
    torch.manual_seed(0)
    shown = guess(build_mae(FAMILY["tiny"]), picture(), ratio, seed=1)
    shapes = (16, 16, 16, 16, 3)
    pictures = (shown.original, shown.masked, shown.reconstructed)
    blocks = [pixels.reshape(shapes).swapaxes(1, 2).reshape(256, -1) for pixels in pictures]
    grey = (blocks[1] == 127).all(1)
    assert grey.sum() == hidden
    assert (blocks[1][~grey] == blocks[0][~grey]).all()
    assert (blocks[2][~grey] == blocks[0][~grey]).all()
    assert (blocks[2][grey] != blocks[0][grey]).any(1).all()


def test_figures_have_the_size_and_the_yardstick_of_the_training(tmp_path, config):
    """A run without normalised targets has errors of which 1 is nothing in particular."""
    pretrain(config(images=8, size="64x96", norm_pix=False))
    (tmp_path / "photo.jpg").write_bytes(photo(1, 80, 200))
    done = CliRunner().invoke(app, ["reconstruct", f"{tmp_path}/run", f"{tmp_path}/photo.jpg", "--out", f"{tmp_path}"])
    assert "in ImageNet's standard deviations" in done.output
    assert Image.open(tmp_path / "triplets.png").size == (3 * (96 + 4) - 4, 22 + 64)


def test_figures_are_drawn_from_files_folders_and_shards(tmp_path, config):
    pretrain(config(images=16, size=""))
    (tmp_path / "photos").mkdir()
    for i in range(3):
        (tmp_path / f"photos/{i}.jpg").write_bytes(photo(i, 80, 200))
    write_foreign(tmp_path / "held-out.tar", range(10))
    for source, rows in (("photos", 3), ("photos/1.jpg", 1), ("held-out.tar", 4)):
        drawn = reconstruct(tmp_path / "run", [str(tmp_path / source)], tmp_path / "out", limit=4, side=64)
        assert list(drawn.errors) == [0.75, 0.85, 0.9, 0.95]
        assert all(0 < error < 2 for error in drawn.errors.values())
        sizes = [Image.open(path).size for path in drawn.paths]
        assert sizes[1] == (5 * 68 - 4, 22 + rows * 68 - 4)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="empty itself holds no photos and no shards; give photo files"):
        reconstruct(tmp_path / "run", [str(tmp_path / "empty")], tmp_path / "out")
    with pytest.raises(UsageError, match="cannot be read"):
        reconstruct(tmp_path / "run", [str(tmp_path / "none.jpg")], tmp_path / "out")
    (tmp_path / "notes.txt").write_text("no picture")
    for source, what in (("absent", "does not exist"), ("notes.txt", "is no photo and no .tar")):
        said = rf"{source} {what}; give photo files \(\.jpg, .*\), folders of them, or shards$"
        with pytest.raises(UsageError, match=said):
            reconstruct(tmp_path / "run", [str(tmp_path / source)], tmp_path / "out")
    (tmp_path / "bad.jpg").write_bytes(b"no picture")
    with pytest.raises(UsageError, match=r"bad\.jpg: not an image.*leave it out"):
        reconstruct(tmp_path / "run", [str(tmp_path / "bad.jpg")], tmp_path / "out")
