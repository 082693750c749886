"""Masked-autoencoder pretraining from shards, start to end.

run/
  config.yaml      the settings in full
  ckpt/step-…/     checkpoints (training/checkpoint.py)
  metrics.jsonl    one line per interval; tensorboard/ the same where TensorBoard is installed
  bad/step-….json  sample ids of every step whose loss or gradient was not finite
"""

import gc
import json
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from shards.cache import ShardCache
from shards.crop import RandomCrop
from shards.index import ShardSet, open_shards
from shards.order import ORDER_VERSION, Order
from shards.stream import Batch, stream
from training import checkpoint
from training.config import PretrainConfig, UsageError, save_config
from training.distributed import Ranks, all_ranks, bare, gradients_synced, parameters_by_name, spread
from training.interrupt import EXIT_REQUEUE, Interrupt
from training.meter import Meter, MetricsLog, device_peak, memory_gb, pretraining_work
from training.models.zoo import build_mae
from training.optim import adamw, clip_gradients, learning_rate, set_learning_rate, update_average


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


def pretrain(config: PretrainConfig) -> int:
    """Run a pretraining to its end or to a signal; returns the exit code (0, or 75: start me again)."""
    with all_ranks() as ranks:
        return _pretrain(config, ranks)


def _pretrain(config: PretrainConfig, ranks: Ranks) -> int:
    started = time.monotonic()
    passes = config.accumulation(ranks.world)
    shards = _open_data(config, ranks)
    identity = _identity(config, shards)
    learner = _build(config, ranks)
    progress = _resume(config, identity, learner, ranks)
    images = config.steps * config.total_batch
    if progress.samples_seen >= images:
        _say(ranks, f"{config.run_folder} has already seen all {images} images; give more --images to go on")
        return 0

    batches = _stream(config, shards, progress, ranks)
    interval = Interval(config, ranks)
    asked = done = False
    with (
        Interrupt() as interrupt,
        _garbage_collected_by_hand(),
        MetricsLog(config.run_folder, progress.step, ranks.is_first) as log,
    ):
        while not (done or asked):
            seen = _forward_backward(config, learner.model, batches, passes, interval.meter, ranks)
            norm = clip_gradients(learner.weights.values(), config.clip)
            late = config.max_minutes > 0 and time.monotonic() - started > 60 * config.max_minutes
            loss, replaced, asked, late = _agree(seen, interrupt.asked, late, ranks)

            # What is not finite never reaches the weights. Loss and norm are the same on all ranks, so all do
            # the same.
            lr = learning_rate(config.peak_lr, progress.samples_seen, images, config.warmup)
            finite = math.isfinite(loss) and bool(torch.isfinite(norm))
            if finite:
                set_learning_rate(learner.optimizer, lr)
                learner.optimizer.step()
                if learner.average:
                    update_average(learner.average, learner.weights, config.ema)
            learner.optimizer.zero_grad(set_to_none=True)

            progress.step += 1
            progress.samples_seen += config.total_batch
            progress.replaced += replaced
            progress.skipped += not finite
            if not finite:
                _keep_bad_batch(config, progress, loss, float(norm), ranks.gather(seen.uids), ranks)
            _check_limits(config, progress, shards)

            interval.add(loss, seen.keys)
            done = late or progress.samples_seen >= images
            if progress.step % config.log_every == 0 or done or asked:
                log.write(interval.close(progress, lr, float(norm)))
            if progress.step % config.save_every == 0 or done or asked:
                _save(config, progress, identity, learner, ranks)
            if progress.step % 100 == 0:
                gc.collect()
    return EXIT_REQUEUE if asked and not done else 0


# -- setting out -------------------------------------------------------------------------------------------------------


def _open_data(config: PretrainConfig, ranks: Ranks) -> ShardSet:
    """Open the shards on every rank; the first of each machine builds what index is missing, the others find
    it ready.
    """
    cache = ShardCache(limit=int(config.cache_gb * 1e9))
    if ranks.local_rank == 0:
        shards = open_shards(config.data, cache)
    ranks.barrier()
    if ranks.local_rank != 0:
        shards = open_shards(config.data, cache)
    if len(set(ranks.gather(shards.fingerprint))) > 1:
        raise UsageError("the machines of this run see different shards; give them the same files")
    if shards.count < config.total_batch:
        raise UsageError(
            f"the data holds {shards.count} samples, less than one batch of {config.total_batch}; "
            "give more data or a smaller --batch"
        )
    without = f"; {shards.without_image} keys without an image" if shards.without_image else ""
    _say(
        ranks,
        f"data: {shards.count} samples in {len(shards.shards)} shards, {shards.bytes / 1e9:.2f} GB, "
        f"fingerprint {shards.fingerprint}{without}",
    )
    return shards


