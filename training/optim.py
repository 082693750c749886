"""AdamW as Sapiens uses it: groups, schedule, clipping, average of the weights."""

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

UNDECAYED = ("cls_token", "mask_token", "pos_embed")


def adamw(model: nn.Module, lr: float, betas: tuple[float, float], weight_decay: float) -> torch.optim.AdamW:
    """AdamW over the trainable parameters; no decay on norms, biases, positions and tokens (the released
    configuration).

    Its state exists from the start, so that a checkpoint can be read into it.
    """
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            (plain if _is_undecayed(name, parameter) else decayed).append(parameter)
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return _with_state(torch.optim.AdamW(groups, lr=lr, betas=betas, fused=True))


def layerwise_adamw(
    model: nn.Module, depth: int, decay: float, betas: tuple[float, float], weight_decay: float
) -> torch.optim.AdamW:
    """AdamW for fine-tuning: the learning rate falls by `decay` per block from the decoder to the input, so block
    i of L gets decay^(L−i) of it, patches and positions decay^(L+1), the final norm and the decoder all of it.

    decay: 0 chooses by depth as Sapiens2 does.
    """
    decay = decay or next(rate for blocks, rate in _DECAY_BY_DEPTH if depth <= blocks)
    groups: dict[tuple[int, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((_layer(name, depth), _is_undecayed(name, parameter)), []).append(parameter)
    described = [
        {
            "params": parameters,
            "weight_decay": 0.0 if plain else weight_decay,
            "lr_scale": decay ** (depth + 1 - layer),
        }
        for (layer, plain), parameters in sorted(groups.items())
    ]
    return _with_state(torch.optim.AdamW(described, lr=0.0, betas=betas, fused=True))


_DECAY_BY_DEPTH = ((24, 0.80), (32, 0.85), (40, 0.90), (10**6, 0.94))


def _layer(name: str, depth: int) -> int:
    """0: patches and positions; i + 1: block i; depth + 1: final norm and decoder."""
    if name.startswith(("encoder.patch_embed", "encoder.pos_embed")):
        return 0
    return int(name.split(".")[2]) + 1 if name.startswith("encoder.blocks.") else depth + 1


def _is_undecayed(name: str, parameter: nn.Parameter) -> bool:
    return parameter.ndim < 2 or name.rsplit(".", 1)[-1] in UNDECAYED


def _with_state(optimizer: torch.optim.AdamW) -> torch.optim.AdamW:
    """The optimizer with its state made now instead of at its first step."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            optimizer.state[parameter] = {
                "step": torch.zeros((), device=parameter.device),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }
    return optimizer


def learning_rate(peak: float, seen: int, images: int, warmup: float) -> float:
    """Linear rise from peak·10⁻⁴ over the first share `warmup` of the images, then half a cosine to 0, by
    images seen.
    """
    rise = images * warmup
    if seen < rise:
        return peak * (1e-4 + (1 - 1e-4) * seen / rise)
    progress = min((seen - rise) / max(images - rise, 1), 1.0)
    return peak * 0.5 * (1 + math.cos(math.pi * progress))


def task_learning_rate(task: str, peak: float, step: int, steps: int, warmup: int) -> float:
    """The released schedules: a linear rise from peak·10⁻³ over `warmup` steps; then for pose a tenth from 170/210
    of the run on and a hundredth from 200/210 on, for the other tasks a straight line to 0.
    """
    rise = min(warmup, steps)
    rising = 1e-3 + (1 - 1e-3) * step / rise if step < rise else 1.0
    if task == "pose":
        return peak * rising * 0.1 ** sum(step >= steps * milestone / 210 for milestone in (170, 200))
    return peak * rising * max(1 - step / steps, 0.0)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every group its share of a learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)


def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float) -> Tensor:
    """Scale all gradients so that their norm is at most max_norm; returns the norm before, the same on all
    ranks.
    """
    with_gradient = [p for p in parameters if p.grad is not None]
    norm = torch.nn.utils.get_total_norm([p.grad for p in with_gradient if p.grad is not None])
    if isinstance(norm, DTensor):
        norm = norm.full_tensor()
    torch.nn.utils.clip_grads_with_norm_(with_gradient, max_norm, norm)
    return norm


@torch.no_grad()
def update_average(average: Mapping[str, Tensor], weights: Mapping[str, nn.Parameter], decay: float) -> None:
    """Move an exponential moving average of weights one step."""
    torch._foreach_lerp_(list(average.values()), [weights[name].detach() for name in average], 1 - decay)
