"""How many people the images show, beside the paper's figure, over a manifest of any length."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from manifests.scan import batches
from manifests.store import Store

LABELS = ("0", "1", "2", "3", "≥ 4")
HUMANS_300M = (None, 0.17, 0.14, 0.13, 0.56)
"""Share of Humans-300M by persons per image, none of them without one (Sapiens, arXiv 2408.12569, Fig. 2)."""
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
LARGEST_PX = 1 << 16


@dataclass(frozen=True)
class PeoplePerImage:
    """Images by the persons they show; every tuple of counts goes with LABELS."""

    kept: tuple[int, ...]
    decoded: tuple[int, ...]  # kept and rejected
    uncounted: int  # decoded, but the people scorer was not asked
    largest_px: tuple[float, ...]  # short side of the largest person in kept images at QUANTILES; () without

    @property
    def kept_shares(self) -> tuple[float, ...]:
        """Shares of the kept images, 0..1; all 0 where none was kept."""
        return _shares(self.kept)

    @property
    def decoded_shares(self) -> tuple[float, ...]:
        return _shares(self.decoded)

    def table(self) -> str:
        """The figures as text for a terminal."""
        lines = [f"{'persons':>8} {'kept':>12} {'%':>7} {'Humans-300M %':>15} {'all decoded':>14} {'%':>7}"]
        for at, label in enumerate(LABELS):
            paper = "–" if (share := HUMANS_300M[at]) is None else f"{100 * share:.0f}"
            kept = f"{self.kept[at]:>12,} {100 * self.kept_shares[at]:>7.1f}"
            decoded = f"{self.decoded[at]:>14,} {100 * self.decoded_shares[at]:>7.1f}"
            lines.append(f"{label:>8} {kept} {paper:>15} {decoded}")
        if self.uncounted:
            lines.append(f"{self.uncounted:,} decoded images have no count: the people scorer was not asked.")
        if self.largest_px:
            pairs = zip(QUANTILES, self.largest_px, strict=True)
            quantiles = "  ".join(f"{100 * quantile:.0f} %: {px:.0f}" for quantile, px in pairs)
            lines.append(f"short side of the largest person in kept images, pixels at quantile  {quantiles}")
        lines.append("persons: those whom the recipe counts, by score and size")
        return "\n".join(lines)


def people_per_image(store: Store) -> PeoplePerImage:
    """Count persons per image over the manifest in `store`. Memory does not grow with the number of rows."""
    kept, decoded = np.zeros(len(LABELS), np.int64), np.zeros(len(LABELS), np.int64)
    uncounted = 0
    pixels = np.zeros(LARGEST_PX, np.int64)
    for batch in batches(store, ["verdict", "num_persons", "largest_person_px"]):
        counted = pc.and_(pc.not_equal(batch["verdict"], "failed"), pc.is_valid(batch["num_persons"]))
        seen = batch.filter(counted)
        chosen = seen.filter(pc.equal(seen["verdict"], "kept"))
        decoded += _by_persons(seen["num_persons"])
        kept += _by_persons(chosen["num_persons"])
        uncounted += pc.sum(pc.not_equal(batch["verdict"], "failed")).as_py() - seen.num_rows
        px = pc.drop_null(chosen["largest_person_px"]).to_numpy(zero_copy_only=False)
        whole = np.minimum(np.rint(px[px > 0]), LARGEST_PX - 1).astype(np.int64)
        pixels += np.bincount(whole, minlength=LARGEST_PX)
    return PeoplePerImage(tuple(kept.tolist()), tuple(decoded.tolist()), uncounted, _quantiles(pixels))


def _by_persons(counts: pa.Array) -> np.ndarray:
    return np.bincount(np.minimum(counts.to_numpy(zero_copy_only=False), 4), minlength=len(LABELS))


def _shares(counts: tuple[int, ...]) -> tuple[float, ...]:
    return tuple(count / max(1, sum(counts)) for count in counts)


def _quantiles(histogram: np.ndarray) -> tuple[float, ...]:
    """QUANTILES of whole numbers of which `histogram[n]` are n, as numpy's `inverted_cdf`."""
    below = np.cumsum(histogram)
    if not below[-1]:
        return ()
    return tuple(float(np.searchsorted(below, q * below[-1])) for q in QUANTILES)
