"""Settings of a run. A flag, a YAML key and a field have one name; what is not given has the published value."""

import difflib
import typing
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import yaml

from manifests.settings import NO_YAML
from manifests.store import Store
from training.models.zoo import FAMILY, PATCH, Architecture

Config = TypeVar("Config")

Task = Literal["pose", "parts", "depth", "normals"]
TASKS: tuple[Task, ...] = get_args(Task)


class UsageError(Exception):
    """A mistake in what was given; the text says what it was, what is allowed and what to do."""


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """What every kind of training decides."""

    model: Annotated[str, f"One of {', '.join(FAMILY)}."] = "0.3b"
    size: Annotated[str, "Rows x columns in pixels, such as 1024x768. Default: the model's native resolution."] = ""
    resume: Annotated[
        str, "auto: go on from the newest checkpoint in the run folder; never; or a checkpoint folder to begin at."
    ] = "auto"

    images: Annotated[int, "Training length in images seen."] = 0
    batch: Annotated[int, "Images per optimiser step over all GPUs."] = 0
    micro_batch: Annotated[int, "Images per GPU and pass; batch / (GPUs x micro_batch) passes are accumulated."] = 32
    weight_decay: Annotated[float, "AdamW weight decay; none on norms, biases, positions and tokens."] = 0.05
    beta1: Annotated[float, "AdamW beta 1."] = 0.9
    beta2: Annotated[float, "AdamW beta 2."] = 0.95
    clip: Annotated[float, "Largest gradient norm."] = 1.0
    ema: Annotated[float, "Decay of an exponential average of the weights kept beside them; 0: none."] = 0.0
    seed: Annotated[int, "Decides weights, sample order, augmentation and masks."] = 0

    window: Annotated[int, "Shards whose samples are shuffled together."] = 16
    workers: Annotated[int, "Decoding processes per GPU; 0: decode in the training process."] = 4
    cache_gb: Annotated[float, "Largest size of the local cache of remote shards."] = 200.0
    max_broken: Annotated[float, "Share of broken samples beyond which the run ends."] = 0.01

    precision: Annotated[
        Literal["auto", "bf16", "fp32"],
        "Arithmetic of the matrix products; weights are always float32. auto: bf16 where the hardware has it.",
    ] = "auto"
    compile: Annotated[Literal["auto", "on", "off"], "torch.compile per block; auto: on GPUs that have it."] = "auto"
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
        _require(self.model in FAMILY, f"model is '{self.model}'; allowed are {', '.join(FAMILY)}")
        rows, columns = self.image_size
        _require(
            rows % PATCH == 0 and columns % PATCH == 0 and min(rows, columns) >= 2 * PATCH,
            f"size is {self.size}; both sides must be multiples of {PATCH} px and at least {2 * PATCH}",
        )
        for name, low, high in _RANGES:
            value = getattr(self, name, low)
            _require(low <= value <= high, f"{name} is {value}; allowed is {low:g} to {high:g}")

    @property
    def arch(self) -> Architecture:
        return FAMILY[self.model]

    @property
    def native_size(self) -> tuple[int, int]:
        """Rows and columns where no `size` is given."""
        return (self.arch.image, self.arch.image)

    @property
    def image_size(self) -> tuple[int, int]:
        """Rows and columns in pixels."""
        if not self.size:
            return self.native_size
        sides = self.size.lower().split("x")
        if not (1 <= len(sides) <= 2 and all(side.strip().isdecimal() for side in sides)):
            raise UsageError(f"size is '{self.size}'; give rows x columns in pixels, such as 1024x768, or one number")
        return (int(sides[0]), int(sides[-1]))

    @property
    def total_batch(self) -> int:
        return self.batch

    def accumulation(self, world: int) -> int:
        """Passes per optimiser step on each of `world` ranks."""
        passes, rest = divmod(self.total_batch, world * self.micro_batch)
        _require(
            rest == 0 and passes > 0,
            f"a batch of {self.total_batch} cannot be split over {world} processes x {self.micro_batch} images; "
            f"choose micro_batch so that {world} x micro_batch divides it",
        )
        return passes


