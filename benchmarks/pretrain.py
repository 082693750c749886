"""Step time of our masked autoencoder beside `transformers.ViTMAEForPreTraining`, and what attention costs.

    pip install -e '.[bench]'
    python benchmarks/pretrain.py                         # ViT-B, 224 px, bf16, on what hardware there is
    python benchmarks/pretrain.py --precision fp32 --batch 8
    python benchmarks/pretrain.py --model 0.3b --batch 8            # one of ours alone: images/s, MFU, memory
    python benchmarks/pretrain.py --model 0.3b --batch 8 --beside   # and beside ViTMAE of the same size

Both models have the same sizes, weights, masking ratio, batch, precision and optimiser (fused AdamW, clip
1.0); the data lies on the device, ours as uint8 and theirs normalised. Before timing, with the same masks,
they must agree on the loss and the gradient norm of two images. Steps alternate between the two, so that whatever
else the machine does hits both; the ratio is that of the medians. On a GPU our blocks are compiled, as in training;
theirs are timed as they come and, after that, compiled too.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from contextlib import suppress

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from curation.full.torchvision_ops import make_importable
from training.meter import device_peak, memory_gb, pretraining_work
from training.models.mae import MAE, mask_order
from training.models.vit import IMAGENET_MEAN, IMAGENET_STD, attend
from training.models.zoo import FAMILY, Architecture, build_mae
from training.optim import adamw, clip_gradients

BASE = Architecture("vit-b", 768, 12, 12, image=224)


def build_theirs(arch: Architecture) -> nn.Module:
    """ViTMAE with the sizes of an architecture of ours."""
    with suppress(ModuleNotFoundError):  # without torchvision transformers does not look for it
        make_importable()
    from transformers import ViTMAEConfig, ViTMAEForPreTraining

    return ViTMAEForPreTraining(
        ViTMAEConfig(
            hidden_size=arch.width,
            num_hidden_layers=arch.depth,
            num_attention_heads=arch.heads,
            intermediate_size=4 * arch.width,
            image_size=arch.image,
            patch_size=16,
            decoder_hidden_size=arch.decoder_width,
            decoder_num_hidden_layers=arch.decoder_depth,
            decoder_num_attention_heads=arch.decoder_heads,
            decoder_intermediate_size=4 * arch.decoder_width,
            mask_ratio=0.75,
            norm_pix_loss=True,
            layer_norm_eps=1e-6,
            attn_implementation="sdpa",
        )
    )


def copy_weights(ours: MAE, theirs: nn.Module) -> None:
    """Give ViTMAE our weights under its names; every one of its tensors must be met."""
    state = {}
    for name, tensor in ours.state_dict().items():
        if ".attn.qkv." in name:
            names = [name.replace("attn.qkv", f"attention.{part}_proj") for part in "qkv"]
            state |= dict(zip(map(their_name, names), tensor.chunk(3), strict=True))
        else:
            state[their_name(name)] = tensor
    theirs.load_state_dict(state, strict=True)


def their_name(name: str) -> str:
    for ours, theirs in (
        ("attn.proj", "attention.o_proj"),
        ("norm1", "layernorm_before"),
        ("norm2", "layernorm_after"),
        ("encoder.blocks", "vit.layers"),
        ("encoder.patch_embed.proj", "vit.embeddings.patch_embeddings.projection"),
        ("encoder.cls_token", "vit.embeddings.cls_token"),
        ("encoder.pos_embed", "vit.embeddings.position_embeddings"),
        ("encoder.norm", "vit.layernorm"),
        ("decoder.blocks", "decoder.decoder_layers"),
        ("decoder.embed", "decoder.decoder_embed"),
        ("decoder.pos_embed", "decoder.decoder_pos_embed"),
        ("decoder.norm", "decoder.decoder_norm"),
        ("decoder.pred", "decoder.decoder_pred"),
    ):
        name = name.replace(ours, theirs)
    return name


def make_step(model: nn.Module, loss: Callable[[], Tensor], device: torch.device, bf16: bool) -> Callable[[], float]:
    """One training step that returns its seconds."""
    optimizer = adamw(model, 1e-4, (0.9, 0.95), 0.05)

    def step() -> float:
        start = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            value = loss()
        value.backward()
        clip_gradients(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    return step


def compile_blocks(*groups: nn.ModuleList) -> None:
    for block in (block for group in groups for block in group):
        block.compile(fullgraph=True, dynamic=False)


def beside_transformers(arch: Architecture, batch: int, bf16: bool, steps: int, device: torch.device) -> None:
    torch.manual_seed(0)
    with device:
        ours = build_mae(arch)
        theirs = build_theirs(arch)
        images = torch.randint(0, 256, (batch, arch.image, arch.image, 3), dtype=torch.uint8)
        keys = torch.arange(batch)
        mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
    copy_weights(ours, theirs)
    pixels = ((images.float() - mean) / std).permute(0, 3, 1, 2).contiguous()
    check(ours, theirs, images[:2], pixels[:2], keys[:2])

    if device.type == "cuda":  # as training does
        compile_blocks(ours.encoder.blocks, ours.decoder.blocks)
    a = make_step(ours, lambda: ours(images, keys), device, bf16)
    b = make_step(theirs, lambda: theirs(pixels).loss, device, bf16)
    in_turn("transformers", a, b, steps, arch, batch, device)
    if device.type == "cuda":
        for layer in (*theirs.vit.layers, *theirs.decoder.decoder_layers):
            layer.compile(dynamic=False)
        in_turn("transformers, compiled", a, b, steps, arch, batch, device)


def check(ours: MAE, theirs: nn.Module, images: Tensor, pixels: Tensor, keys: Tensor) -> None:
    """End the program unless both models have the same loss and gradient in float32."""
    noise = mask_order(keys, ours.encoder.grid[0] * ours.encoder.grid[1]).argsort(1).float()
    losses = {"ours": ours(images, keys), "transformers": theirs(pixels, noise=noise).loss}
    norms = {}
    for (name, loss), model in zip(losses.items(), (ours, theirs), strict=True):
        loss.backward()
        norms[name] = float(clip_gradients(model.parameters(), 1e9))
        model.zero_grad()
        print(f"{name:>13}: loss {float(loss.detach()):.6f}, gradient norm {norms[name]:.5f} in fp32")
    torch.testing.assert_close(losses["ours"], losses["transformers"], rtol=1e-4, atol=1e-5)
    if abs(norms["ours"] / norms["transformers"] - 1) > 1e-3:
        raise SystemExit("the gradients differ: this is not the same model")


def in_turn(
    name: str,
    ours: Callable[[], float],
    theirs: Callable[[], float],
    steps: int,
    arch: Architecture,
    batch: int,
    device: torch.device,
) -> None:
    """Time steps of both models alternately."""
    for _ in range(3):
        ours(), theirs()
    times = [(ours(), theirs()) for _ in range(steps)]
    mine, peer = (statistics.median(column) for column in zip(*times, strict=True))
    ratio = statistics.median(y / x for x, y in times)
    for who, seconds in (("ours", mine), (name, peer)):
        print(f"{who:>23}: {1e3 * seconds:.0f} ms a step, {speed(arch, batch, seconds, device)}")
    print(f"{name} / ours: {peer / mine:.2f} of the medians, {ratio:.2f} median of the step-by-step ratios", flush=True)


def speed(arch: Architecture, batch: int, seconds: float, device: torch.device) -> str:
    """images/s, TFLOP/s and MFU of a step."""
    tflops = batch / seconds * pretraining_work(arch, (arch.image, arch.image), 0.75).training / 1e12
    peak = device_peak(device)
    mfu = f"{100 * tflops / peak:.1f} %" if peak else "n/a"
    return f"{batch / seconds:.2f} images/s, {tflops:.2f} TFLOP/s, MFU {mfu}"


def attention_alone(device: torch.device, bf16: bool) -> None:
    """Forward and backward of one attention layer: PyTorch's fused kernel, and ours (`attend`)."""
    dtype = torch.bfloat16 if bf16 else torch.float32
    print("\n   tokens  head   fused ms   ours ms")
    for batch, heads, tokens, size in ((32, 12, 50, 64), (32, 16, 197, 32), (8, 16, 512, 32), (1, 16, 1025, 64)):
        qkv = torch.randn(3, batch, heads, tokens, size, dtype=dtype, device=device, requires_grad=True)

        def once(function: Callable[..., Tensor], qkv: Tensor = qkv) -> float:
            start = time.perf_counter()
            function(*qkv).sum().backward()
            if device.type == "cuda":
                torch.cuda.synchronize()
            return time.perf_counter() - start

        fused, plain = (min(once(f) for _ in range(8)) for f in (F.scaled_dot_product_attention, attend))
        print(f"{tokens:>9}{size:>6}{1e3 * fused:>11.1f}{1e3 * plain:>10.1f}")


