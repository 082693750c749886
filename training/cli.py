"""sapiens-train: parse, call one function, print."""

import errno
import inspect
import json
import sys
import typing
from collections.abc import Callable
from contextlib import suppress
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from manifests.account import numbered
from manifests.version import common
from shards.cache import ShardError
from training.config import TASKS, FinetuneConfig, PretrainConfig, Task, UsageError, load_config, whole_number
from training.interrupt import ending_as_ctrl_c
from training.models.zoo import FAMILY

app = typer.Typer(
    help="Pretrain, fine-tune and use the Sapiens family of models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.callback()(common)


_ARGUMENTS = {"task": 0, "data": 1, "out": 2}
"""Fields that are arguments, not options, and their places."""


def settings_of(kind: type) -> Callable[[Callable[[Any], None]], Callable[..., None]]:
    """Give a command one option per field of a config class, named as the field, and a --config file below
    them.

    The fields `task`, `data` and `out` become the command's arguments, in this order.
    """

    def decorate(command: Callable[[Any], None]) -> Callable[..., None]:
        hints = typing.get_type_hints(kind, include_extras=True)
        ordered = sorted(fields(kind), key=lambda field: _ARGUMENTS.get(field.name, 9))
        parameters = [_parameter(field, hints[field.name]) for field in ordered]
        file = Annotated[
            str | None, typer.Option("--config", metavar="YAML", help="Settings from a file; flags go first.")
        ]
        parameters.append(inspect.Parameter("config", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=file))

        def run(**given: Any) -> None:
            named = given.pop("config")
            if given.get("out") and not given.get("data"):  # the last argument alone
                raise UsageError(f"OUT is missing: {given['out']} alone was given; give DATA and behind it OUT")
            command(load_config(kind, named, {name: value for name, value in given.items() if value is not None}))

        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        run.__doc__, run.__name__ = command.__doc__, command.__name__
        return run

    return decorate


def _parameter(field: Any, hint: Any) -> inspect.Parameter:
    plain, help_text = typing.get_args(hint)[:2]
    if field.name == "data":
        kind: Any = Annotated[list[str] | None, typer.Argument(metavar="DATA", help=help_text)]
    elif field.name in _ARGUMENTS:
        kind = Annotated[str | None, typer.Argument(metavar=field.name.upper(), help=help_text)]
    else:
        if field.default not in (MISSING, "", 0, 0.0) or field.default is False:
            shown = str(field.default).lower() if isinstance(field.default, bool) else f"{field.default}"
            help_text += rf" \[default: {shown}]"  # bare brackets would be taken for a style
        flag = "--" + field.name.replace("_", "-")
        if plain is bool:
            kind = Annotated[bool | None, typer.Option(f"{flag}/--no-{flag[2:]}", help=help_text)]
        else:
            choices = typing.get_args(plain)
            metavar = "|".join(choices) if choices else {int: "N", float: "X"}.get(plain, "TEXT")
            kind = Annotated[str | None, typer.Option(flag, metavar=metavar, help=help_text)]
    return inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind)


@app.command()
@settings_of(PretrainConfig)
def pretrain(config: PretrainConfig) -> None:
    """Pretrain a masked autoencoder on shards; the same command again goes on where it stopped."""
    from training.pretrain import pretrain as run

    raise typer.Exit(run(config))


@app.command()
@settings_of(FinetuneConfig)
def finetune(config: FinetuneConfig) -> None:
    """Fine-tune an encoder with a decoder for pose, parts, depth or normals; the same command again goes on."""
    from training.finetune import finetune as run

    raise typer.Exit(run(config))


@app.command("eval")
def evaluate(
    task: Annotated[str, typer.Argument(metavar="TASK", help=f"One of {', '.join(TASKS)}.")],
    weights: Annotated[str, typer.Argument(metavar="CKPT", help="Fine-tuned run or checkpoint folder, or file.")],
    data: Annotated[list[str], typer.Argument(metavar="DATA", help="Folders that sapiens-train pack wrote.")],
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the figures here.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Samples per pass.")] = 16,
    workers: Annotated[int, typer.Option(min=0, help="Decoding processes.")] = 2,
    flip_test: Annotated[bool, typer.Option(help="Pose: average with the mirrored view.")] = True,
) -> None:
    """Measure a fine-tuned model on labelled shards: COCO AP, mIoU, depth errors, angular errors."""
    from training.evaluate import evaluate as run

    if task not in TASKS:
        raise UsageError(f"task is '{task}'; allowed are {', '.join(TASKS)}")
    found = run(task, weights, tuple(data), batch, workers, flip_test)
    if found is not None:
        print(found.as_text())
        if json_file:
            found.write(json_file)


