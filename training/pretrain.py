"""Masked-autoencoder pretraining from shards; the loop itself is training/loop.py."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from shards.cache import ShardCache
from shards.crop import RandomCrop
from shards.index import ShardSet, open_shards
from shards.order import ORDER_VERSION, Order
from shards.stream import Batch, stream
from training.config import PretrainConfig
from training.distributed import Ranks, all_ranks, bare, compiles, multiplies_bf16, spread
from training.loop import Job, Learner, agree_on_data, make_learner, train
from training.meter import pretraining_work
from training.models.zoo import PATCH, build_mae
from training.optim import adamw, learning_rate

_APART = 0x5851F42D4C957F2D  # odd, and far from the steps that the draws of one key take


def pretrain(config: PretrainConfig) -> int:
    """Run a pretraining to its end or to a signal; returns the exit code (0, or 75: start me again)."""
    with all_ranks() as ranks:
        config.accumulation(ranks.world)  # a batch that cannot be split is said before anything is opened
        return train(_job(config, ranks), ranks)


def _job(config: PretrainConfig, ranks: Ranks) -> Job:
    cache = ShardCache(limit=int(config.cache_gb * 1e9))
    shards = agree_on_data(lambda: open_shards(config.data, cache), lambda opened: opened, config.total_batch, ranks)
    learner = _build(config, ranks)
    images = config.steps * config.total_batch

    def loss(batch: Batch) -> Tensor:
        return learner.model(*hidden_elsewhere(batch.images, batch.mask_keys, config.masks))

    return Job(
        config=config,
        folder=Path(config.run_folder),
        shards=shards,
        learner=learner,
        images=images,
        batches=lambda start: _stream(config, shards, start, ranks),
        loss=loss,
        learning_rate=lambda seen: learning_rate(config.peak_lr, seen, images, config.warmup),
        work=pretraining_work(
            config.arch,
            config.image_size,
            config.mask_ratio,
            config.decoder == "cross",
            config.predict_ratio,
            config.masks,
        ),
        identity=_identity(config, shards),
        weights={"grid": f"{config.arch.image // PATCH}x{config.arch.image // PATCH}", "norm_pix": config.norm_pix},
    )


def hidden_elsewhere(images: Tensor, mask_keys: Tensor, copies: int) -> tuple[Tensor, Tensor]:
    """Every image `copies` times, with other mask keys: (B, …) and (B,) int64 → (B·copies, …) and (B·copies,). The
    first copy keeps its key (several masks per image as in data2vec 2.0, Baevski et al. 2022, §3.2).
    """
    apart = torch.arange(copies, device=mask_keys.device) * _APART
    return images.repeat_interleave(copies, 0), (mask_keys[:, None] + apart).flatten()


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
    bf16 = multiplies_bf16(config.precision, ranks.device)
    model = spread(
        mae,
        [mae.encoder.blocks, mae.decoder.blocks],
        ranks,
        sharded=config.parallel == "fsdp",
        compiled=compiles(config.compile, bf16, ranks.device),
        recompute=config.activation_checkpointing,
        bf16=bf16,
    )
    optimizer = adamw(bare(model), config.peak_lr, (config.beta1, config.beta2), config.weight_decay)
    return make_learner(model.train(), optimizer, config.ema)


def _stream(config: PretrainConfig, shards: ShardSet, start: int, ranks: Ranks) -> Iterator[Batch]:
    """This rank's micro-batches from where the run stands up to its end."""
    return stream(
        shards,
        Order(shards.counts, config.seed, config.window),
        RandomCrop(config.image_size, (config.min_crop, 1.0), scaled_decode=config.scaled_decode),
        start=start,
        stop=config.steps * config.total_batch,
        micro_batch=config.micro_batch,
        rank=ranks.rank,
        world=ranks.world,
        workers=config.workers,
        pin_memory=ranks.device.type == "cuda",
    )
