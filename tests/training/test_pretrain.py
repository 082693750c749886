"""A run that is stopped, killed or moved goes on exactly; what is bad is skipped, replaced or refused, and counted."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from manifests import store
from manifests.lock import held
from shards.order import Order
from shards.stream import Positions
from tests.shard_factory import photo, write_curated, write_members
from training import checkpoint, loop
from training import pretrain as pretraining
from training.checkpoint import DamagedCheckpoint, newest
from training.config import PretrainConfig, UsageError, save_config
from training.meter import MetricsLog
from training.models import convert
from training.models.mae import mask_order
from training.pretrain import hidden_elsewhere, pretrain

EXACT = ("step", "samples_seen", "loss", "lr", "grad_norm", "samples", "skipped", "replaced")


def metrics(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def exact(run: Path) -> list[tuple]:
    """What must agree to the bit between two runs, step by step."""
    return [tuple(m[name] for name in EXACT) for m in metrics(run)]


def tensors(run: Path, step: int) -> dict[str, Tensor]:
    """Every tensor of a checkpoint: weights, optimizer, average."""
    path = run / "ckpt" / f"step-{step:08d}"
    entries = checkpoint.verify(path)["tensors"]
    into = {name: torch.empty(e["shape"], dtype=getattr(torch, e["dtype"])) for name, e in entries.items()}
    checkpoint.load(path, into)
    return into


def assert_same_run(a: Path, b: Path, step: int) -> None:
    assert exact(a) == exact(b)
    one, other = tensors(a, step), tensors(b, step)
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def run_killed(config: PretrainConfig, folder: Path, when: str) -> None:
    """Run in a process that kills itself with SIGKILL as `when`, a piece of Python, arranges."""
    save_config(config, folder / "killed.yaml")
    code = f"""
import os, signal, torch
torch.set_num_threads(1)
from training import checkpoint, meter
from training.cli import main
def die(*_, **__): os.kill(os.getpid(), signal.SIGKILL)
def on_call(number, function, instead):
    calls = iter(range(1, 10**6))
    return lambda *a, **k: instead(*a, **k) if next(calls) == number else function(*a, **k)
{when}
main()
"""
    done = subprocess.run(
        [sys.executable, "-c", code, "pretrain", "--config", str(folder / "killed.yaml")],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr


KILLS = {
    "between saves": "meter.MetricsLog.write = on_call(3, meter.MetricsLog.write, die)",
    "while tensors are written": """
