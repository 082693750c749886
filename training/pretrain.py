"""Masked-autoencoder pretraining from shards, start to end.

    run/
      config.yaml      the settings in full
      ckpt/step-…/     checkpoints (training/checkpoint.py)
      metrics.jsonl    one line per interval; tensorboard/ the same where TensorBoard is installed
      bad/step-….json  sample ids of every step whose loss or gradient was not finite
"""

import gc
import json
import time
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
    """Where a run is. With the settings and the tensors this is all there is to resume."""

    step: int = 0
    samples_seen: int = 0
    skipped: int = 0
    replaced: int = 0


def pretrain(config: PretrainConfig) -> int:
    """Run a pretraining to its end, or to a signal; returns the process's exit code (0, or 75: start me again)."""
    with all_ranks() as ranks:
        return _pretrain(config, ranks)


def _pretrain(config: PretrainConfig, ranks: Ranks) -> int:
    started = time.monotonic()
    passes = config.accumulation(ranks.world)
    shards = _open_shards(config, ranks)
    order = Order(shards.counts, config.seed, config.window)
    run = config.run_folder
    identity = _identity(config, shards)

    # -- model, optimizer, and where we were
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
    average = {n: p.detach().clone() for n, p in weights.items() if p.requires_grad} if config.ema else {}
    tensors = _tensors(weights, optimizer, average)
    progress = _resume(config, identity, tensors, ranks)
    if progress.samples_seen >= config.steps * config.total_batch:
        _say(ranks, f"{run} has already seen all {config.images} images; give more --images to go on")
        return 0

    # -- the data from there on
    batches = stream(
        shards,
        order,
        RandomCrop(config.image_size, (config.min_crop, 1.0), scaled_decode=config.scaled_decode),
        start=progress.samples_seen,
        stop=config.steps * config.total_batch,
        micro_batch=config.micro_batch,
        rank=ranks.rank,
        world=ranks.world,
        workers=config.workers,
        pin_memory=ranks.device.type == "cuda",
    )

    # -- the loop
    work = pretraining_work(
        config.arch, config.image_size, config.mask_ratio, config.decoder == "cross", config.predict_ratio
    )
    peak = config.peak_tflops or device_peak(ranks.device)
    log = MetricsLog(run, progress.step) if ranks.is_first else None
    meter, interrupt = Meter(), Interrupt()
    seen_keys = torch.zeros((), dtype=torch.int64, device=ranks.device)
    losses: list[float] = []
    saved_at = progress.step
    _collect_garbage_only_when_told()
    model.train()
    try:
        while progress.samples_seen < config.steps * config.total_batch:
            loss = torch.zeros((), device=ranks.device)
            uids: list[str] = []
            replaced = 0
            for i in range(passes):
                waiting = time.perf_counter()
                batch = next(batches)
                meter.waited(time.perf_counter() - waiting)
                uids += batch.uids
                replaced += _report_broken(batch)
                batch = batch.to(ranks.device)
                with gradients_synced(model, now=i == passes - 1):
                    with torch.autocast(ranks.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
                        part = model(batch.images, batch.mask_keys)
                    (part / passes).backward()
                loss += part.detach() / passes
                seen_keys += batch.mask_keys.sum()

            norm = clip_gradients(weights.values(), config.clip)
            late = config.max_minutes and time.monotonic() - started > 60 * config.max_minutes
            shared = torch.stack(
                [loss / ranks.world, loss.new_tensor(replaced), loss.new_tensor(interrupt.asked), loss.new_tensor(late)]
            )
            mean_loss, replaced_now, asked, out_of_time = ranks.sum(shared).tolist()
            finite = bool(torch.isfinite(norm)) and mean_loss - mean_loss == 0

            lr = learning_rate(config.peak_lr, progress.samples_seen, config.images, config.warmup)
            if finite:  # what is not finite never reaches the weights; all ranks see the same numbers and agree
                set_learning_rate(optimizer, lr)
                optimizer.step()
                if average:
                    update_average(average, weights, config.ema)
                losses.append(mean_loss)
            optimizer.zero_grad(set_to_none=True)
            progress.step += 1
            progress.samples_seen += config.total_batch
            progress.replaced += int(replaced_now)
            meter.step(config.total_batch)
            if not finite:
                progress.skipped += 1
                _keep_bad_batch(run, progress, mean_loss, float(norm), ranks.gather(uids), ranks)
                if progress.skipped > config.max_skipped:
                    raise UsageError(
                        f"{progress.skipped} steps had a loss or gradient that is not finite; the sample ids are in {run / 'bad'}. "
                        "Lower --base-lr, or raise --max-skipped"
                    )
            _check_broken(config, progress, shards)

            last = progress.samples_seen >= config.steps * config.total_batch
            stop = bool(asked or out_of_time or last)
            if progress.step % config.log_every == 0 or stop:
                digest = ranks.sum(seen_keys.clone())
                rates = meter.read(work, ranks.world, peak)
                if log:
                    left = config.steps * config.total_batch - progress.samples_seen
                    log.write(
                        {
                            **asdict(progress),
                            "steps": config.steps,
                            "loss": sum(losses) / len(losses) if losses else float("nan"),
                            "lr": lr,
                            "grad_norm": float(norm),
                            **rates,
                            "memory_gb": memory_gb(ranks.device),
                            "eta_s": left / rates["images_per_s"],  # type: ignore[operator]
                            "samples": f"{int(digest) % 2**64:016x}",
                        }
                    )
                losses.clear()
                seen_keys.zero_()
            if progress.step % config.save_every == 0 or stop:
                facts = {"progress": asdict(progress), "identity": identity, "config": asdict(config)}
                checkpoint.save(run / "ckpt", progress.step, tensors, facts, ranks, config.keep)
                saved_at = progress.step
            if progress.step % 100 == 0:
                gc.collect()
            if stop:
                break
    finally:
        interrupt.restore()
        batches.close()
        gc.enable()
        if log:
            log.close()
    where = run / "ckpt" / f"step-{saved_at:08d}"
    _say(ranks, f"saved {where} after {progress.samples_seen} images")
    return EXIT_REQUEUE if asked and not last else 0


def _open_shards(config: PretrainConfig, ranks: Ranks) -> ShardSet:
    """Open the data on every rank; the first of each machine builds what index is missing, the others find it ready."""
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
            f"the data holds {shards.count} samples, less than one batch of {config.total_batch}; give more data or a smaller --batch"
        )
    _say(
        ranks,
        f"data: {shards.count} samples in {len(shards.shards)} shards, {shards.bytes / 1e9:.2f} GB, "
        f"fingerprint {shards.fingerprint}"
        + (f"; {shards.without_image} keys without an image" if shards.without_image else ""),
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
    }