@app.command()
def reconstruct(
    weights: Annotated[str, typer.Argument(help="Run folder, checkpoint folder, or mae .safetensors file.")],
    images: Annotated[list[str], typer.Argument(help="Photos, folders of photos, or shards that were not trained on.")],
    out: Annotated[Path, typer.Option(help="Folder for triplets.png and ratios.png.")] = Path("reconstructions"),
    limit: Annotated[int, typer.Option(min=1, help="Photos shown, spread evenly over what is given.")] = 8,
    side: Annotated[int, typer.Option(min=0, help="Pixels of one picture in the figures; 0: the model's.")] = 0,
) -> None:
    """Draw original, masked and reconstructed photos, and a row per photo for 75, 85, 90 and 95 % hidden."""
    from training.figures import reconstruct as draw

    drawn = draw(weights, images, out, limit, side)
    print(*drawn.paths, sep="\n")
    scale = "1 is predicting the mean of every patch" if drawn.norm_pix else "in ImageNet's standard deviations"
    for share, error in drawn.errors.items():
        print(f"{share:.0%} hidden: mean squared error {error:.3f} ({scale})")


@app.command()
def convert(
    weights: Annotated[str, typer.Argument(help="Released .pth, .safetensors, or a checkpoint or run folder.")],
    out: Annotated[Path, typer.Argument(help="The .safetensors file to write.")],
    layout: Annotated[
        str, typer.Option(help="encoder (timm's names), mae (with decoder), task (with its decoder) or official.")
    ] = "encoder",
    grid: Annotated[str, typer.Option(metavar="ROWSxCOLUMNS", help="Grid of the stored positions, if unknown.")] = "",
    patch_padding: Annotated[int | None, typer.Option(help="0 or 2, for a head that was not released.")] = None,
) -> None:
    """Write the weights of a file or checkpoint as safetensors under other names."""
    from training.models.convert import LAYOUTS, parse_grid, read_weights, write_weights
    from training.models.task import load_task, write_task

    if layout not in LAYOUTS:
        raise UsageError(f"layout is '{layout}'; allowed are {', '.join(LAYOUTS)}")
    if out.suffix != ".safetensors":
        raise UsageError(f"the output is '{out}'; give a name that ends in .safetensors")
    if patch_padding not in (None, 0, 2):
        raise UsageError(f"patch_padding is {patch_padding}; allowed are 0 and 2")
    found = read_weights(weights, parse_grid(grid) if grid else None, patch_padding)
    if layout == "task" or (layout == "official" and found.head):
        write_task(load_task(weights), out, official=layout == "official")
    else:
        write_weights(found, out, layout)
    print(
        f"{out}: sapiens-{found.arch.name}, grid {found.grid[0]} x {found.grid[1]}, patch padding {found.patch_padding}"
    )