def alone(arch: Architecture, batch: int, bf16: bool, steps: int, device: torch.device) -> None:
    """images/s, TFLOP/s, MFU and peak memory of one of our models at its native resolution."""
    torch.manual_seed(0)
    with device:
        model = build_mae(arch)
        images = torch.randint(0, 256, (batch, arch.image, arch.image, 3), dtype=torch.uint8)
        keys = torch.arange(batch)
    if device.type == "cuda":
        compile_blocks(model.encoder.blocks, model.decoder.blocks)
    step = make_step(model, lambda: model(images, keys), device, bf16)
    for _ in range(3):
        step()
    seconds = statistics.median(step() for _ in range(steps))
    told = speed(arch, batch, seconds, device)
    print(f"{arch.name} at {arch.image} px, batch {batch}: {told}, {memory_gb(device):.1f} GB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=list(FAMILY), help="time one of ours")
    parser.add_argument("--beside", action="store_true", help="and ViTMAE of its size")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16")
    given = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    bf16 = given.precision == "bf16"
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"{name}, torch {torch.__version__}, {given.precision}, batch {given.batch}")
    if given.model and given.beside:
        beside_transformers(FAMILY[given.model], given.batch, bf16, given.steps, device)
    elif given.model:
        alone(FAMILY[given.model], given.batch, bf16, given.steps, device)
    else:
        beside_transformers(BASE, given.batch, bf16, given.steps, device)
        attention_alone(device, bf16)


if __name__ == "__main__":
    main()
