"""Settings of a run. A flag, a YAML key and a field have one name; what is not given has the published value."""

import difflib
import typing
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml

from training.models.zoo import FAMILY, PATCH, Architecture

Config = TypeVar("Config")


class UsageError(Exception):
    """A mistake in what was given; the text says what it was, what is allowed and what to do."""


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """Everything that decides how a pretraining run goes (paper §3.2 and §4.1; Sapiens' released
    configuration).
    """

    data: Annotated[
        tuple[str, ...], "Curated folder, folder of tars, or tar names with {braces} and globs; local or URL."
    ]
    run: Annotated[str, "Folder for checkpoints, metrics and config. Default: runs/mae-MODEL."] = ""
    resume: Annotated[
        str, "auto: go on from the newest checkpoint in the run folder; never; or a checkpoint folder."
    ] = "auto"

    model: Annotated[str, f"One of {', '.join(FAMILY)}."] = "0.3b"
    size: Annotated[str, "Rows x columns in pixels, such as 1024x768. Default: the model's native resolution."] = ""
    decoder: Annotated[Literal["self", "cross"], "self: the paper's; cross: cross-attention to a subset, cheaper."] = (
        "self"
    )
    mask_ratio: Annotated[float, "Share of the patches that are hidden."] = 0.75
    predict_ratio: Annotated[float, "Share of all patches that the cross decoder predicts."] = 0.25
    norm_pix: Annotated[bool, "Normalise the target of every patch by its own mean and deviation."] = True

    images: Annotated[int, "Training length in images seen."] = 300_000_000
    batch: Annotated[int, "Images per optimiser step over all GPUs. Default: 4096 (tiny: 128)."] = 0
    micro_batch: Annotated[int, "Images per GPU and pass; batch / (GPUs x micro_batch) passes are accumulated."] = 32
    base_lr: Annotated[float, "Learning rate per 256 images of batch."] = 1.5e-4
    warmup: Annotated[float, "Share of the images over which the learning rate rises."] = 0.025
    weight_decay: Annotated[float, "AdamW weight decay; none on norms, biases, positions and tokens."] = 0.05
    beta1: Annotated[float, "AdamW beta 1."] = 0.9
    beta2: Annotated[float, "AdamW beta 2."] = 0.95
    clip: Annotated[float, "Largest gradient norm."] = 1.0
    ema: Annotated[float, "Decay of an exponential average of the weights kept beside them; 0: none."] = 0.0
    seed: Annotated[int, "Decides weights, sample order, crops and masks."] = 0

    min_crop: Annotated[float, "Smallest share of the image's area in a crop."] = 0.2
    window: Annotated[int, "Shards whose samples are shuffled together."] = 16
    scaled_decode: Annotated[bool, "Let the JPEG decoder shrink by 2, 4, 8 where the crop allows it; faster."] = True
    workers: Annotated[int, "Decoding processes per GPU; 0: decode in the training process."] = 4
    cache_gb: Annotated[float, "Largest size of the local cache of remote shards."] = 200.0
    max_broken: Annotated[float, "Share of broken samples beyond which the run ends."] = 0.01

    precision: Annotated[Literal["bf16", "fp32"], "Arithmetic of the matrix products; weights are always float32."] = (
        "bf16"
    )
    compile: Annotated[Literal["auto", "on", "off"], "torch.compile per block; auto: on GPUs."] = "auto"
    activation_checkpointing: Annotated[
        bool, "Recompute activations in the backward pass: less memory, a third more work."
    ] = False
    parallel: Annotated[
        Literal["ddp", "fsdp"], "How several GPUs share the work: whole copies, or sharded weights."
    ] = "ddp"

    log_every: Annotated[int, "Steps between metrics lines."] = 10
    save_every: Annotated[int, "Steps between checkpoints."] = 1000
    keep: Annotated[int, "Newest checkpoints kept; at least 2."] = 3
    max_skipped: Annotated[int, "Steps with a non-finite loss or gradient that may be skipped before the run ends."] = (
        10
    )
    max_minutes: Annotated[float, "Save and stop after this time; 0: no limit."] = 0.0
    peak_tflops: Annotated[float, "Peak of one device for MFU; 0: known for common GPUs."] = 0.0

    def __post_init__(self) -> None:
        _require(len(self.data) > 0, "data is empty; give a curated folder or tar names")
        _require(self.model in FAMILY, f"model is '{self.model}'; allowed are {', '.join(FAMILY)}")
        rows, columns = self.image_size
        _require(
            rows % PATCH == 0 and columns % PATCH == 0 and min(rows, columns) >= 2 * PATCH,
            f"size is {self.size}; both sides must be multiples of {PATCH} px and at least {2 * PATCH}",
        )
        for name, low, high in _RANGES:
            _require(
                low <= getattr(self, name) <= high, f"{name} is {getattr(self, name)}; allowed is {low:g} to {high:g}"
            )
        _require(
            self.decoder == "self" or self.predict_ratio <= self.mask_ratio,
            f"predict_ratio is {self.predict_ratio}; it cannot exceed mask_ratio, {self.mask_ratio}",
        )
        _require(
            self.images >= self.total_batch,
            f"images is {self.images}, less than one batch of {self.total_batch}; give more images or a smaller batch",
        )

    @property
    def arch(self) -> Architecture:
        return FAMILY[self.model]

    @property
    def image_size(self) -> tuple[int, int]:
        """Rows and columns in pixels."""
        if not self.size:
            return (self.arch.image, self.arch.image)
        sides = self.size.lower().split("x")
        if not (1 <= len(sides) <= 2 and all(side.strip().isdigit() for side in sides)):
            raise UsageError(f"size is '{self.size}'; give rows x columns in pixels, such as 1024x768, or one number")
        return (int(sides[0]), int(sides[-1]))

    @property
    def total_batch(self) -> int:
        return self.batch or self.arch.batch

    @property
    def steps(self) -> int:
        return self.images // self.total_batch

    @property
    def run_folder(self) -> Path:
        return Path(self.run or f"runs/mae-{self.model}")

    @property
    def peak_lr(self) -> float:
        return self.base_lr * self.total_batch / 256

    def accumulation(self, world: int) -> int:
        """Passes per optimiser step on each of `world` ranks."""
        passes, rest = divmod(self.total_batch, world * self.micro_batch)
        _require(
            rest == 0 and passes > 0,
            f"a batch of {self.total_batch} cannot be split over {world} processes x {self.micro_batch} images; "
            f"choose micro_batch so that {world} x micro_batch divides it",
        )
        return passes


