"""How many images are left after each rule, in the order of the recipe."""

from collections import Counter
from dataclasses import dataclass

import pyarrow.compute as pc

from curation.decide import DUPLICATE
from curation.deciding import in_order
from curation.layout import manifest_file
from curation.plan import read_plan
from curation.record import load_record
from manifests.store import Store


@dataclass(frozen=True)
class Step:
    """One rule: how many images fail it, how many fail it alone, and how many are left after it and all before."""

    name: str
    fail: int
    only: int
    left: int


@dataclass(frozen=True)
class Funnel:
    """From inputs through readable images to kept ones."""

    inputs: int
    failures: dict[str, int]
    readable: int
    steps: list[Step]


def funnel(store: Store) -> Funnel:
    """Count over the whole manifest, a file at a time."""
    plan, record = read_plan(store), load_record(store)
    names = [*record.recipe.rules, DUPLICATE]
    sets: Counter[tuple[str, ...]] = Counter()
    statuses: Counter[str] = Counter()

    def read(unit: int) -> tuple[Counter[str], Counter[tuple[str, ...]]]:
        table = store.read_table(manifest_file(unit), ["status", "reasons"])
        good = table.filter(pc.equal(table["status"], "success"))
        return Counter(table["status"].to_pylist()), Counter(tuple(r) for r in good["reasons"].to_pylist())

    for status, reasons in in_order(read, plan.units):
        statuses += status
        sets += reasons
    failures = {name: n for name, n in sorted(statuses.items()) if name != "success"}
    steps = []
    for position, name in enumerate(names):
        so_far = set(names[: position + 1])
        fail = sum(n for reasons, n in sets.items() if name in reasons)
        only = sum(n for reasons, n in sets.items() if reasons == (name,))
        left = sum(n for reasons, n in sets.items() if not so_far & set(reasons))
        steps.append(Step(name, fail, only, left))
    return Funnel(plan.inputs, failures, statuses["success"], steps)


def funnel_text(store: Store) -> str:
    """The funnel as a table for the terminal."""
    found = funnel(store)
    lines = [f"{'':<22}{'left':>10}{'':>8}{'fail it':>10}{'only it':>10}"]

    def line(name: str, left: int, fail: str = "", only: str = "") -> str:
        return f"{name:<22}{left:>10}{left / max(1, found.inputs):>8.1%}{fail:>10}{only:>10}"

    lines.append(line("inputs", found.inputs))
    lines.append(line("readable", found.readable, str(found.inputs - found.readable)))
    lines += [line(step.name, step.left, str(step.fail), str(step.only)) for step in found.steps]
    lines += [f"  {n} {name.replace('_', ' ')}" for name, n in found.failures.items()]
    return "\n".join(lines)
