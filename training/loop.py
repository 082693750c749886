"""The training loop that pretraining and the four tasks share: steps, agreement between ranks, checkpoints,
metrics.

run/
  config.yaml      the settings in full
  ckpt/step-…/     checkpoints (training/checkpoint.py)
  metrics.jsonl    one line per interval; tensorboard/ the same where TensorBoard is installed
  bad/step-….json  sample ids of every step whose loss or gradient was not finite
  .lock            names the process that writes here, and keeps others from it
"""

import gc
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from manifests.account import numbered
from manifests.lock import InUse, alone_in
from shards.index import ShardSet
from shards.stream import Batch
from training import checkpoint
from training.config import RunConfig, UsageError, save_config
from training.distributed import Ranks, forget_gradients, gradients_synced, multiplies_bf16, parameters_by_name
from training.interrupt import EXIT_REQUEUE, Interrupt
from training.meter import Meter, MetricsLog, Work, device_peak, memory_gb
from training.optim import clip_gradients, set_learning_rate, update_average
from training.tell import tell

Opened = TypeVar("Opened")


@dataclass
class Progress:
    """Where a run is. With the settings and the tensors this is all there is to resume: nothing else has a
    state.

    Weights are drawn once from the seed; order, crops and masks are functions of the seed and the position.
    """

    step: int = 0
    samples_seen: int = 0
    skipped: int = 0
    replaced: int = 0


