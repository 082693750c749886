"""Operations and memory: the formulas against what torch counts and autograd keeps."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from training.meter import PEAK_TFLOPS, Meter, device_peak, duration, encoder_work, line, pretraining_work
from training.models.zoo import FAMILY, build_mae
from training.plan import activation_bytes, make_plan, state_bytes


@pytest.mark.parametrize("cross", [False, True])
@pytest.mark.parametrize("name", ["tiny", "0.3b", "2b"])
def test_operations_are_those_that_torch_counts(name, cross):
    arch = FAMILY[name]
    size = (arch.image, arch.image)
    with torch.device("meta"):
        model = build_mae(arch, cross=cross, predict_ratio=0.25 if cross else None)
        images = torch.zeros(1, *size, 3, dtype=torch.uint8)
        keys = torch.zeros(1, dtype=torch.int64)
    with FlopCounterMode(display=False) as counter:
        model(images, keys)
    work = pretraining_work(arch, size, 0.75, cross, 0.25)
    assert counter.get_total_flops() == pytest.approx(work.forward, rel=2e-3)


def test_every_mask_of_an_image_is_work():
    arch = FAMILY["tiny"]
    once, thrice = (pretraining_work(arch, (256, 256), 0.75, masks=masks) for masks in (1, 3))
    assert thrice.training == pytest.approx(3 * once.training)


def test_the_papers_column_is_half_of_ours_without_attention():
    for name, published in (("0.3b", 1.242), ("0.6b", 2.583), ("1b", 4.647), ("2b", 8.709)):
        work = encoder_work(FAMILY[name], (1024, 1024))
        assert (work.forward - work.encoder_attention) / 2e12 == pytest.approx(published, rel=2e-3)


def test_activation_memory_is_what_autograd_keeps():
    """Bytes of all storages saved for backward in one bf16 pass, without weights; within a fifth of the formula.

    Plain CPU attention would keep its score matrix, so the fused one is forced by long sequences.
    """
    arch, size = FAMILY["tiny"], (768, 768)
    model = build_mae(arch)
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights and tensor.numel() > 10_000:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    images = torch.zeros(1, *size, 3, dtype=torch.uint8)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t), torch.autocast("cpu", torch.bfloat16):
        loss = model(images, torch.arange(1))  # holds what is kept, so that no address is given twice
    copies = 2 * sum(p.numel() for p in model.parameters() if p.ndim == 2)  # bf16 copies of the matrices
    per_image = sum(kept.values()) - copies
    assert per_image == pytest.approx(activation_bytes(arch, size, 0.75, recompute=False), rel=0.2)
    assert loss.requires_grad


def test_plans_follow_from_their_parts():
    plan = make_plan(FAMILY["1b"], 64, 300_000_000, 80, 989.4)
    assert plan.hours[0.45] * 3600 * plan.images_per_s[0.45] == pytest.approx(300e6)
    assert plan.images_per_s[0.45] * plan.work.training == pytest.approx(64 * 0.45 * 989.4e12)
    assert state_bytes(FAMILY["2b"], 1, sharded=False) == 18 * 2_162_608_768
    assert state_bytes(FAMILY["2b"], 8, sharded=False) == 22 * 2_162_608_768
    assert 16 / 8 * 2.16e9 < state_bytes(FAMILY["2b"], 8, sharded=True) < 5e9
    assert plan.micro_batch["fsdp + checkpointing"] > plan.micro_batch["ddp"]
    assert make_plan(FAMILY["2b"], 1, 10**6, 24, 165).micro_batch["ddp"] == 0


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA A100-SXM4-80GB", 312.0),
        ("NVIDIA GH200 480GB", 989.4),
        ("NVIDIA H100 80GB HBM3", 989.4),
        ("NVIDIA RTX A1000 Laptop GPU", 0.0),
        ("NVIDIA GB200", 2500.0),
        ("NVIDIA B200", 2250.0),
        ("NVIDIA GeForce RTX 4090", 165.2),
        ("NVIDIA GeForce RTX 4090 D", 0.0),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", 0.0),
        ("NVIDIA GeForce RTX 3090 Ti", 0.0),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", 0.0),
    ],
)
def test_only_a_whole_device_of_the_name_has_the_peak(monkeypatch, name, peak):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: name)
    assert device_peak(torch.device("cuda")) == peak


def test_the_line_shows_what_is_known():
    metrics = {
        "step": 5, "steps": 9, "loss": 0.5, "lr": 1e-3, "grad_norm": None, "images_per_s": 10.0, "tflops_per_device": 1,
        "mfu": None, "data_wait": 3.0, "memory_gb": 2.0, "eta_s": 200.0, "skipped": 1, "replaced": 0,
    }  # fmt: skip
    text = line(metrics)
    assert "MFU n/a" in text
    assert "grad n/a" in text
    assert "skipped 1" in text
    assert "replaced" not in text
    assert "ETA 3m20s" in text
    assert line({**metrics, "mfu": 41.26}).count("MFU 41.3%") == 1
    assert [duration(s) for s in (12, 200, 18_420, 1_051_200)] == ["12s", "3m20s", "5h07m", "12d04h"]


def test_mfu_is_achieved_over_peak():
    meter, work = Meter(), pretraining_work(FAMILY["tiny"], (256, 256), 0.75)
    with meter.waiting():
        meter.step(100)
    rates = meter.read(work, world=2, peak_tflops=1.0)
    assert rates["tflops_per_device"] == pytest.approx(rates["images_per_s"] * work.training / 2 / 1e12)
    assert rates["mfu"] == pytest.approx(100 * rates["tflops_per_device"])
    assert 0 <= rates["data_wait"] <= 100
    assert PEAK_TFLOPS["H100 PCIe"] < PEAK_TFLOPS["H100"]
