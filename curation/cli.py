"""`sapiens-curate`: parse, call one function, print.

Each command imports what it needs itself: torch, Dask and matplotlib take seconds, and `verify` wants none of them.
"""

import json
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from shlex import join, quote
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from curation.errors import DISK_FULL, Stopped, UsageError
from curation.recipe import Recipe, change, load_recipe
from curation.record import RUN_FILE, Record, load_record
from manifests.account import numbered
from manifests.scan import NoManifest
from manifests.store import Damaged, Store, Unreachable
from manifests.version import common

if TYPE_CHECKING:
    from curation.run import Stages

DONE, UNHAPPY, USAGE, RESUMABLE = 0, 1, 2, 75

app = typer.Typer(
    help="Choose the photos of people that a vision model should learn from, and pack them into shards.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.callback()(common)
console = Console(highlight=False, soft_wrap=True, markup=False)  # a folder may be called "photos [old]"

Out = Annotated[str, typer.Argument(help="Folder or URL of a curated set.")]
Source = Annotated[
    str, typer.Argument(help="A folder, a glob, tars ('{000..099}.tar'), a table of paths or URLs, or a URL of these.")
]
RecipeName = Annotated[str, typer.Option("--recipe", help="humans300m, humans1b or a YAML file.")]
OtherRecipe = Annotated[
    str | None, typer.Option("--recipe", help="humans300m, humans1b or a YAML file; without it, the run's own recipe.")
]
Settings = Annotated[
    list[str] | None, typer.Option("--set", help="Change one key of the recipe, e.g. people.min_score=0.8.")
]
Profile = Annotated[
    str | None, typer.Option("--profile", help="builtin (in this package) or full (ultralytics, EasyOCR, open_clip).")
]
Weights = Annotated[
    list[str] | None, typer.Option("--weights", help="people=…, text=… or clip=…: a file or name, for --profile full.")
]
Lazy = Annotated[
    bool, typer.Option("--lazy", help="Cheap questions first, and none more once a rule has rejected an image.")
]
Workers = Annotated[
    int | None,
    typer.Option(
        "--workers",
        min=0,
        help="Local processes; by default one per core (profile full: per GPU, or fewer where memory is short). "
        "0 works in this one.",
    ),
]
Scheduler = Annotated[str | None, typer.Option("--scheduler", help="Address of a Dask cluster, tcp://host:8786.")]


@app.command()
def run(
    source: Source,
    out: Out,
    recipe: RecipeName = "humans300m",
    settings: Settings = None,
    profile: Profile = None,
    weights: Weights = None,
    lazy: Lazy = False,
    workers: Workers = None,
    scheduler: Scheduler = None,
) -> None:
    """Curate SOURCE into OUT: plan, score, decide, pack, verify, report. Run it again to continue."""
    from curation.run import Workplace, curate

    with _resumable():
        chosen = load_recipe(recipe, [*(settings or []), *_networks(profile, weights), *["lazy=true"] * lazy])
        curate(source, out, chosen, place=Workplace(workers, scheduler), console=console)
    _finish(out)


@app.command()
def plan(source: Source, out: Out, recipe: RecipeName = "humans300m", settings: Settings = None) -> None:
    """List SOURCE once and freeze the list in OUT/plan.parquet."""
    from curation.run import Workplace, stages

    with stages(Store(out), console, Workplace(0)) as stage:
        record = stage.plan(source, load_recipe(recipe, settings))
    listed = numbered(record.inputs, "image")
    console.print(f"{listed} in {out}/plan.parquet; next: sapiens-curate score {quote(out)}")


@app.command()
def score(
    out: Out,
    recipe: OtherRecipe = None,
    settings: Settings = None,
    workers: Workers = None,
    scheduler: Scheduler = None,
) -> None:
    """Ask every image every question; images that are scored already are left alone."""
    from curation.run import Workplace, stages

    with _resumable(), stages(Store(out), console, Workplace(workers, scheduler)) as stage:
        stage.score(_with_recipe(stage, recipe, settings))
    console.print(f"scored; next: sapiens-curate decide {quote(out)}")


@app.command()
def decide(
    out: Out,
    recipe: OtherRecipe = None,
    settings: Settings = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would change and write nothing.")] = False,
) -> None:
    """Give every image its verdict from the scores that are there. No image is opened."""
    from curation.run import Workplace, check_scored, redecide, stages

    store = Store(out)
    if dry_run:
        record = load_record(store)
        chosen = _chosen(record, recipe, settings)
        outcome, flips = redecide(out, chosen)
        console.print(f"{chosen.name}: {outcome.counts}; +{flips.gained} kept / \N{MINUS SIGN}{flips.lost}")
        for name in sorted({*flips.gained_by, *flips.lost_by}):
            console.print(f"  {name:<12} +{flips.gained_by[name]} / \N{MINUS SIGN}{flips.lost_by[name]}")
        return
    with stages(store, console, Workplace(0)) as stage:
        record = load_record(store)
        chosen = _chosen(record, recipe, settings)
        check_scored(record, chosen)
        record.recipe = chosen
        stage.decide(record)
    console.print(f"next: sapiens-curate pack {quote(out)}")


@app.command()
def pack(out: Out, workers: Workers = None, scheduler: Scheduler = None) -> None:
    """Write the kept images into OUT/shards and their places into the manifest."""
    from curation.run import Workplace, stages

    with _resumable(), stages(Store(out), console, Workplace(workers, scheduler)) as stage:
        record = load_record(stage.store)
        stage.pack(record)
    packed = f"{numbered(record.counts.kept, 'image')} in {numbered(record.shards, 'shard')}"
    console.print(f"{packed}; next: sapiens-curate verify {quote(out)}")


@app.command()
def retry(out: Out, workers: Workers = None, scheduler: Scheduler = None) -> None:
    """Try the failed images again, and only these; then decide and pack."""
    from curation.report.page import write_report
    from curation.run import Workplace, stages

    with _resumable(), stages(Store(out), console, Workplace(workers, scheduler)) as stage:
        record = load_record(stage.store)
        before = record.counts.failed
        stage.score(record, retry=True)
        record.packed = ""  # an image that failed when it was packed is tried again too
        stage.decide(record)
        stage.pack(record)
    console.print(f"report: {write_report(out)}")
    _finish(out)
    console.print(f"of {numbered(before, 'failed image')} {record.counts.failed} still fail; the report names them")


@app.command()
def verify(out: Out) -> None:
    """Check that every input has one verdict and every kept image is where the manifest says. Exit code 1 if not."""
    from curation.verify import verify as verify_run

    counts, faults = verify_run(out)
    for fault in faults:
        console.print(fault)
    console.print(f"{counts}: {numbered(len(faults), 'fault') if faults else 'whole'}")
    raise typer.Exit(UNHAPPY if faults else DONE)


@app.command()
def report(out: Out) -> None:
    """Write OUT/report.html: the funnel, why images were dropped, and the images around each threshold."""
    from curation.report.page import write_report

    console.print(f"report: {write_report(out)}")


@app.command()
def stats(
    out: Out, plot: Annotated[Path | None, typer.Option(help="Also draw the figure as .png, .svg or .pdf.")] = None
) -> None:
    """Humans per image, beside the paper's Fig. 2."""
    from manifests.people import people_per_image

    people = people_per_image(Store(out))
    console.print(people.table())
    if plot:
        from curation.report.figures import people_figure, save

        save(people_figure(people), plot)
        console.print(f"figure: {plot}")


@app.command()
def inspect(
    out: Out,
    key: Annotated[
        str, typer.Argument(help="A sample's key, a uid or its first digits (6 or more), or a file's name.")
    ],
    save: Annotated[Path | None, typer.Option(help="Save the picture with its boxes drawn.")] = None,
) -> None:
    """All that is known of one image: scores, rules, verdict, where it is packed."""
    from curation.inspect import inspect as inspect_image

    found = inspect_image(out, key)
    console.print(found.text())
    if save:
        found.save_picture(save)
        console.print(f"picture: {save}")


@app.command()
def calibrate(
    question: Annotated[str, typer.Argument(help="people, watermark, text, art, unnatural, safety or a concept.")],
    labels: Annotated[Path, typer.Argument(help="A CSV with the columns label (1 yes, 0 no) and uid or uri.")],
    out: Out,
    precision: Annotated[float | None, typer.Option(min=0, max=1, help="Find the line with this precision.")] = None,
    recall: Annotated[float | None, typer.Option(min=0, max=1, help="Find the line with this recall.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw both over the threshold as .png, .svg or .pdf.")] = None,
    write: Annotated[Path | None, typer.Option(help="Write the run's recipe with the line found to this file.")] = None,
) -> None:
    """Precision and recall of a score over its thresholds, from labels made by hand."""
    from curation.calibrate import calibrate as measure
    from curation.calibrate import with_threshold
    from curation.recipe import to_yaml

    if (precision is not None) + (recall is not None) != 1 and (write or precision is not None):
        raise UsageError("give one of --precision and --recall to find a line")
    _check_order("calibrate QUESTION LABELS OUT", out, question, str(labels))
    found = measure(question, labels, out)
    console.print(found.table())
    if plot:
        found.save_plot(plot)
        console.print(f"plot: {plot}")
    if precision is None and recall is None:
        return
    point = found.at_precision(precision) if precision is not None else found.at_recall(recall or 0.0)
    console.print(f"threshold {point.threshold:.4g}: precision {point.precision}, recall {point.recall}")
    if write:
        write.write_text(to_yaml(with_threshold(load_record(Store(out)).recipe, found.question, point.threshold)))
        preview = join(["sapiens-curate", "decide", out, "--recipe", str(write), "--dry-run"])
        console.print(f"recipe: {write}; see what it changes with: {preview}")


@app.command()
def label(
    out: Out,
    question: Annotated[str, typer.Argument(help="people, watermark, text, art, unnatural, safety or a concept.")],
    labels: Annotated[Path, typer.Option(help="The CSV the answers go to; what it holds is not asked again.")] = Path(
        "labels.csv"
    ),
    number: Annotated[int, typer.Option(min=1, help="How many images, those nearest to the line first.")] = 200,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on this machine; 0 takes a free one.")] = 0,
) -> None:
    """Tag borderline images by keyboard on a page that only this machine can open."""
    from curation.labelling.serve import make_server, start_session

    _check_order("label OUT QUESTION", out, question)
    session = start_session(out, question, labels, number)
    if not session.rows:
        console.print(f"nothing left to label: {labels} holds an answer for every image")
        return
    with make_server(session, port) as server:
        for ends in (signal.SIGINT, signal.SIGTERM):  # also where a script starts it behind an &
            signal.signal(ends, signal.default_int_handler)
        try:
            shown = numbered(len(session.rows), "image")
            console.print(f"{shown} at http://127.0.0.1:{server.server_address[1]}/ (stop with Ctrl-C)")
            server.serve_forever()
        except KeyboardInterrupt:
            console.print(
                f"\nlabels: {labels}; next: sapiens-curate calibrate {question} {quote(str(labels))} {quote(out)}"
            )


models = typer.Typer(no_args_is_help=True, help="The networks: which there are, fetch them ahead, check them.")
app.add_typer(models, name="models")


@models.command("list")
def list_models(recipe: RecipeName = "humans300m", settings: Settings = None) -> None:
    """Name, source, size, licence, sha256 and place of every network."""
    from curation.models import builtin_text, catalogue_text

    console.print(builtin_text(load_recipe(recipe, settings)))
    console.print(catalogue_text())


@models.command("fetch")
def fetch_models(
    names: Annotated[list[str] | None, typer.Argument(help="As listed; by default what `profile: full` uses.")] = None,
) -> None:
    """Download weights ahead and check them. $SAPIENS_WEIGHTS names the folder, which may be copied elsewhere."""
    from curation.models import fetch_all

    for line in fetch_all(names or []):
        console.print(line)


@models.command("verify")
def verify_models() -> None:
    """Check every fetched file against its sha256. Exit code 1 where one differs."""
    from curation.models import verify_all

    lines, whole = verify_all()
    for line in lines:
        console.print(line)
    raise typer.Exit(DONE if whole else UNHAPPY)


@app.command()
def demo(
    out: Annotated[Path, typer.Argument(help="A new folder.")] = Path("demo-out"), workers: Workers = None
) -> None:
    """Curate the photos that installed packages carry, and copies of them made bad on purpose."""
    from curation.demo import make_photos
    from curation.run import Workplace, curate

    photos = make_photos(out / "photos")
    curated = str(out / "curated")
    recipe = load_recipe("humans300m", ["duplicates=near", "people.min_short_side=150", "people.min_score=0.4"])
    curate(str(photos), curated, recipe, place=Workplace(workers), console=console)
    _finish(curated)


def main() -> None:
    """Entry point: every error a user can mend is one sentence, and the exit code says what to do."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that has no ≥ is no reason to end a run
    try:
        app()
    except (UsageError, NoManifest, Damaged, Unreachable) as error:
        _say_error(str(error), USAGE)
    except OSError as error:  # a folder that may not be written; a disk that is full after the last stage
        full = error.errno in DISK_FULL
        advice = "free some space, then run the same command again" if full else "mend that, then run it again"
        _say_error(f"{error}; {advice}", RESUMABLE if full else USAGE)
    except Stopped as error:
        _say_error(f"{error}; then run the same command again", RESUMABLE)


def _finish(out: str) -> None:
    """The funnel, the people and the proof; exit code 1 where the folder is not whole."""
    from curation.funnel import funnel_text
    from curation.leeway import leeway_text
    from curation.verify import verify as verify_run
    from manifests.people import people_per_image

    console.print(funnel_text(Store(out)))
    console.print(people_per_image(Store(out)).table())
    if leeway := leeway_text(Store(out)):
        console.print(leeway)
    counts, faults = verify_run(out)
    for fault in faults:
        console.print(fault)
    console.print(f"verify: {counts}, {numbered(len(faults), 'fault') if faults else 'whole'}")
    console.print(f"report: {out}/report.html")
    if faults:
        raise typer.Exit(UNHAPPY)


@contextmanager
def _resumable() -> Iterator[None]:
    """Ctrl-C ends a stage between commits; say how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        again = join(["sapiens-curate", *sys.argv[1:]])
        console.print(f"\nstopped; what is committed stays. Go on with: {again}")
        raise typer.Exit(RESUMABLE) from None


def _networks(profile: str | None, weights: list[str] | None) -> list[str]:
    """`--profile` and `--weights` as settings of the recipe; a path is text, whatever YAML would make of it."""
    given = [item.partition("=") for item in weights or []]
    if unclear := [use for use, equals, _ in given if not equals]:
        raise UsageError(f"--weights {unclear[0]!r} has no '='; write --weights people=yolo11x.pt")
    return [f"profile={profile}"] * (profile is not None) + [
        f"weights.{use}={json.dumps(file, ensure_ascii=False)}" for use, _, file in given
    ]


def _check_order(usage: str, out: str, *others: str) -> None:
    """UsageError where one of the other arguments is a curated folder and OUT is none."""
    swapped = next((other for other in others if Store(other).exists(RUN_FILE)), None)
    if swapped and not Store(out).exists(RUN_FILE):
        raise UsageError(f"{swapped} is the curated folder, OUT; the order is `sapiens-curate {usage}`")


def _with_recipe(stage: "Stages", recipe: str | None, settings: list[str] | None) -> Record:
    """The run's record, with another recipe where one is given."""
    record = load_record(stage.store)
    record.recipe = _chosen(record, recipe, settings)
    return record


def _chosen(record: Record, recipe: str | None, settings: list[str] | None) -> Recipe:
    """The recipe asked for; a lazy run stays one until it is told `lazy`."""
    if recipe is None:
        return change(record.recipe, settings or [])
    chosen = load_recipe(recipe, settings)
    lazy = chosen.lazy if "lazy" in chosen.model_fields_set else record.recipe.lazy
    return chosen.model_copy(update={"lazy": lazy})


def _say_error(text: str, code: int) -> None:
    Console(stderr=True, highlight=False, soft_wrap=True, markup=False).print(f"sapiens-curate: {text}")
    sys.exit(code)
