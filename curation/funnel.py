"""The funnel as the terminal shows it: how many images are left after each rule, in the order of the recipe."""

from curation.record import load_record
from curation.report.tally import tally
from manifests.store import Store


def funnel_text(store: Store) -> str:
    """One line per rule: images left after it and all before, images that fail it, images that fail nothing else."""
    counts = tally(store, load_record(store).recipe)
    lines = [f"{'':<14}{'left':>10}{'':>9}{'fail it':>10}{'only it':>10}"]

    def line(name: str, left: int, fail: str = "", only: str = "") -> str:
        return f"{name:<14}{left:>10,}{left / max(1, counts.inputs):>9.1%}{fail:>10}{only:>10}"

    lines.append(line("inputs", counts.inputs))
    lines.append(line("readable", counts.decoded, f"{counts.failed:,}"))
    lines += [line(rule.name, rule.left, f"{rule.fails:,}", f"{rule.fails_alone:,}") for rule in counts.rules]
    if counts.unasked:
        lines.append(f"  {counts.unasked:,} asked no more once a rule had said no (lazy)")
    lines += [f"  {failure.count:,} {failure.status.replace('_', ' ')}: {failure.kind}" for failure in counts.failures]
    return "\n".join(lines)