def _tensors(
    weights: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer, average: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Every tensor of a run under the name it has in checkpoints."""
    tensors: dict[str, Tensor] = {f"model.{name}": p for name, p in weights.items()}
    for name, parameter in weights.items():
        for kind, value in optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer.{name}.{kind}"] = value
    return tensors | {f"average.{name}": value for name, value in average.items()}


def _resume(config: PretrainConfig, identity: dict[str, Any], tensors: dict[str, Tensor], ranks: Ranks) -> Progress:
    """Fill the tensors from the checkpoint that `config.resume` means and say where it stood; a fresh start without one."""
    folder = config.run_folder / "ckpt"
    if config.resume == "auto":
        found = ranks.from_first(_or_error(checkpoint.newest, folder) if ranks.is_first else None)
    elif config.resume == "never":
        found = None
        if any(folder.glob("step-*")):
            raise UsageError(f"{folder} holds checkpoints of another run; give another --run, or --resume auto to go on with it")
    else:
        found = ranks.from_first(_or_error(_verified, Path(config.resume)) if ranks.is_first else None)
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
    if bool(config.ema) != bool(manifest["config"]["ema"]):
        raise UsageError(f"{found} was trained with ema = {manifest['config']['ema']}; keep it on or off for the whole run")
    changed = {k: v for k, v in asdict(config).items() if manifest["config"].get(k) not in (v, list(v) if k == "data" else v)}
    _say(ranks, f"resuming from {found}" + "".join(f"; {k} is now {v}" for k, v in changed.items() if k != "resume"))
    checkpoint.load(found, tensors)
    return Progress(**manifest["progress"])


def _verified(path: Path) -> Path:
    checkpoint.verify(path)
    return path


def _or_error(find: Any, path: Path) -> Any:
    """A result, or the error that all ranks shall raise together."""
    try:
        return find(path)
    except UsageError as error:
        return error


def _report_broken(batch: Batch) -> int:
    for broken in batch.broken:
        print(f"replaced {broken.shard} row {broken.row} (key {broken.key}): {broken.reason}", flush=True)
    return len(batch.broken)


def _check_broken(config: PretrainConfig, progress: Progress, shards: ShardSet) -> None:
    """End the run when too many samples are broken; judged after a thousand samples or an epoch, whichever is shorter."""
    if progress.samples_seen >= min(1000, shards.count) and progress.replaced > config.max_broken * progress.samples_seen:
        raise UsageError(
            f"{progress.replaced} of {progress.samples_seen} samples were broken, more than max_broken = {config.max_broken:g}; "
            "check the shards named above, or raise --max-broken"
        )


def _keep_bad_batch(
    run: Path, progress: Progress, loss: float, norm: float, uids: list[list[str]], ranks: Ranks
) -> None:
    """Write down which samples a skipped step held."""
    if ranks.is_first:
        path = run / "bad" / f"step-{progress.step:08d}.json"
        path.parent.mkdir(exist_ok=True)
        facts = {**asdict(progress), "loss": str(loss), "grad_norm": str(norm), "uids_by_rank": uids}
        path.write_text(json.dumps(facts, indent=1))
        print(f"WARNING: step {progress.step} skipped: loss {loss}, gradient norm {norm}; sample ids in {path}", flush=True)


def _collect_garbage_only_when_told() -> None:
    """Keep Python's collector from stopping one rank while the others wait."""
    gc.collect()
    gc.freeze()
    gc.disable()


def _say(ranks: Ranks, text: str) -> None:
    if ranks.is_first:
        print(text, flush=True)