_RANGES = (
    ("mask_ratio", 0.05, 0.99),
    ("predict_ratio", 0.01, 0.99),
    ("batch", 0, 10**7),
    ("micro_batch", 1, 10**5),
    ("base_lr", 0, 1),
    ("warmup", 0, 1),
    ("weight_decay", 0, 10),
    ("beta1", 0, 0.9999),
    ("beta2", 0, 0.99999),
    ("clip", 1e-6, 1e6),
    ("ema", 0, 0.999999),
    ("seed", 0, 2**62),
    ("min_crop", 0.01, 1),
    ("window", 1, 10**6),
    ("workers", 0, 256),
    ("cache_gb", 0, 10**6),
    ("max_broken", 0, 1),
    ("log_every", 1, 10**9),
    ("save_every", 1, 10**9),
    ("keep", 2, 10**6),
    ("max_skipped", 0, 10**9),
    ("max_minutes", 0, 10**9),
    ("peak_tflops", 0, 10**6),
)


def load_config(kind: type[Config], file: str | None, given: Mapping[str, Any]) -> Config:
    """A config from a YAML file, if one is named, overridden by what is `given`; every key and value is
    checked.
    """
    values: dict[str, Any] = {}
    if file:
        try:
            loaded = yaml.safe_load(Path(file).read_text())
        except (OSError, yaml.YAMLError) as error:
            raise UsageError(f"the config {file} cannot be read: {error}") from error
        if not isinstance(loaded, dict):
            raise UsageError(f"the config {file} must be a mapping of names to values")
        values |= loaded
    return config_from(kind, {**values, **given})


def config_from(kind: type[Config], values: Mapping[str, Any]) -> Config:
    """A config from plain values, each converted to its field's type."""
    hints = typing.get_type_hints(kind)
    for name in values:
        if name not in hints:
            near = difflib.get_close_matches(name, hints, 1)
            guess = f"; did you mean '{near[0]}'?" if near else f"; allowed are {', '.join(hints)}"
            raise UsageError(f"there is no setting '{name}'{guess}")
    missing = [f.name for f in fields(kind) if f.default is MISSING and f.name not in values]  # type: ignore[arg-type]
    if missing:
        raise UsageError(f"{', '.join(missing)} must be given")
    return kind(**{name: _convert(name, value, hints[name]) for name, value in values.items()})


def save_config(config: Any, path: Path) -> None:
    """Write a config as YAML that `load_config` reads back."""
    values = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(config).items()}
    path.write_text(yaml.safe_dump(values, sort_keys=False))


def _convert(name: str, value: Any, kind: Any) -> Any:
    """A value from YAML or the command line as its field's type. Whole numbers may be written as 300e6."""
    if typing.get_origin(kind) is tuple:
        return tuple(str(item) for item in ([value] if isinstance(value, str) else value))
    if typing.get_origin(kind) is Literal:
        allowed = typing.get_args(kind)
        value = {True: "on", False: "off"}.get(value, value) if isinstance(value, bool) else value  # YAML 1.1
        if value not in allowed:
            raise UsageError(f"{name} is '{value}'; allowed are {', '.join(allowed)}")
        return value
    try:
        if kind is bool and not isinstance(value, bool):
            return {"true": True, "false": False}[str(value).lower()]
        if kind is int:
            return whole_number(name, value)
        if kind is float:
            return float(value)
    except (KeyError, ValueError, TypeError):
        raise UsageError(
            f"{name} is '{value}'; it must be {'a number' if kind is float else 'true or false'}"
        ) from None
    return kind(value)


def whole_number(name: str, value: Any) -> int:
    """A whole number, which may be written as 300e6 or 300_000_000."""
    try:
        number = float(str(value))
        if not isinstance(value, bool) and number == int(number):
            return value if isinstance(value, int) else int(number)
    except (ValueError, OverflowError):
        pass
    raise UsageError(f"{name} is '{value}'; it must be a whole number")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise UsageError(message)
