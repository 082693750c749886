"""Networks that work from a fresh install: people, watermark, style, text, safety.

`Builtin().features(images)` runs every backbone once per picture; the other methods read answers from it.
"""

from curation.builtin.networks import ANSWERS, Builtin, Features

__all__ = ["ANSWERS", "Builtin", "Features"]
