"""sapiens-train: parse, call one function, print."""

import inspect
import json
import sys
import typing
from collections.abc import Callable
from dataclasses import MISSING, fields
from typing import Annotated, Any

import typer

from shards.cache import ShardError
from training.config import PretrainConfig, UsageError, load_config

app = typer.Typer(
    help="Pretrain, fine-tune and use the Sapiens family of models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def settings_of(kind: type) -> Callable[[Callable[[Any], None]], Callable[..., None]]:
    """Give a command one option per field of a config class, named as the field, and a --config file below them.

    The field `data` becomes the command's arguments.
    """

    def decorate(command: Callable[[Any], None]) -> Callable[..., None]:
        hints = typing.get_type_hints(kind, include_extras=True)
        parameters = [_parameter(field, hints[field.name]) for field in fields(kind)]
        file = Annotated[str | None, typer.Option("--config", metavar="YAML", help="Settings from a file; flags go first.")]
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
