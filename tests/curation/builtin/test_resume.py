"""A training that was stopped goes on, or says why it cannot."""

from pathlib import Path

import pytest
import torch

from curation.builtin.training.resume import resume, save


def test_a_training_goes_on_where_it_was_and_with_what_it_learnt_from(tmp_path: Path) -> None:
    net = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(net.parameters(), 0.1)
    net(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    save(tmp_path / "kept.pt", 7, {"net": net, "optimizer": optimizer}, teacher="a")
    again = torch.nn.Linear(2, 2)
    parts = {"net": again, "optimizer": torch.optim.AdamW(again.parameters(), 0.1)}
    assert resume(tmp_path / "kept.pt", parts, 7, teacher="a") == 7
    assert torch.equal(again.weight, net.weight)
    assert parts["optimizer"].state_dict()["state"][0]["step"] == 1
    with pytest.raises(SystemExit, match="at step 7 already: give --steps 7 or more"):
        resume(tmp_path / "kept.pt", parts, 6, teacher="a")
    with pytest.raises(SystemExit, match="of another teacher"):
        resume(tmp_path / "kept.pt", parts, 9, teacher="b")
    assert [file.name for file in tmp_path.iterdir()] == ["kept.pt"]