@dataclass(frozen=True, kw_only=True)
class PretrainConfig(RunConfig):
    """Everything that decides how a pretraining run goes (paper §3.2 and §4.1; Sapiens' released
    configuration).
    """

    data: Annotated[
        tuple[str, ...], "Curated folder, folder of tars, or tar names with {braces} and globs; local or URL."
    ]
    run: Annotated[str, "Folder for checkpoints, metrics and config. Default: runs/mae-MODEL."] = ""
    decoder: Annotated[Literal["self", "cross"], "self: the paper's; cross: cross-attention to a subset, cheaper."] = (
        "self"
    )
    mask_ratio: Annotated[float, "Share of the patches that are hidden."] = 0.75
    predict_ratio: Annotated[float, "Share of all patches that the cross decoder predicts."] = 0.25
    masks: Annotated[int, "Copies of each image, each hidden elsewhere; more where decoding JPEGs is the limit."] = 1
    norm_pix: Annotated[bool, "Normalise the target of every patch by its own mean and deviation."] = True
    images: Annotated[int, "Training length in images seen."] = 300_000_000
    batch: Annotated[int, "Images per optimiser step over all GPUs. Default: 4096 (tiny: 128)."] = 0
    base_lr: Annotated[float, "Learning rate per 256 images of batch."] = 1.5e-4
    warmup: Annotated[float, "Share of the images over which the learning rate rises."] = 0.025
    min_crop: Annotated[float, "Smallest share of the image's area in a crop."] = 0.2
    scaled_decode: Annotated[
        bool, "Let the JPEG decoder shrink to 4, 3, 2 or 1 eighths where the crop allows it; faster."
    ] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(len(self.data) > 0, "data is empty; give a curated folder or tar names")
        _require(
            self.decoder == "self" or self.predict_ratio <= self.mask_ratio,
            f"predict_ratio is {self.predict_ratio}; it cannot exceed mask_ratio, {self.mask_ratio}",
        )
        _require(
            self.images >= self.total_batch,
            f"images is {self.images}, less than one batch of {self.total_batch}; give more images or a smaller batch",
        )

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


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig(RunConfig):
    """Everything that decides how a task is fine-tuned; defaults from Sapiens' released configurations."""

    task: Annotated[Task, "What to learn."]
    data: Annotated[tuple[str, ...], "Folders that sapiens-train pack wrote for this task."]
    out: Annotated[str, "Folder for checkpoints, metrics and config."]
    init: Annotated[str, "Pretrained encoder: run or checkpoint folder, .safetensors or .pth. Default: random."] = ""
    frozen: Annotated[bool, "Train the decoder alone on a frozen encoder (dense probing)."] = False
    patch_padding: Annotated[int, "0 or 2, see docs/tasks.md; -1: as the encoder of --init was trained."] = -1
    augment: Annotated[bool, "Move, scale, turn, mirror and disturb the views; off for plain views."] = True
    backgrounds: Annotated[str, "Folder of pictures without people, put behind people (not for pose)."] = ""

    size: Annotated[str, "Rows x columns in pixels. Default: 1024x768 (tiny: 256x192)."] = ""
    images: Annotated[int, "Training length in labelled samples seen; 0: --epochs times what there is."] = 0
    epochs: Annotated[float, "Training length in passes over the data; 0: 210 for pose, 200 for the others."] = 0
    batch: Annotated[int, "Samples per optimiser step over all GPUs."] = 64
    micro_batch: Annotated[int, "Samples per GPU and pass; batch / (GPUs x micro_batch) passes are accumulated."] = 4
    lr: Annotated[float, "Peak learning rate of the decoder; 0: 5e-4, and 5e-5 for more than 133 keypoints."] = 0.0
    layer_decay: Annotated[
        float, "Factor of the learning rate per block towards the input; 0: by depth (0.80, 0.85, 0.90, 0.94)."
    ] = 0.85
    warmup_steps: Annotated[int, "Steps over which the learning rate rises; -1: 500 for pose, 400 for the others."] = -1
    weight_decay: Annotated[float, "AdamW weight decay; none on norms, biases and positions."] = 0.1
    beta2: Annotated[float, "AdamW beta 2."] = 0.999
    hard_keypoints: Annotated[int, "Learn only this many of the worst keypoints of a person; 0: all."] = 0
    depth_floor: Annotated[float, "Added to relative depth before its logarithm in the loss; 0: as published."] = 0.1
    window: Annotated[int, "Shards whose samples are shuffled together."] = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(len(self.data) > 0, f"data is empty; give a folder that `sapiens-train pack {self.task}` wrote")
        _require(self.batch > 0, "batch is 0; give at least 1")
        _require(self.patch_padding in (-1, 0, 2), f"patch_padding is {self.patch_padding}; allowed are 0, 2 and -1")
        _require(not (self.frozen and not self.init), "frozen needs --init: a random encoder is not worth freezing")
        _require(
            not (self.backgrounds and self.task == "pose"),
            "backgrounds are pasted behind a mask of people, which pose labels do not have; leave --backgrounds out",
        )

    @property
    def native_size(self) -> tuple[int, int]:
        return self.arch.task_size

    @property
    def run_folder(self) -> Path:
        return Path(self.out)


