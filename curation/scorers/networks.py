"""The built-in networks as the scorers share them: each backbone runs once per batch, whoever asks first."""

from dataclasses import dataclass

from curation.batch import Batch
from curation.builtin import Builtin, Features


@dataclass(frozen=True)
class Networks:
    """`needs`: the questions that will be asked of a batch, so that only their backbones run."""

    builtin: Builtin
    needs: frozenset[str]

    def features(self, batch: Batch) -> Features:
        return batch.shared(
            "networks", lambda: self.builtin.features([p.rgb for p in batch.pictures], needs=self.needs)
        )