real = checkpoint.save_file
def half(rows, path):
    real(rows, path); os.truncate(path, os.path.getsize(path) // 2); die()
checkpoint.save_file = on_call(2, real, half)""",
    "before the manifest": "checkpoint._publish = on_call(2, checkpoint._publish, die)",
    "before the rename": """
real = os.replace
def rename(a, b):
    if os.path.basename(b) == 'step-00000004': die()
    real(a, b)
os.replace = rename""",
}


@pytest.fixture
def straight(config, tmp_path) -> Path:
    """Six steps without a break."""
    assert pretrain(config(run=str(tmp_path / "straight"), ema=0.9)) == 0
    return tmp_path / "straight"


@pytest.mark.parametrize(
    "when", [pytest.param(k, marks=[] if k == "while tensors are written" else pytest.mark.slow) for k in KILLS]
)
def test_killed_and_resumed_is_the_straight_run_to_the_bit(straight, config, tmp_path, when):
    run_killed(config(ema=0.9), tmp_path, KILLS[when])
    run = tmp_path / "run"
    saved = [p.name for p in (run / "ckpt").glob("step-*")]
    assert saved == ["step-00000002"]
    assert pretrain(config(ema=0.9, workers=2)) == 0  # other workers, too
    assert_same_run(straight, run, 6)
    assert list((run / "ckpt").glob(".tmp-*")) == []


@pytest.mark.parametrize("asked", [signal.SIGUSR1, signal.SIGINT, signal.SIGHUP])
def test_stopping_by_a_signal_saves_and_resumes_to_the_bit(straight, config, tmp_path, monkeypatch, asked):
    real = MetricsLog.write

    def signalling(self: MetricsLog, written: dict) -> None:
        real(self, written)
        if written["step"] == 2:
            os.kill(os.getpid(), asked)

    monkeypatch.setattr(MetricsLog, "write", signalling)
    before = signal.getsignal(signal.SIGTERM)
    assert pretrain(config(ema=0.9, save_every=100)) == 75
    assert [p.name for p in (tmp_path / "run/ckpt").glob("step-*")] == ["step-00000003"]  # the step is finished
    assert signal.getsignal(signal.SIGTERM) == before
    assert pretrain(config(ema=0.9)) == 0
    assert_same_run(straight, tmp_path / "run", 6)


def test_a_training_whose_lines_nobody_reads_any_more_is_saved(config, tmp_path):
    """Ctrl-C ends every process of a pipe: `| tee log` is gone when the trainer speaks next."""
    save_config(config(images=8 * 10_000, save_every=10_000), tmp_path / "piped.yaml")
    command = [sys.executable, "-m", "training.cli", "pretrain", "--config", str(tmp_path / "piped.yaml")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as trainer:
        try:
            assert any("loss" in line for line in trainer.stdout)
            trainer.stdout.close()
            trainer.send_signal(signal.SIGINT)
            assert trainer.wait(timeout=120) == 75
            assert trainer.stderr.read() == ""
        finally:
            trainer.kill()
    assert len(list((tmp_path / "run/ckpt").glob("step-*"))) == 1


def test_a_time_limit_saves_and_ends_well(config, tmp_path):
    assert pretrain(config(max_minutes=1e-6)) == 0
    assert [p.name for p in (tmp_path / "run/ckpt").glob("step-*")] == ["step-00000001"]
    assert pretrain(config()) == 0
    assert len(metrics(tmp_path / "run")) == 6


def test_accumulation_changes_nothing_but_rounding(straight, config, tmp_path):
    pretrain(config(run=str(tmp_path / "other"), micro_batch=2, ema=0.9))
    for a, b in zip(metrics(straight), metrics(tmp_path / "other"), strict=True):
        assert a["samples"] == b["samples"]
        assert a["loss"] == pytest.approx(b["loss"], rel=2e-3)


def test_a_finished_run_says_so(straight, config, capsys):
    assert pretrain(config(run=str(straight), ema=0.9)) == 0
    assert "already seen all 48 images" in capsys.readouterr().out


def test_training_learns(config, tmp_path):
    pretrain(config(images=8 * 30, precision="fp32", save_every=1000))
    losses = [m["loss"] for m in metrics(tmp_path / "run")]
    assert losses[-1] < 0.8 * losses[0]


def test_every_copy_of_an_image_hides_other_patches():
    images, keys = torch.arange(2 * 3).view(2, 1, 1, 3).to(torch.uint8), torch.tensor([5, -7])
    copies, apart = hidden_elsewhere(images, keys, 3)
    assert copies[:, 0, 0, 0].tolist() == [0, 0, 0, 3, 3, 3]
    assert apart[::3].tolist() == keys.tolist()
    visible = mask_order(apart, 256)[:, :64]
    chosen = torch.zeros(6, 256).scatter_(1, visible, 1.0)
    shared = (chosen @ chosen.T).fill_diagonal_(0.0)
    assert 0 < shared.max() < 32  # of 64; by chance 16
    same = hidden_elsewhere(images, keys, 1)
    assert torch.equal(same[0], images)
    assert torch.equal(same[1], keys)


def test_more_masks_lower_the_loss_of_as_many_images(config, tmp_path):
    """The same pictures in the same order; the last steps' mean."""
    found = {}
    for masks in (1, 4):
        pretrain(config(run=str(tmp_path / f"{masks}"), masks=masks, images=8 * 30, precision="fp32", save_every=1000))
        found[masks] = [m["loss"] for m in metrics(tmp_path / f"{masks}")]
    assert sum(found[4][-5:]) < sum(found[1][-5:])


@pytest.mark.parametrize("kind", ["loss", "gradient"])
def test_what_is_not_finite_never_reaches_the_weights(config, tmp_path, monkeypatch, kind):
    """Step 3 is spoilt: weights and optimizer stay as step 2 left them, its samples are told, training goes on."""
    calls = iter(range(10**6))
    real = pretraining.build_mae

    def spoilt(*a, **k):
        mae = real(*a, **k)
        forward = mae.forward

        def at_fifth(images: Tensor, keys: Tensor) -> Tensor:
            bad = next(calls) == 4  # two passes a step
            loss = forward(images, keys)
            if bad and kind == "gradient":
                loss.register_hook(lambda g: g * float("inf"))
            return loss * float("nan") if bad and kind == "loss" else loss

        mae.forward = at_fifth
        return mae

    monkeypatch.setattr(pretraining, "build_mae", spoilt)
    settings = config(save_every=1, ema=0.5)
    assert pretrain(settings) == 0
    run = tmp_path / "run"
    two, three, four = (tensors(run, step) for step in (2, 3, 4))
    assert all(torch.equal(two[n], three[n]) for n in two)
    assert any(not torch.equal(two[n], four[n]) for n in two)
    assert all(torch.isfinite(t).all() for t in tensors(run, 6).values())
    assert [m["skipped"] for m in metrics(run)] == [0, 0, 1, 1, 1, 1]
    bad = json.loads((run / "bad/step-00000003.json").read_text())
    shards = pretraining.open_shards(settings.data)
    order = Order(shards.counts, settings.seed, settings.window)
    places = [order.sample_at(p) for p in range(16, 24)]
    assert bad["uids_by_rank"] == [[shards.samples(p.shard).uid_hex(p.row) for p in places]]


def test_a_budget_of_skipped_steps_ends_the_run(config, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "clip_gradients", lambda *_: torch.tensor(float("nan")))
    with pytest.raises(UsageError, match=r"3 steps had a loss or gradient.*--max-skipped"):
        pretrain(config(max_skipped=2))
    assert len(list((tmp_path / "run/bad").iterdir())) == 3


def test_broken_samples_are_counted_up_to_a_limit(config, tmp_path):
    members = [(f"{i:03d}.jpg", b"broken" if i % 4 == 0 else photo(i)) for i in range(24)]
    write_members(tmp_path / "hurt/a.tar", members)
    assert pretrain(config(data=(str(tmp_path / "hurt"),), max_broken=0.5)) == 0
    assert metrics(tmp_path / "run")[-1]["replaced"] == 12  # 6 of 24, twice
    with pytest.raises(UsageError, match="more than max_broken"):
        pretrain(config(data=(str(tmp_path / "hurt"),), max_broken=0.2, run=str(tmp_path / "strict")))


# -- resuming what does not fit ----------------------------------------------------------------------------------------


def test_a_changed_data_set_is_refused(config, tmp_path, data):
    pretrain(config(images=16))
    shutil.rmtree(data)
    write_curated(data, shards=3, per_shard=9)
    with pytest.raises(UsageError, match=r"was trained with data = .*start a new run"):
        pretrain(config())


@pytest.mark.parametrize("changed", [{"seed": 5}, {"window": 1}, {"size": "96"}, {"decoder": "cross"}, {"ema": 0.5}])
def test_another_run_in_the_same_folder_is_refused(config, changed, tmp_path):
    pretrain(config(images=8))
    settings = (tmp_path / "run/config.yaml").read_text()
    name = next(iter(changed))
    with pytest.raises(UsageError, match=f"was trained with {name} = "):
        pretrain(config(**changed))
    assert (tmp_path / "run/config.yaml").read_text() == settings


def test_settings_that_may_change_are_announced(config, capsys):
    pretrain(config(images=16))
    pretrain(config(images=32, base_lr=0.01))
    assert "images is now 32; base_lr is now 0.01" in capsys.readouterr().out


def test_two_runs_do_not_write_into_one_folder(config, tmp_path):
    run = config(run=str(tmp_path / "a"), images=16)
    (tmp_path / "a").mkdir()
    with held(tmp_path / "a" / ".lock"), pytest.raises(UsageError, match=rf"in use by process {os.getpid()} on "):
        pretrain(run)
    assert [path.name for path in (tmp_path / "a").iterdir()] == [".lock"]
    assert pretrain(run) == 0


def test_a_refused_run_leaves_no_folder(config, tmp_path):
    with pytest.raises(UsageError):
        pretrain(config(run=str(tmp_path / "new" / "run"), resume=str(tmp_path / "nowhere")))
    assert not (tmp_path / "new").exists()


def test_never_resuming_wants_an_empty_folder(config, tmp_path):
    pretrain(config(images=8))
    with pytest.raises(UsageError, match="holds checkpoints of another run"):
        pretrain(config(resume="never"))
    assert pretrain(config(resume="never", run=str(tmp_path / "new"), images=8)) == 0


@pytest.mark.parametrize("resume", ["no", "Never", "latest", ""])
def test_what_is_no_checkpoint_does_not_resume(straight, config, resume):
    with pytest.raises(UsageError, match="no checkpoint; give auto, never or"):
        pretrain(config(run=str(straight), ema=0.9, resume=resume))


def test_resuming_from_a_named_checkpoint(straight, config, tmp_path):
    run = tmp_path / "run"
    assert pretrain(config(ema=0.9, resume=str(straight / "ckpt/step-00000004"))) == 0
    assert exact(run) == exact(straight)[4:]
    with pytest.raises(DamagedCheckpoint, match="cannot be read"):
        pretrain(config(resume=str(tmp_path / "step-00000009"), run=str(tmp_path / "x")))


def test_the_same_command_with_a_named_checkpoint_of_another_run_goes_on(straight, config, tmp_path):
    """Its first start is at the named one; the next ones are where the run itself has come to."""
    began = str(straight / "ckpt/step-00000002")
    assert pretrain(config(ema=0.9, resume=began, max_minutes=1e-6)) == 0
    assert pretrain(config(ema=0.9, resume=began)) == 0
    assert exact(tmp_path / "run") == exact(straight)[2:]


def test_going_back_inside_a_run_wants_what_comes_after_deleted(straight, config):
    """The next start would take it for its own, and saving would count it among the newest."""
    back = config(run=str(straight), ema=0.9, resume=str(straight / "ckpt/step-00000002"))
    with pytest.raises(UsageError, match=r"step-00000006 comes after step-00000002.*delete what comes after"):
        pretrain(back)
    reference = exact(straight)
    for later in ("step-00000004", "step-00000006"):
        shutil.rmtree(straight / "ckpt" / later)
    assert pretrain(back) == 0
    assert exact(straight) == reference


def test_a_run_folder_is_no_checkpoint(straight, config, tmp_path):
    with pytest.raises(UsageError, match="is a run folder; --resume wants one of its checkpoints"):
        pretrain(config(ema=0.9, resume=str(straight)))


def test_what_was_killed_while_saving_at_another_step_is_deleted(config, tmp_path):
    left = tmp_path / "run/ckpt/.tmp-step-00000437"
    left.mkdir(parents=True)
    (left / "rank-00000.safetensors").write_bytes(b"half")
    pretrain(config(images=16))
    assert [p.name for p in (tmp_path / "run/ckpt").iterdir()] == ["step-00000002"]


def test_metrics_and_settings_outlive_a_disk_that_is_full_when_they_are_written_anew(config, tmp_path, monkeypatch):
    pretrain(config(images=16))
    run = tmp_path / "run"
    before = (run / "metrics.jsonl").read_text(), (run / "config.yaml").read_text()

    def full(_path: Path, _data: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(store, "_write_all", full)
    with pytest.raises(OSError, match="No space left"):
        save_config(config(), run / "config.yaml")
    with pytest.raises(OSError, match="No space left"):
        MetricsLog(run, 1)
    assert before == ((run / "metrics.jsonl").read_text(), (run / "config.yaml").read_text())


def test_alone_there_is_nothing_to_shard(straight, config, tmp_path):
    assert pretrain(config(ema=0.9, parallel="fsdp")) == 0
    assert_same_run(straight, tmp_path / "run", 6)


def test_half_an_environment_of_many_processes_is_told(config, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(UsageError, match=r"WORLD_SIZE and lacks RANK, MASTER_ADDR.*torchrun"):
        pretrain(config())


def test_a_damaged_newest_checkpoint_falls_back_loudly(straight, config, tmp_path, capsys):
    last = straight / "ckpt/step-00000006/rank-00000.safetensors"
    spoilt = bytearray(last.read_bytes())
    spoilt[-1] ^= 1
    last.write_bytes(spoilt)
    reference = exact(straight)
    assert pretrain(config(run=str(straight), ema=0.9)) == 0
    assert "does not have the sha256" in capsys.readouterr().err
    assert exact(straight) == reference
    checkpoint.verify(straight / "ckpt/step-00000006")  # written anew


def test_with_every_checkpoint_damaged_nothing_is_started_over(config, tmp_path):
    pretrain(config(images=32))
    for manifest in (tmp_path / "run/ckpt").glob("*/manifest.json"):
        manifest.write_text("{")
    with pytest.raises(DamagedCheckpoint, match="none of the 2 checkpoints"):
        pretrain(config())


def test_a_full_disk_is_told_and_spares_what_was_saved(config, tmp_path, monkeypatch):
    pretrain(config(images=16))
    saved = tensors(tmp_path / "run", 2)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(UsageError, match=r"No space left on device.*unharmed"):
        pretrain(config())
    assert [p.name for p in (tmp_path / "run/ckpt").iterdir()] == ["step-00000002"]
    assert all(torch.equal(t, saved[n]) for n, t in tensors(tmp_path / "run", 2).items())


def test_a_checkpoint_folder_that_cannot_be_made_is_told(config, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/ckpt").write_text("in the way")
    with pytest.raises(UsageError, match=r"step 2 could not be written to .*ckpt \("):
        pretrain(config(images=16))


def test_old_checkpoints_are_deleted_newest_kept(config, tmp_path):
    pretrain(config(save_every=1, keep=2))
    assert sorted(p.name for p in (tmp_path / "run/ckpt").iterdir()) == ["step-00000005", "step-00000006"]


def test_a_copy_of_a_checkpoint_is_the_users_own(config, tmp_path):
    """It is neither deleted nor counted among those that are kept."""
    kept = tmp_path / "run/ckpt"
    pretrain(config(images=8, save_every=1, keep=2))
    shutil.copytree(kept / "step-00000001", kept / "step-00000001-best")
    pretrain(config(save_every=1, keep=2))
    assert sorted(p.name for p in kept.iterdir()) == ["step-00000001-best", "step-00000005", "step-00000006"]


def test_a_checkpoint_that_the_disk_no_longer_gives_is_passed_over(straight, monkeypatch, capsys):
    real = checkpoint.file_digest

    def failing(file, name):
        if "step-00000006" in file.name:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(file, name)

    monkeypatch.setattr(checkpoint, "file_digest", failing)
    assert newest(straight / "ckpt") == straight / "ckpt/step-00000004"
    assert "step-00000006/rank-00000.safetensors cannot be read (Input/output error)" in capsys.readouterr().err


def test_steps_are_counted_on_after_another_batch_size(config, tmp_path):
    pretrain(config(images=16))
    pretrain(config(images=48, batch=16))
    assert [(m["step"], m["steps"]) for m in metrics(tmp_path / "run")] == [(1, 2), (2, 2), (3, 4), (4, 4)]
    assert all(m["eta_s"] >= 0 for m in metrics(tmp_path / "run"))


def test_the_average_of_a_run_is_what_others_read(straight):
    stored = tensors(straight, 6)
    read, _ = convert._read_folder(straight)
    name = "encoder.blocks.0.attn.qkv.weight"
    assert torch.equal(read[name], stored[f"average.{name}"])
    assert not torch.equal(read[name], stored[f"model.{name}"])


def test_damaged_checkpoints_do_not_push_out_those_after_the_fall_back(config, tmp_path):
    pretrain(config(save_every=2, keep=9))
    for step in (4, 6):
        damaged = tmp_path / f"run/ckpt/step-0000000{step}"
        next(damaged.glob("*.safetensors")).write_bytes(b"")
    pretrain(config(save_every=1, keep=2, images=40))  # goes on from step 2 and ends with 5
    assert newest(tmp_path / "run/ckpt") == tmp_path / "run/ckpt/step-00000005"
    kept = sorted(p.name for p in (tmp_path / "run/ckpt").iterdir())
    assert kept == ["step-00000004", "step-00000005", "step-00000006"]


def test_too_few_samples_for_a_batch(config):
    with pytest.raises(UsageError, match="24 samples, less than one batch of 32"):
        pretrain(config(batch=32, images=64))


def test_every_position_is_somebodys():
    for world in (1, 2, 4):
        taken = [p for r in range(world) for batch in Positions(100, 164, 4, r, world) for p in batch]
        assert sorted(taken) == list(range(100, 164))
        assert len(Positions(100, 164, 4, 0, world)) * world * 4 == 64
