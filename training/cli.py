"""sapiens-train: parse, call one function, print."""

import inspect
import json
import sys
import typing
from collections.abc import Callable
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Annotated, Any

import typer

from shards.cache import ShardError
from training.config import PretrainConfig, UsageError, load_config, whole_number
from training.models.zoo import FAMILY

app = typer.Typer(
    help="Pretrain, fine-tune and use the Sapiens family of models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def settings_of(kind: type) -> Callable[[Callable[[Any], None]], Callable[..., None]]:
    """Give a command one option per field of a config class, named as the field, and a --config file below
    them.

    The field `data` becomes the command's arguments.
    """

    def decorate(command: Callable[[Any], None]) -> Callable[..., None]:
        hints = typing.get_type_hints(kind, include_extras=True)
        parameters = [_parameter(field, hints[field.name]) for field in fields(kind)]
        file = Annotated[
            str | None, typer.Option("--config", metavar="YAML", help="Settings from a file; flags go first.")
        ]
        parameters.append(inspect.Parameter("config", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=file))

        def run(**given: Any) -> None:
            named = given.pop("config")
            command(load_config(kind, named, {name: value for name, value in given.items() if value is not None}))

        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        run.__doc__, run.__name__ = command.__doc__, command.__name__
        return run

    return decorate


def _parameter(field: Any, hint: Any) -> inspect.Parameter:
    plain, help_text = typing.get_args(hint)
    if field.name == "data":
        kind: Any = Annotated[list[str] | None, typer.Argument(metavar="DATA...", help=help_text)]
    else:
        if field.default not in (MISSING, "", 0, 0.0) or field.default is False:
            shown = str(field.default).lower() if isinstance(field.default, bool) else f"{field.default}"
            help_text += f" [default: {shown}]"
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
    for share, error in drawn.errors.items():
        print(f"{share:.0%} hidden: mean squared error {error:.3f} (1 is predicting the mean of every patch)")


@app.command()
def convert(
    weights: Annotated[str, typer.Argument(help="Released .pth, .safetensors, or a checkpoint or run folder.")],
    out: Annotated[Path, typer.Argument(help="The .safetensors file to write.")],
    layout: Annotated[str, typer.Option(help="encoder (timm's names), mae (with decoder) or official.")] = "encoder",
    grid: Annotated[str, typer.Option(metavar="ROWSxCOLUMNS", help="Grid of the stored positions, if unknown.")] = "",
    patch_padding: Annotated[int | None, typer.Option(help="0 or 2, for a head that was not released.")] = None,
) -> None:
    """Write the weights of a file or checkpoint as safetensors under other names."""
    from training.models.convert import LAYOUTS, parse_grid, read_weights, write_weights

    if layout not in LAYOUTS:
        raise UsageError(f"layout is '{layout}'; allowed are {', '.join(LAYOUTS)}")
    if out.suffix != ".safetensors":
        raise UsageError(f"the output is '{out}'; give a name that ends in .safetensors")
    found = read_weights(weights, parse_grid(grid) if grid else None, patch_padding)
    write_weights(found, out, layout)
    print(
        f"{out}: sapiens-{found.arch.name}, grid {found.grid[0]} x {found.grid[1]}, patch padding {found.patch_padding}"
    )


@app.command()
def plan(
    model: Annotated[str, typer.Option(help=f"One of {', '.join(FAMILY)}.")] = "0.3b",
    gpus: Annotated[int, typer.Option(min=1, help="GPUs in all.")] = 8,
    images: Annotated[str, typer.Option(metavar="N", help="Images to see, such as 300e6.")] = "300e6",
    gpu_memory: Annotated[float, typer.Option(min=1, help="GB of one GPU.")] = 80.0,
    peak_tflops: Annotated[float, typer.Option(min=1, help="Dense bf16 peak of one GPU.")] = 989.4,
) -> None:
    """Memory, operations, hours and shard advice for a run, from formulas."""
    from training.plan import describe, make_plan

    if model not in FAMILY:
        raise UsageError(f"model is '{model}'; allowed are {', '.join(FAMILY)}")
    count = whole_number("images", images)
    made = make_plan(FAMILY[model], gpus, count, gpu_memory, peak_tflops)
    print(describe(made, gpus, count, gpu_memory, peak_tflops))


@app.command()
def models(as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False) -> None:
    """The family, and the models it is compared with: data, images, resolution, parameters, operations."""
    from training.models.table import as_rows, as_text

    print(json.dumps(as_rows(), indent=1) if as_json else as_text())


def main() -> None:
    """Entry point: a mistake of the user's is one sentence and exit code 2."""
    try:
        app()
    except (UsageError, ShardError) as error:
        print(f"sapiens-train: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