_RANGES = (
    ("mask_ratio", 0.05, 0.99),
    ("predict_ratio", 0.01, 0.99),
    ("masks", 1, 256),
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
    ("images", 0, 10**12),
    ("epochs", 0, 10**6),
    ("lr", 0, 1),
    ("layer_decay", 0, 1),
    ("warmup_steps", -1, 10**9),
    ("hard_keypoints", 0, 10**4),
    ("depth_floor", 0, 1),
)


def load_config(kind: type[Config], file: str | None, given: Mapping[str, Any]) -> Config:
    """A config from a YAML file, if one is named, overridden by what is `given`; every key and value is
    checked.
    """
    values: dict[str, Any] = {}
    if file:
        try:
            loaded = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
        except (OSError, *NO_YAML) as error:
            raise UsageError(f"the config {file} cannot be read: {' '.join(str(error).split())}") from error
        if not isinstance(loaded, dict):
            raise UsageError(f"the config {file} must be a mapping of names to values")
        values |= loaded
    return config_from(kind, {**values, **given})


def config_from(kind: type[Config], values: Mapping[str, Any]) -> Config:
    """A config from plain values, each converted to its field's type."""
    hints = typing.get_type_hints(kind)
    for name in values:
        if name not in hints:
            near = difflib.get_close_matches(str(name), hints, 1)
            guess = f"; did you mean '{near[0]}'?" if near else f"; allowed are {', '.join(hints)}"
            raise UsageError(f"there is no setting '{name}'{guess}")
    values = {name: value for name, value in values.items() if value is not None}  # a YAML key left blank
    missing = [f.name for f in fields(kind) if f.default is MISSING and f.name not in values]  # type: ignore[arg-type]
    if missing:
        raise UsageError(f"{', '.join(missing)} must be given")
    return kind(**{name: _convert(name, value, hints[name]) for name, value in values.items()})


def save_config(config: Any, path: Path) -> None:
    """Write a config as YAML that `load_config` reads back."""
    values = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(config).items()}
    Store(path.parent).write_bytes(path.name, yaml.safe_dump(values, sort_keys=False).encode())


def _convert(name: str, value: Any, kind: Any) -> Any:
    """A value from YAML or the command line as its field's type. Whole numbers may be written as 300e6."""
    if typing.get_origin(kind) is tuple:
        if not isinstance(value, str | list | tuple) or not all(isinstance(item, str) for item in value):
            raise UsageError(f"{name} is {value!r}; give a name or a list of names")
        return (value,) if isinstance(value, str) else tuple(value)
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
    if kind is str and isinstance(value, bool | list | dict):  # YAML 1.1 takes no, off and yes for these
        raise UsageError(f"{name} is {value!r}; it must be text, in quotes where YAML takes it for something else")
    return kind(value)


def whole_number(name: str, value: Any) -> int:
    """A whole number, which may be written as 300e6 or 300_000_000."""
    with suppress(ValueError):
        return int(str(value))  # of any size, exactly
    try:
        number = float(str(value))
        if not isinstance(value, bool) and number == int(number):
            return int(number)
    except (ValueError, OverflowError):
        pass
    raise UsageError(f"{name} is '{value}'; it must be a whole number")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise UsageError(message)