@app.command()
def predict(
    *,
    paths: Annotated[
        list[str] | None,
        typer.Argument(metavar="PATHS", help="Photos, folders, tars, videos, or a webcam's number."),
    ] = None,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for the results.")],
    pose: Annotated[str, typer.Option(metavar="CKPT", help="Model for keypoints.")] = "",
    parts: Annotated[str, typer.Option(metavar="CKPT", help="Model for body parts; they mask depth and normals.")] = "",
    depth: Annotated[str, typer.Option(metavar="CKPT", help="Model for relative depth.")] = "",
    normals: Annotated[str, typer.Option(metavar="CKPT", help="Model for surface normals.")] = "",
    boxes: Annotated[
        str, typer.Option(metavar="FILE|whole", help="People from a json or parquet file; whole: an image is a person.")
    ] = "",
    min_score: Annotated[
        float | None, typer.Option(min=0, max=1, help=r"Least score of a person. \[default: 0.5; of a FILE: 0]")
    ] = None,
    min_keypoint: Annotated[float, typer.Option(min=0, help="Least score of a keypoint that is drawn.")] = 0.3,
    batch: Annotated[int, typer.Option(min=1, help="People per pass, over several images.")] = 4,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    precision: Annotated[str, typer.Option(help="Matrix products in fp32 or bf16.")] = "fp32",
    pictures: Annotated[bool, typer.Option(help="Write panels and overlays.")] = True,
    data: Annotated[bool, typer.Option(help="Write keypoints, maps and jsonl.")] = True,
    frames: Annotated[int, typer.Option(min=0, help="Frames of each video or webcam; 0: to the end, or Ctrl-C.")] = 0,
) -> None:
    """Find people and tell their pose, parts, depth and normals: pictures and data for photos and videos."""
    from training.predict.run import RECORD, Options, summary
    from training.predict.run import predict as run

    if not paths:
        raise UsageError(f"OUT is missing: only {out} was given; give PATHS and, last, the folder for the results")
    if precision not in ("fp32", "bf16"):
        raise UsageError(f"precision is '{precision}'; allowed are fp32 and bf16")
    given = {"pose": pose, "parts": parts, "depth": depth, "normals": normals}
    options = Options(boxes, min_score, min_keypoint, batch, device, precision, pictures, data, frames)
    with ending_as_ctrl_c():
        rows = run(paths, out, {task: path for task, path in given.items() if path}, options)
    print(f"{out}: {summary(rows, json.loads((out / RECORD).read_text())['passed_over'])}")
    failed = [row for row in rows if row.error_message]
    for row in failed[:5]:
        print(f"  {' '.join((row.uri, row.member)).strip()}: {row.error_message}", file=sys.stderr)
    if len(failed) > 5:
        print(f"  and {len(failed) - 5} more in {out / 'manifest.parquet'}", file=sys.stderr)
    raise typer.Exit(1 if all(row.status == "failed" for row in rows) else 0)