@dataclass(frozen=True)
class Learner:
    """The model spread over the ranks and what trains it. average: moving averages of the trainable weights,
    or empty.
    """

    model: nn.Module
    weights: dict[str, nn.Parameter]
    optimizer: torch.optim.Optimizer
    average: dict[str, Tensor]

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor of the run under the name it has in checkpoints."""
        named: dict[str, Tensor] = {f"model.{name}": weight for name, weight in self.weights.items()}
        for name, weight in self.weights.items():
            state = self.optimizer.state.get(weight, {})
            named |= {f"optimizer.{name}.{kind}": value for kind, value in state.items()}
        return named | {f"average.{name}": value for name, value in self.average.items()}


@dataclass(frozen=True)
class Pass:
    """What one rank saw in the passes of one optimiser step. keys: the sum of its samples' mask keys, modulo
    2**64.
    """

    loss: Tensor
    keys: Tensor
    uids: list[str]
    replaced: int


@dataclass(frozen=True)
class Job:
    """What one run trains: all in which pretraining and the tasks differ.

    images: its length in samples. batches: this rank's micro-batches from a position up to `images`.
    loss: of one micro-batch, to be differentiated. learning_rate: for the next step, by samples seen.
    identity: what must not change between the parts of one run. weights: facts that go beside the tensors, for
    reading them back without this run.
    """

    config: RunConfig
    folder: Path
    shards: ShardSet
    learner: Learner
    images: int
    batches: Callable[[int], Iterator[Batch]]
    loss: Callable[[Batch], Tensor]
    learning_rate: Callable[[int], float]
    work: Work
    identity: dict[str, Any]
    weights: dict[str, Any]


def make_learner(model: nn.Module, optimizer: torch.optim.Optimizer, ema: float) -> Learner:
    """The model, as spread over the ranks, with an average beside its trainable weights where `ema` is not 0."""
    weights = parameters_by_name(model)
    trained = {name: weight for name, weight in weights.items() if weight.requires_grad and ema}
    return Learner(model, weights, optimizer, {name: weight.detach().clone() for name, weight in trained.items()})


def train(job: Job, ranks: Ranks) -> int:
    """Run a job to its end or to a signal; returns the exit code (0, or 75: start me again)."""
    started = time.monotonic()
    with _alone_in(job.folder, ranks):
        return _go_on(job, started, ranks)


def _go_on(job: Job, started: float, ranks: Ranks) -> int:
    config, learner = job.config, job.learner
    passes = config.accumulation(ranks.world)
    progress = _resume(job, ranks)
    if _is_over(job, progress):
        say(ranks, f"{job.folder} has already seen all {progress.samples_seen} images; give more --images to go on")
        return 0

    batches = job.batches(progress.samples_seen)
    interval = Interval(job, ranks)
    asked = done = False
    with (
        Interrupt() as interrupt,
        _garbage_collected_by_hand(),
        MetricsLog(job.folder, progress.step, ranks.is_first) as log,
    ):
        while not (done or asked):
            seen = _forward_backward(job, batches, passes, interval.meter, ranks)
            norm = clip_gradients(learner.weights.values(), config.clip)
            late = config.max_minutes > 0 and time.monotonic() - started > 60 * config.max_minutes
            loss, replaced, asked, late = _agree(seen, interrupt.asked, late, ranks)

            # What is not finite never reaches the weights. Loss and norm are the same on all ranks, so all do
            # the same.
            lr = job.learning_rate(progress.samples_seen)
            finite = math.isfinite(loss) and bool(torch.isfinite(norm))
            if finite:
                set_learning_rate(learner.optimizer, lr)
                learner.optimizer.step()
                if learner.average:
                    update_average(learner.average, learner.weights, config.ema)
            forget_gradients(learner.model)

            progress.step += 1
            progress.samples_seen += config.total_batch
            progress.replaced += replaced
            progress.skipped += not finite
            if not finite:
                _keep_bad_batch(job, progress, loss, float(norm), ranks.gather(seen.uids), ranks)
            _check_limits(job, progress)

            interval.add(loss, seen.keys)
            done = late or _is_over(job, progress)
            if progress.step % config.log_every == 0 or done or asked:
                log.write(interval.close(progress, lr, float(norm)))
            if progress.step % config.save_every == 0 or done or asked:
                _save(job, progress, ranks)
            if progress.step % 100 == 0:
                gc.collect()
    return EXIT_REQUEUE if asked and not done else 0


# -- setting out -------------------------------------------------------------------------------------------------------


def agree_on_data(
    open_data: Callable[[], Opened], shards_of: Callable[[Opened], ShardSet], batch: int, ranks: Ranks
) -> Opened:
    """Open the shards on every rank; the first of each machine builds what index is missing, the others find
    it ready.
    """
    if ranks.local_rank == 0:
        opened = open_data()
    ranks.barrier()
    if ranks.local_rank != 0:
        opened = open_data()
    shards = shards_of(opened)
    if len(set(ranks.gather(shards.fingerprint))) > 1:
        raise UsageError("the machines of this run see different shards; give them the same files")
    if shards.count < batch:
        raise UsageError(
            f"the data holds {shards.count} samples, less than one batch of {batch}; "
            "give more data or a smaller --batch"
        )
    without = f"; {numbered(shards.without_image, 'key')} without an image" if shards.without_image else ""
    held = f"{numbered(shards.count, 'sample')} in {numbered(len(shards.shards), 'shard')}"
    say(
        ranks,
        f"data: {held}, {shards.bytes / 1e9:.2f} GB, fingerprint {shards.fingerprint}{without}",
    )
    return opened


@contextmanager
def _alone_in(folder: Path, ranks: Ranks) -> Iterator[None]:
    """Keep other runs from writing into the run folder, which is made, and is gone again where an error leaves nothing
    in it. UsageError on all ranks where another run writes there.
    """
    with ExitStack() as stack:
        problem: UsageError | None = None
        if ranks.is_first:
            try:
                stack.enter_context(alone_in(folder, lambda: os.listdir(folder) != [".lock"]))
            except InUse as holder:
                problem = UsageError(f"{folder} is in use by {holder}; wait for it, or give another folder")
            except OSError as error:
                problem = UsageError(f"cannot write in {folder}: {error.strerror}; give a folder that can be written")
        if problem := ranks.from_first(problem):
            raise problem
        yield


def _resume(job: Job, ranks: Ranks) -> Progress:
    """Fill the tensors from the checkpoint that `resume` means and tell where it stood; a fresh start without one."""
    found: Path | UsageError | None = ranks.from_first(_find_checkpoint(job) if ranks.is_first else None)
    if isinstance(found, UsageError):
        raise found
    manifest = checkpoint.read_manifest(found) if found else None
    if found and manifest:
        _refuse_another_run(job, found, manifest)
    if ranks.is_first:
        save_config(job.config, job.folder / "config.yaml")
    if not (found and manifest):
        return Progress()
    before, now = manifest["config"], json.loads(json.dumps(asdict(job.config)))
    changed = [f"; {name} is now {value}" for name, value in now.items() if before.get(name) != value]
    say(ranks, f"resuming from {found}{''.join(changed)}")
    checkpoint.load(found, job.learner.tensors())
    return Progress(**manifest["progress"])


def _refuse_another_run(job: Job, found: Path, manifest: dict[str, Any]) -> None:
    """Raise UsageError where a checkpoint's identity is not this job's."""
    for name, value in job.identity.items():
        if (before := manifest["identity"].get(name)) != value:
            raise UsageError(
                f"{found} was trained with {name} = {before}, and now it is {value}; "
                "put it back as it was, or start a new run in another folder"
            )


def _find_checkpoint(job: Job) -> Path | UsageError | None:
    """The checkpoint to go on from, None to start; an error is returned, so that all ranks can raise it
    together.
    """
    folder, resume = job.folder / "ckpt", job.config.resume
    saved = checkpoint.saved_in(folder)
    try:
        if resume not in ("auto", "never"):
            return _find_named(Path(resume), saved)
        if resume == "auto":
            return checkpoint.newest(folder)
    except UsageError as error:
        return error
    if saved:
        return UsageError(
            f"{folder} holds checkpoints of another run; give another folder, or --resume auto to go on with it"
        )
    return None


def _find_named(named: Path, saved: list[Path]) -> Path:
    """What `--resume CHECKPOINT` means in a run folder that has `saved` these: a run that began at a checkpoint of
    another goes on from its own newest, so that the same command can be given again; going back inside a run would
    leave later checkpoints that the next start takes for its own.
    """
    if not (named / "manifest.json").is_file() and any(named.glob("ckpt/step-*")):
        raise UsageError(f"{named} is a run folder; --resume wants one of its checkpoints, {named}/ckpt/step-…")
    # A word is a mistake; the path of a checkpoint that is gone by now may stand in a command that is given again.
    bare = not named.name.startswith("step-") and (not saved or len(named.parts) < 2)
    if not (named / "manifest.json").is_file() and bare:
        raise UsageError(f"resume is '{named}', which is no checkpoint; give auto, never or the path of …/ckpt/step-…")
    if not saved:
        checkpoint.verify(named)
        return named
    if named.resolve().parent != saved[0].resolve().parent:
        return checkpoint.newest(saved[0].parent) or named
    if named.name < saved[-1].name:
        raise UsageError(
            f"{saved[-1]} comes after {named.name}, and the next start would take it for its own; delete what comes "
            "after, or give another --run to go on from there beside it"
        )
    checkpoint.verify(named)
    return named


# -- one step ----------------------------------------------------------------------------------------------------------


def _forward_backward(job: Job, batches: Iterator[Batch], passes: int, meter: Meter, ranks: Ranks) -> Pass:
    """Gradients of one optimiser step, added up over `passes` micro-batches and averaged over the ranks."""
    loss = torch.zeros((), device=ranks.device)
    keys = torch.zeros((), dtype=torch.int64, device=ranks.device)
    uids: list[str] = []
    replaced = 0
    bf16 = multiplies_bf16(job.config.precision, ranks.device)
    for number in range(passes):
        with meter.waiting():
            batch = next(batches)
        uids += batch.uids
        for broken in batch.broken:
            tell(f"replaced {broken.shard} row {broken.row} (key {broken.key}): {broken.reason}")
        replaced += len(batch.broken)
        torch.manual_seed(int(batch.mask_keys[0]))  # dropout hangs on the samples alone: exact after a stop
        batch = batch.to(ranks.device)
        with gradients_synced(job.learner.model, now=number == passes - 1):
            with torch.autocast(ranks.device.type, torch.bfloat16, enabled=bf16):
                part = job.loss(batch)
            (part / passes).backward()
        loss += part.detach() / passes
        keys += batch.mask_keys.sum()
    return Pass(loss, keys, uids, replaced)


def _is_over(job: Job, progress: Progress) -> bool:
    """Whether no whole batch is left: part of one may be, where a run went on with another --batch."""
    return progress.samples_seen + job.config.total_batch > job.images


def _agree(seen: Pass, asked: bool, late: bool, ranks: Ranks) -> tuple[float, int, bool, bool]:
    """Mean loss, samples replaced, and whether any rank was asked to stop or is out of time: alike on all
    ranks.
    """
    numbers = torch.stack([seen.loss / ranks.world, *(seen.loss.new_tensor(n) for n in (seen.replaced, asked, late))])
    loss, replaced, any_asked, any_late = ranks.sum(numbers).tolist()
    return loss, int(replaced), any_asked > 0, any_late > 0


def _check_limits(job: Job, progress: Progress) -> None:
    """End a run that skips too many steps or, judged after 1000 samples or an epoch, meets too many broken
    samples.
    """
    if progress.skipped > job.config.max_skipped:
        raise UsageError(
            f"{progress.skipped} steps had a loss or gradient that is not finite; their sample ids are in "
            f"{job.folder / 'bad'}. Lower the learning rate, or raise --max-skipped"
        )
    judged = progress.samples_seen >= min(1000, job.shards.count)
    if judged and progress.replaced > job.config.max_broken * progress.samples_seen:
        raise UsageError(
            f"{progress.replaced} of {progress.samples_seen} samples were broken, more than max_broken = "
            f"{job.config.max_broken:g}; check the shards named above, or raise --max-broken"
        )


# -- what is written ---------------------------------------------------------------------------------------------------


class Interval:
    """Collects what one metrics line says of the steps since the last."""

    def __init__(self, job: Job, ranks: Ranks) -> None:
        self.job, self.ranks = job, ranks
        self.peak = job.config.peak_tflops or device_peak(ranks.device)
        self.meter = Meter()
        self._losses: list[float] = []
        self._keys = torch.zeros((), dtype=torch.int64, device=ranks.device)

    def add(self, loss: float, keys: Tensor) -> None:
        if math.isfinite(loss):
            self._losses.append(loss)
        self._keys += keys
        self.meter.step(self.job.config.total_batch)

    def close(self, progress: Progress, lr: float, norm: float) -> dict[str, Any]:
        """The metrics of the interval; the next one begins. samples: a sum over the samples seen, for
        comparing runs.
        """
        rates = self.meter.read(self.job.work, self.ranks.world, self.peak)
        self.meter = Meter()
        batch = self.job.config.total_batch
        left = (self.job.images - progress.samples_seen) // batch
        metrics = {
            **asdict(progress),
            "steps": progress.step + left,
            "loss": sum(self._losses) / len(self._losses) if self._losses else None,
            "lr": lr,
            "grad_norm": norm if math.isfinite(norm) else None,
            **rates,
            "memory_gb": memory_gb(self.ranks.device),
            "eta_s": left * batch / rates["images_per_s"],
            "samples": f"{int(self.ranks.sum(self._keys)) % 2**64:016x}",
        }
        self._losses.clear()
        self._keys.zero_()
        return metrics


def _save(job: Job, progress: Progress, ranks: Ranks) -> None:
    facts = {
        "progress": asdict(progress),
        "identity": job.identity,
        "config": asdict(job.config),
        "weights": job.weights,
    }
    folder = job.folder / "ckpt"
    path = checkpoint.save(folder, progress.step, job.learner.tensors(), facts, ranks, job.config.keep)
    say(ranks, f"saved {path} after {progress.samples_seen} images")


def _keep_bad_batch(
    job: Job, progress: Progress, loss: float, norm: float, uids: list[list[str]], ranks: Ranks
) -> None:
    """Write down which samples a skipped step held."""
    if ranks.is_first:
        path = job.folder / "bad" / f"step-{progress.step:08d}.json"
        path.parent.mkdir(exist_ok=True)
        facts = {**asdict(progress), "loss": str(loss), "grad_norm": str(norm), "uids_by_rank": uids}
        path.write_text(json.dumps(facts, indent=1))
        tell(f"WARNING: step {progress.step} skipped: loss {loss}, gradient norm {norm}; sample ids in {path}")


@contextmanager
def _garbage_collected_by_hand() -> Iterator[None]:
    """Keep Python's collector from stopping one rank while the others wait."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def say(ranks: Ranks, text: str) -> None:
    if ranks.is_first:
        tell(text)
