"""The built-in networks as the scorers share them: each backbone runs once per batch, whoever asks first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from curation.batch import Batch

if TYPE_CHECKING:
    from curation.builtin import Builtin, Features


@dataclass(frozen=True)
class Networks:
    """`needs`: the questions that the recipe puts to these networks, so that only their backbones run."""

    builtin: Builtin
    needs: frozenset[str]

    def features(self, batch: Batch) -> Features:
        needs = self.needs if batch.asked is None else self.needs & batch.asked
        return batch.shared("networks", lambda: self.builtin.features([p.rgb for p in batch.pictures], needs=needs))
