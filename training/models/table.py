"""The table of `sapiens-train models`."""

from typing import Any

from training.meter import encoder_work
from training.models.zoo import COMPARED, FAMILY, parameter_counts


def as_rows() -> list[dict[str, Any]]:
    """One mapping per model. Operations are of the encoder on one whole image in 10**12, a multiply-add
    counted as 2.
    """
    rows: list[dict[str, Any]] = []
    for arch in FAMILY.values():
        encoder, decoder = parameter_counts(arch)
        work = encoder_work(arch, (arch.image, arch.image))
        rows.append(
            {
                "name": f"sapiens-{arch.name}",
                "data": "yours" if arch.name == "tiny" else "Humans-300M",
                "images": None if arch.name == "tiny" else "300M",
                "resolution": str(arch.image),
                "encoder_params": encoder,
                "decoder_params": decoder,
                "tflops": work.forward / 1e12,
                "tflops_without_attention": (work.forward - work.encoder_attention) / 1e12,
                "source": "counted here",
            }
        )
    for other in COMPARED:
        rows.append(
            {
                "name": other.name,
                "data": other.data,
                "images": other.images,
                "resolution": other.resolution,
                "encoder_params": round(other.params * 1e9),
                "decoder_params": None,
                "tflops": None,
                "tflops_without_attention": 2 * other.macs,
                "source": other.source,
            }
        )
    return rows


def as_text() -> str:
    """The same as aligned columns."""
    head = ("model", "data", "images", "pixels", "encoder", "decoder", "TFLOPs", "without attention", "source")
    lines = [head] + [
        (
            row["name"],
            row["data"],
            row["images"] or "-",
            row["resolution"],
            _millions(row["encoder_params"]),
            _millions(row["decoder_params"]),
            "-" if row["tflops"] is None else f"{row['tflops']:.3f}",
            f"{row['tflops_without_attention']:.3f}",
            row["source"],
        )
        for row in as_rows()
    ]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    table = "\n".join("  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines)
    return (
        f"{table}\n\nOne forward pass of the encoder over a whole image; a multiply-add counts as 2. "
        "Papers (Sapiens' table 2 too) print half\nthe column 'without attention', a multiply-add as 1."
    )


def _millions(count: int | None) -> str:
    return "-" if count is None else f"{count / 1e6:.1f} M"
