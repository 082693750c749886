"""The numpy head against its torch twin, and its blindness to padding."""

import numpy as np
import pytest
import torch

from curation.builtin.training.train_watermark import CHANNELS, GRID, _Net, _to_numpy, given_to_each
from curation.builtin.watermark import COARSE, FINE, mark_cells


@pytest.mark.parametrize(("rows", "columns"), [(20, 32), (32, 19)])
def test_numpy_and_torch_agree_and_padding_does_not_count(rows: int, columns: int) -> None:
    torch.manual_seed(0)
    net = _Net().eval()
    rng = np.random.default_rng(0)
    mean = rng.normal(size=CHANNELS).astype(np.float32)
    scale = rng.uniform(0.5, 2, CHANNELS).astype(np.float32)
    fine = rng.normal(size=(FINE, GRID, GRID)).astype(np.float32)
    coarse = rng.normal(size=(COARSE, GRID // 2, GRID // 2)).astype(np.float32)
    head = _to_numpy(net, mean, scale)
    on = np.zeros((GRID, GRID), bool)
    on[:rows, :columns] = True
    cells = np.concatenate([fine, given_to_each(coarse, GRID, GRID)])
    x = np.clip((cells - mean[:, None, None]) * scale[:, None, None], -8, 8)
    with torch.no_grad():
        _, logit = net(torch.from_numpy(x)[None], torch.from_numpy(on)[None])
    np.testing.assert_allclose(head.logit(fine, coarse, rows, columns), logit.item(), rtol=1e-4, atol=1e-5)
    fine[:, rows:] = 5
    fine[:, :, columns:] = 5
    coarse[:, -(-rows // 2) :] = 5
    np.testing.assert_allclose(head.logit(fine, coarse, rows, columns), logit.item(), rtol=1e-4, atol=1e-5)


def test_cells_line_up_across_strides() -> None:
    maps = [np.zeros((c, 512 // s, 512 // s), np.float32) for c, s in ((96, 8), (192, 16), (384, 32))]
    chance = np.zeros((512, 512), np.float32)
    for stride, feature_map in zip((8, 16, 32), maps, strict=True):
        feature_map[:, 160 // stride, 320 // stride] = 1
    chance[160, 320] = 1
    fine, coarse = mark_cells(chance, maps)
    cells = np.concatenate([fine, given_to_each(coarse, GRID, GRID)])
    assert cells.shape == (CHANNELS, GRID, GRID)
    assert (cells[:, 10, 20] > 0).all()
    assert (cells[:, :9] == 0).all()