@app.command()
def export(
    checkpoint: Annotated[str, typer.Argument(metavar="CKPT", help="Fine-tuned run or checkpoint folder, or file.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="File to write: .onnx or .pt2 (torch.export).")],
) -> None:
    """Write a fine-tuned model as ONNX or torch.export archive, checked against the model's own output."""
    from training.export import export as run

    done = run(checkpoint, out)
    print(
        f"{done.path}: {done.kind} for {done.task}, uint8 images (any number, {done.size[0]}, {done.size[1]}, 3), "
        f"{done.bytes / 1e6:.1f} MB; run with {done.checked_with} it differs from the model by {done.difference:.1e} "
        "of the largest output"
    )


@app.command()
def plan(
    model: Annotated[str, typer.Option(help=f"One of {', '.join(FAMILY)}.")] = "0.3b",
    gpus: Annotated[int, typer.Option(min=1, help="GPUs in all.")] = 8,
    images: Annotated[str, typer.Option(metavar="N", help="Images to see, such as 300e6.")] = "300e6",
    gpu_memory: Annotated[float, typer.Option(min=1, max=1e6, help="GB of one GPU.")] = 80.0,
    peak_tflops: Annotated[float, typer.Option(min=1, max=1e9, help="Dense bf16 peak of one GPU.")] = 989.4,
) -> None:
    """Memory, operations, hours and shard advice for a run, from formulas."""
    from training.plan import describe, make_plan

    if model not in FAMILY:
        raise UsageError(f"model is '{model}'; allowed are {', '.join(FAMILY)}")
    count = whole_number("images", images)
    if not 1 <= count <= 10**12:
        raise UsageError(f"images is '{images}'; give 1 to 1e12")
    made = make_plan(FAMILY[model], gpus, count, gpu_memory, peak_tflops)
    print(describe(made, gpus, count, gpu_memory, peak_tflops))


@app.command()
def models(as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False) -> None:
    """The family, and the models it is compared with: data, images, resolution, parameters, operations."""
    from training.models.table import as_rows, as_text

    print(json.dumps(as_rows(), indent=1) if as_json else as_text())


@app.command()
def pack(
    *,
    task: Annotated[str, typer.Argument(metavar="pose|parts|depth|normals")],
    labels: Annotated[
        list[Path] | None,
        typer.Argument(metavar="LABELS", help="COCO json, folders, or WebDataset tars."),
    ] = None,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for the labelled shards.")],
    names: Annotated[
        str, typer.Option("--set", metavar="NAME|FILE", help="Keypoint set or class list: shipped, or a YAML file.")
    ] = "",
    images: Annotated[
        list[Path] | None, typer.Option(metavar="PATH", help="Photos of all COCO jsons. Default: images/ beside each.")
    ] = None,
    scale: Annotated[float | None, typer.Option(help="Metres per step of 16-bit depth, such as 0.001.")] = None,
    axes: Annotated[str, typer.Option(help="What normals' channels hold; OpenCV's camera is +x-y-z.")] = "+x+y+z",
) -> None:
    """Turn keypoints, class maps, depth or normals into labelled shards, with an account of every label."""
    from rich.progress import Progress

    from training.labels.dense_files import Convention
    from training.labels.pack import Packing, summary
    from training.labels.pack import pack as run
    from training.labels.preview import write_preview

    if task not in TASKS:
        raise UsageError(f"task is '{task}'; allowed are {', '.join(TASKS)}")
    if not labels:
        raise UsageError(f"OUT is missing: only {out} was given; give LABELS and, last, the folder for the shards")
    for flag, given, tasks in (
        ("--set", names != "", ("pose", "parts")),
        ("--images", bool(images), ("pose",)),
        ("--scale", scale is not None, ("depth",)),
        ("--axes", axes != Convention().axes, ("normals",)),
    ):
        if given and task not in tasks:
            raise UsageError(f"{flag} is for {' and '.join(tasks)}, and the task is {task}; leave it out")
    if images and len(images) > 1:
        raise UsageError("--images is one folder for all files; leave it out where each has images/ beside it")
    folder = images[0] if images else None
    packing = Packing(cast(Task, task), tuple(labels), out, names, folder, Convention(scale, axes))
    with Progress(transient=True) as bars:  # beside a refusal a bar would tell of work that was never begun
        bar = bars.add_task("packing", total=None)
        for done, total in run(packing):
            bars.update(bar, completed=done, total=total)
    print(f"{out}: {summary(json.loads((out / 'labels.json').read_text()))}")
    print(f"look at {write_preview(out)}")


@app.command()
def practice(
    out: Annotated[Path, typer.Argument(help="Folder to write; `sapiens-train pack` reads it.")],
    count: Annotated[int, typer.Option(min=1, help="Pictures.")] = 200,
    seed: Annotated[
        int, typer.Option(min=0, help="Another seed gives other people: one to train, one to hold out.")
    ] = 0,
    backgrounds: Annotated[
        Path | None, typer.Option(help="Folder of photos to stand before. Default: made up.")
    ] = None,
    size: Annotated[str, typer.Option(metavar="ROWSxCOLUMNS", help="Default: varies about 256x224.")] = "",
    workers: Annotated[int, typer.Option(min=1, help="Processes that render.")] = 1,
) -> None:
    """Render pictures of people made of round cones, with exact keypoints, parts, depth and normals."""
    from rich.progress import track

    from training.practice.write import parse_size, write_practice
    from training.tasks.background import Backgrounds

    photos = Backgrounds.from_folder(backgrounds) if backgrounds else None
    written = write_practice(out, count, seed, photos, parse_size(size) if size else None, workers)
    for _ in track(written, "rendering", count, transient=True):
        pass
    print(f"{out}: {numbered(count, 'picture')}, keypoints.json, parts, masks, depths, normals, preview.jpg")


def main() -> None:
    """Entry point: a mistake of the user's is one sentence and exit code 2."""
    try:
        app()
    except (UsageError, ShardError, OSError) as error:  # OSError: a full disk, a folder that is a file or read-only
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        advice = "; free some space, then run the same command again" if full else ""
        _refuse(f"{error}{advice}")
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # torch's, which not every command imports
            raise
        reason = str(error).split(". ")[0]
        _refuse(
            f"the GPU's memory is full ({reason}); give a smaller --micro-batch or --batch, a smaller --model, "
            "--activation-checkpointing for a training, or free the GPU; what was saved is unharmed"
        )


def _refuse(text: str) -> None:
    with suppress(OSError):  # of a Ctrl-C that ended `2>&1 | tee` too
        print(f"sapiens-train: {text}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