def _identity(config: PretrainConfig, shards: ShardSet) -> dict[str, Any]:
    """What must not change between the parts of one run, for its samples and weights to mean the same."""
    return {
        "data": shards.fingerprint,
        "order_version": ORDER_VERSION,
        "window": config.window,
        "seed": config.seed,
        "model": config.model,
        "decoder": config.decoder,
        "size": "x".join(map(str, config.image_size)),
        "ema": config.ema > 0,
    }


def _build(config: PretrainConfig, ranks: Ranks) -> Learner:
    """Fresh weights, the same on every rank, and their optimizer."""
    torch.manual_seed(config.seed)
    with ranks.device:
        mae = build_mae(
            config.arch,
            cross=config.decoder == "cross",
            mask_ratio=config.mask_ratio,
            predict_ratio=config.predict_ratio if config.decoder == "cross" else None,
            norm_pix=config.norm_pix,
        )
    model = spread(
        mae,
        [mae.encoder.blocks, mae.decoder.blocks],
        ranks,
        sharded=config.parallel == "fsdp",
        compiled=config.compile == "on" or (config.compile == "auto" and ranks.device.type == "cuda"),
        recompute=config.activation_checkpointing,
        bf16=config.precision == "bf16",
    )
    optimizer = adamw(bare(model), config.peak_lr, (config.beta1, config.beta2), config.weight_decay)
    weights = parameters_by_name(model)
    trained = {name: weight for name, weight in weights.items() if weight.requires_grad and config.ema}
    model.train()
    return Learner(model, weights, optimizer, {name: weight.detach().clone() for name, weight in trained.items()})


def _resume(config: PretrainConfig, identity: dict[str, Any], learner: Learner, ranks: Ranks) -> Progress:
    """Fill the tensors from the checkpoint that `resume` means and tell where it stood; a fresh start without
    one.
    """
    found = ranks.from_first(_find_checkpoint(config) if ranks.is_first else None)
    if isinstance(found, UsageError):
        raise found
    if ranks.is_first:
        config.run_folder.mkdir(parents=True, exist_ok=True)
        save_config(config, config.run_folder / "config.yaml")
    if found is None:
        return Progress()
    manifest = checkpoint.read_manifest(found)
    for name, value in identity.items():
        if manifest["identity"][name] != value:
            raise UsageError(
                f"{found} was trained with {name} = {manifest['identity'][name]}, and now it is {value}; "
                "put it back as it was, or start a new run with another --run"
            )
    before, now = manifest["config"], json.loads(json.dumps(asdict(config)))
    changed = [f"; {name} is now {value}" for name, value in now.items() if before.get(name) != value]
    _say(ranks, f"resuming from {found}{''.join(changed)}")
    checkpoint.load(found, learner.tensors())
    return Progress(**manifest["progress"])


def _find_checkpoint(config: PretrainConfig) -> Path | UsageError | None:
    """The checkpoint to go on from, None to start; an error is returned, so that all ranks can raise it
    together.
    """
    folder = config.run_folder / "ckpt"
    try:
        if config.resume == "auto":
            return checkpoint.newest(folder)
        if config.resume != "never":
            checkpoint.verify(Path(config.resume))
            return Path(config.resume)
    except UsageError as error:
        return error
    if any(folder.glob("step-*")):
        return UsageError(
            f"{folder} holds checkpoints of another run; give another --run, or --resume auto to go on with it"
        )
    return None


def _stream(config: PretrainConfig, shards: ShardSet, progress: Progress, ranks: Ranks) -> Iterator[Batch]:
    """This rank's micro-batches from where the run stands up to its end."""
    return stream(
        shards,
        Order(shards.counts, config.seed, config.window),
        RandomCrop(config.image_size, (config.min_crop, 1.0), scaled_decode=config.scaled_decode),
        start=progress.samples_seen,
        stop=config.steps * config.total_batch,
        micro_batch=config.micro_batch,
        rank=ranks.rank,
        world=ranks.world,
        workers=config.workers,
        pin_memory=ranks.device.type == "cuda",
    )


# -- one step ----------------------------------------------------------------------------------------------------------


