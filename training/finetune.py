"""Fine-tuning of encoder and decoder on one of the four tasks; the loop itself is training/loop.py."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from shards.cache import ShardCache
from shards.labelled import LabelledShards, open_labelled
from shards.order import ORDER_VERSION, Order
from shards.stream import Batch, stream
from training.config import FinetuneConfig, UsageError
from training.distributed import Ranks, all_ranks, bare, compiles, multiplies_bf16, spread
from training.loop import Job, Learner, agree_on_data, make_learner, say, train
from training.meter import finetuning_work
from training.models.task import build_task, channels_of, label_set
from training.models.zoo import PATCH
from training.optim import layerwise_adamw, task_learning_rate
from training.tasks import MODULES
from training.tasks.background import Backgrounds


def finetune(config: FinetuneConfig) -> int:
    """Run a fine-tuning to its end or to a signal; returns the exit code (0, or 75: start me again)."""
    with all_ranks() as ranks:
        config.accumulation(ranks.world)
        return train(_job(config, ranks), ranks)


def _job(config: FinetuneConfig, ranks: Ranks) -> Job:
    cache = ShardCache(limit=int(config.cache_gb * 1e9))
    data = agree_on_data(lambda: open_labelled(config.data, cache), lambda d: d.shards, config.batch, ranks)
    if data.labels["task"] != config.task:
        raise UsageError(
            f"{', '.join(config.data)} holds labels for {data.labels['task']}; fine-tune that, or pack {config.task}"
        )
    learner, padding = _build(config, data.labels, ranks)
    images = _length(config, data.shards.count)
    labels = label_set(config.task, data.labels)
    steps, channels = images // config.batch, channels_of(config.task, data.labels)
    lr = config.lr or (5e-5 if config.task == "pose" and channels > 133 else 5e-4)
    warmup = config.warmup_steps if config.warmup_steps >= 0 else {"pose": 500}.get(config.task, 400)
    say(ranks, f"{steps} steps of {config.batch} samples: {images / data.shards.count:.3g} passes over the data")
    options: dict[str, Any] = {}
    if config.task == "pose":
        options["hardest"] = config.hard_keypoints or None
    if config.task == "depth":
        options["floor"] = config.depth_floor

    def loss(batch: Batch) -> Tensor:
        output = learner.model(batch.images)
        with torch.autocast(ranks.device.type, enabled=False):
            return MODULES[config.task].loss(output, batch.targets, labels, **options)

    return Job(
        config=config,
        folder=config.run_folder,
        shards=data.shards,
        learner=learner,
        images=images,
        batches=lambda start: _stream(config, data, images, start, ranks),
        loss=loss,
        learning_rate=lambda seen: task_learning_rate(config.task, lr, seen // config.batch, steps, warmup),
        work=finetuning_work(config.arch, config.image_size, config.task, channels, config.frozen),
        identity={
            "data": data.shards.fingerprint,
            "order_version": ORDER_VERSION,
            "window": config.window,
            "seed": config.seed,
            "model": config.model,
            "task": config.task,
            "size": "x".join(map(str, config.image_size)),
            "patch_padding": padding,
            "frozen": config.frozen,
            "ema": config.ema > 0,
        },
        weights={
            "task": config.task,
            "grid": "x".join(str(side // PATCH) for side in config.image_size),
            "patch_padding": padding,
            "labels": data.labels,
        },
    )


def _length(config: FinetuneConfig, count: int) -> int:
    """Samples to see: whole steps."""
    epochs = config.epochs or (210 if config.task == "pose" else 200)
    images = config.images or round(epochs * count)
    if images < config.batch:
        raise UsageError(f"the run would see {images} samples, less than one batch of {config.batch}; train longer")
    return images // config.batch * config.batch


def _build(config: FinetuneConfig, labels: dict[str, Any], ranks: Ranks) -> tuple[Learner, int]:
    """The model with the weights of `init`, the same on every rank, its optimizer, and its patch padding."""
    torch.manual_seed(config.seed)
    padding = config.patch_padding if config.patch_padding >= 0 else None
    made = build_task(config.task, config.arch, labels, config.image_size, config.init, padding, config.frozen)
    made.to(ranks.device)
    shift = made.encoder.patch_padding
    bf16 = multiplies_bf16(config.precision, ranks.device)
    model = spread(
        made,
        [made.encoder.blocks],
        ranks,
        sharded=config.parallel == "fsdp",
        compiled=compiles(config.compile, bf16, ranks.device),
        recompute=config.activation_checkpointing,
        bf16=bf16,
    )
    optimizer = layerwise_adamw(
        bare(model), config.arch.depth, config.layer_decay, (config.beta1, config.beta2), config.weight_decay
    )
    return make_learner(model.train(), optimizer, config.ema), shift


def _stream(config: FinetuneConfig, data: LabelledShards, images: int, start: int, ranks: Ranks) -> Iterator[Batch]:
    """This rank's micro-batches of augmented views from where the run stands up to its end."""
    options = {"backgrounds": Backgrounds.from_folder(Path(config.backgrounds))} if config.backgrounds else {}
    data.hold(config.window)
    draw = MODULES[config.task].Draw(config.image_size, label_set(config.task, data.labels), config.augment, **options)
    return stream(
        data.shards,
        Order(data.shards.counts, config.seed, config.window),
        draw,
        read=data.read,
        start=start,
        stop=images,
        micro_batch=config.micro_batch,
        rank=ranks.rank,
        world=ranks.world,
        workers=config.workers,
        pin_memory=ranks.device.type == "cuda",
    )
