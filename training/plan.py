"""What a pretraining run will need, by formula: memory, operations, hours, data rate, shards.

Memory of one GPU, in bytes:
    weights, gradients and AdamW's two moments: 16 per parameter, shared out under FSDP; --ema adds 4
    DDP's buckets, which hold the gradients of all but the first step themselves: 4 per parameter
    bf16 copies of the weights: 2 per parameter; under FSDP of two blocks at a time
    activations of one image: 34·N·d per block of N tokens and width d with bf16 autocast and fused attention;
    with activation checkpointing 4·N·d per block, and one block in full
`tests/training/test_work.py` checks the first against what autograd really keeps.
"""

from dataclasses import dataclass

from manifests.account import numbered
from training.meter import Work, duration, pretraining_work
from training.models.mae import visible_count
from training.models.zoo import PATCH, Architecture, parameter_counts

MASK_RATIO = 0.75
SAVED_PER_BLOCK = 34
"""Bytes per token and channel that one block keeps for its backward pass under bf16 autocast."""


@dataclass(frozen=True)
class Plan:
    """All sizes in bytes per GPU; hours for the whole run."""

    arch: Architecture
    work: Work
    parameters: int
    states: dict[str, float]
    image: dict[str, float]
    micro_batch: dict[str, int]
    hours: dict[float, float]
    images_per_s: dict[float, float]


def activation_bytes(arch: Architecture, size: tuple[int, int], mask_ratio: float, recompute: bool) -> float:
    """Bytes kept for the backward pass of one image, encoder and decoder blocks with their ends."""
    patches = (size[0] // PATCH) * (size[1] // PATCH)
    visible = visible_count(patches, mask_ratio) + 1
    hidden = patches + 1 - visible
    pixels = PATCH * PATCH * 3
    ends = 2 * pixels * visible + 4 * pixels * 2 * hidden  # patches in bf16; predictions and targets in float32
    total = float(ends)
    for tokens, width, depth in (
        (visible, arch.width, arch.depth),
        (patches + 1, arch.decoder_width, arch.decoder_depth),
    ):
        one = tokens * width
        total += (4 * one * depth + SAVED_PER_BLOCK * one) if recompute else SAVED_PER_BLOCK * one * depth
    return total


def state_bytes(arch: Architecture, gpus: int, sharded: bool) -> float:
    """Bytes of weights, gradients, optimizer, buckets and bf16 copies on each GPU."""
    parameters = sum(parameter_counts(arch))
    if not sharded:
        return parameters * (16 + 2 + (4 if gpus > 1 else 0))
    block = 12 * arch.width**2
    return parameters * 16 / gpus + 2 * 2 * block


def make_plan(arch: Architecture, gpus: int, images: int, gpu_gb: float, peak_tflops: float) -> Plan:
    """A plan for `images` images of the native size on `gpus` GPUs.

    A tenth of a GPU's memory is left for buffers and fragments.
    """
    size = (arch.image, arch.image)
    work = pretraining_work(arch, size, MASK_RATIO)
    states, image, fits = {}, {}, {}
    for parallel in ("ddp", "fsdp"):
        for recompute in (False, True):
            way = parallel + (" + checkpointing" if recompute else "")
            states[way] = state_bytes(arch, gpus, parallel == "fsdp")
            image[way] = activation_bytes(arch, size, MASK_RATIO, recompute)
            fits[way] = max(int((0.9 * gpu_gb * 1e9 - states[way]) // image[way]), 0)
    rates = {mfu: gpus * mfu * peak_tflops * 1e12 / work.training for mfu in (0.35, 0.45, 0.55)}
    hours = {mfu: images / rate / 3600 for mfu, rate in rates.items()}
    return Plan(arch, work, sum(parameter_counts(arch)), states, image, fits, hours, rates)


def describe(plan: Plan, gpus: int, images: int, gpu_gb: float, peak_tflops: float) -> str:
    """The plan as text."""
    work = plan.work
    rate = plan.images_per_s[0.45]
    lines = [
        f"sapiens-{plan.arch.name}: {plan.parameters / 1e9:.3f} B parameters (encoder + decoder), "
        f"{numbered(gpus, 'GPU')} of {gpu_gb:g} GB and {peak_tflops:g} TFLOP/s, {images:,} images",
        "",
        f"one image, forward:  {work.forward / 1e12:.2f} TFLOP  (encoder {work.encoder / 1e12:.2f}, "
        f"decoder {work.decoder / 1e12:.2f}; attention {(work.encoder_attention + work.decoder_attention) / 1e12:.2f})",
        f"one image, trained:  {work.training / 1e12:.2f} TFLOP",
        f"the whole run:       {work.training * images:.2e} FLOP",
        "",
        f"{'memory per GPU':<24}{'states':>10}{'per image':>12}{'largest micro-batch':>22}",
    ]
    for way in plan.states:
        fits = plan.micro_batch[way] or "does not fit"
        lines.append(f"{way:<24}{plan.states[way] / 1e9:>7.1f} GB{plan.image[way] / 1e9:>9.2f} GB{fits:>22}")
    lines += ["", f"{'MFU':<24}{'images/s':>10}{'GPU-hours':>12}{'time':>22}"]
    for mfu, hours in plan.hours.items():
        lines.append(f"{mfu:<24.0%}{plan.images_per_s[mfu]:>10.0f}{hours * gpus:>12.0f}{duration(hours * 3600):>22}")
    lines += [
        "",
        f"data: {rate:.0f} images/s at 45 % MFU, {rate / gpus:.0f} per GPU; at 10 ms of one core per "
        f"1-megapixel photo that is "
        f"{rate * 0.01 / gpus:.1f} decoding cores per GPU (40 ms per 12-megapixel photo: {rate * 0.04 / gpus:.1f})",
        f"shards: about {images / 10_000:,.0f} of 10,000 photos; shards of 1 to 4 GB read best. "
        "A window of 16 mixes 160,000 photos; for remote shards keep a local cache of two windows on every machine",
    ]
    return "\n".join(lines)