def _forward_backward(
    config: PretrainConfig, model: nn.Module, batches: Iterator[Batch], passes: int, meter: Meter, ranks: Ranks
) -> Pass:
    """Gradients of one optimiser step, added up over `passes` micro-batches and averaged over the ranks."""
    loss = torch.zeros((), device=ranks.device)
    keys = torch.zeros((), dtype=torch.int64, device=ranks.device)
    uids: list[str] = []
    replaced = 0
    for number in range(passes):
        with meter.waiting():
            batch = next(batches)
        uids += batch.uids
        for broken in batch.broken:
            print(f"replaced {broken.shard} row {broken.row} (key {broken.key}): {broken.reason}", flush=True)
        replaced += len(batch.broken)
        batch = batch.to(ranks.device)
        with gradients_synced(model, now=number == passes - 1):
            with torch.autocast(ranks.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
                part = model(batch.images, batch.mask_keys)
            (part / passes).backward()
        loss += part.detach() / passes
        keys += batch.mask_keys.sum()
    return Pass(loss, keys, uids, replaced)


def _agree(seen: Pass, asked: bool, late: bool, ranks: Ranks) -> tuple[float, int, bool, bool]:
    """Mean loss, samples replaced, and whether any rank was asked to stop or is out of time: alike on all
    ranks.
    """
    numbers = torch.stack([seen.loss / ranks.world, *(seen.loss.new_tensor(n) for n in (seen.replaced, asked, late))])
    loss, replaced, any_asked, any_late = ranks.sum(numbers).tolist()
    return loss, int(replaced), any_asked > 0, any_late > 0


def _check_limits(config: PretrainConfig, progress: Progress, shards: ShardSet) -> None:
    """End a run that skips too many steps or, judged after 1000 samples or an epoch, meets too many broken
    samples.
    """
    if progress.skipped > config.max_skipped:
        raise UsageError(
            f"{progress.skipped} steps had a loss or gradient that is not finite; their sample ids are in "
            f"{config.run_folder / 'bad'}. Lower --base-lr, or raise --max-skipped"
        )
    judged = progress.samples_seen >= min(1000, shards.count)
    if judged and progress.replaced > config.max_broken * progress.samples_seen:
        raise UsageError(
            f"{progress.replaced} of {progress.samples_seen} samples were broken, more than max_broken = "
            f"{config.max_broken:g}; check the shards named above, or raise --max-broken"
        )


# -- what is written ---------------------------------------------------------------------------------------------------


class Interval:
    """Collects what one metrics line says of the steps since the last."""

    def __init__(self, config: PretrainConfig, ranks: Ranks) -> None:
        self.config, self.ranks = config, ranks
        cross = config.decoder == "cross"
        self.work = pretraining_work(config.arch, config.image_size, config.mask_ratio, cross, config.predict_ratio)
        self.peak = config.peak_tflops or device_peak(ranks.device)
        self.meter = Meter()
        self._losses: list[float] = []
        self._keys = torch.zeros((), dtype=torch.int64, device=ranks.device)

    def add(self, loss: float, keys: Tensor) -> None:
        if math.isfinite(loss):
            self._losses.append(loss)
        self._keys += keys
        self.meter.step(self.config.total_batch)

    def close(self, progress: Progress, lr: float, norm: float) -> dict[str, Any]:
        """The metrics of the interval; the next one begins. samples: a sum over the samples seen, for
        comparing runs.
        """
        rates = self.meter.read(self.work, self.ranks.world, self.peak)
        images = self.config.steps * self.config.total_batch
        metrics = {
            **asdict(progress),
            "steps": self.config.steps,
            "loss": sum(self._losses) / len(self._losses) if self._losses else None,
            "lr": lr,
            "grad_norm": norm if math.isfinite(norm) else None,
            **rates,
            "memory_gb": memory_gb(self.ranks.device),
            "eta_s": (images - progress.samples_seen) / rates["images_per_s"],
            "samples": f"{int(self.ranks.sum(self._keys)) % 2**64:016x}",
        }
        self._losses.clear()
        self._keys.zero_()
        return metrics


def _save(config: PretrainConfig, progress: Progress, identity: dict[str, Any], learner: Learner, ranks: Ranks) -> None:
    facts = {"progress": asdict(progress), "identity": identity, "config": asdict(config)}
    path = checkpoint.save(config.run_folder / "ckpt", progress.step, learner.tensors(), facts, ranks, config.keep)
    _say(ranks, f"saved {path} after {progress.samples_seen} images")


def _keep_bad_batch(
    config: PretrainConfig, progress: Progress, loss: float, norm: float, uids: list[list[str]], ranks: Ranks
) -> None:
    """Write down which samples a skipped step held."""
    if ranks.is_first:
        path = config.run_folder / "bad" / f"step-{progress.step:08d}.json"
        path.parent.mkdir(exist_ok=True)
        facts = {**asdict(progress), "loss": str(loss), "grad_norm": str(norm), "uids_by_rank": uids}
        path.write_text(json.dumps(facts, indent=1))
        print(
            f"WARNING: step {progress.step} skipped: loss {loss}, gradient norm {norm}; sample ids in {path}",
            flush=True,
        )


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


def _say(ranks: Ranks, text: str) -> None:
    if ranks.is_first:
        print(text, flush=True)
