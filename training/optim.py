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
            is_plain = parameter.ndim < 2 or name.rsplit(".", 1)[-1] in UNDECAYED
            (plain if is_plain else decayed).append(parameter)
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=lr, betas=betas, fused=True)
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


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr


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
