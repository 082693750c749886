"""The commands as a person types them: what they print and the exit codes."""

import errno
import os
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from importlib.metadata import version
from io import StringIO
from pathlib import Path

import pytest

from curation import cli
from curation.errors import UsageError
from curation.recipe import Recipe, load_recipe, to_yaml
from curation.report import page
from tests.curation.photos import BAD, jpeg, write

COMMAND = str(Path(sys.executable).with_name("sapiens-curate"))


def curate(*arguments: str | Path, code: int = 0) -> str:
    """What the command prints in this process, which has imported everything already."""
    printed = StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(printed), redirect_stderr(printed):
        patch.setattr(sys, "argv", ["sapiens-curate", *map(str, arguments)])
        with pytest.raises(SystemExit) as done:
            cli.main()
    assert (done.value.code or 0) == code, printed.getvalue()
    return printed.getvalue()


def test_a_terminal_without_our_signs_ends_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In ISO-8859-1 there is neither ≥ nor –."""
    monkeypatch.setenv("PYTHONIOENCODING", "latin-1")
    photos = tmp_path / "photos"
    photos.mkdir()
    for seed in range(2):
        (photos / f"{seed}.jpg").write_bytes(jpeg(seed))
    few = ["--set", "scorers=[quality]", "--set", "rules={blur: blur > 0}", "--workers", "0"]
    said = installed("run", photos, tmp_path / "out", *few)
    assert "whole" in said
    assert installed("decide", tmp_path / "out", "--set", "rules.blur=blur > 1e9", "--dry-run")


@pytest.mark.parametrize("ends", [signal.SIGINT, signal.SIGTERM])
def test_the_labelling_page_ends_well_behind_a_scripts_ampersand(
    made_run: Path, tmp_path: Path, ends: signal.Signals
) -> None:
    """A shell starts what stands before & with Ctrl-C ignored."""
    command = [COMMAND, "label", str(made_run), "watermark", "--labels", str(tmp_path / "labels.csv")]
    ignoring = [
        sys.executable,
        "-c",
        "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); os.execv(sys.argv[1], sys.argv[1:])",
    ]
    with subprocess.Popen([*ignoring, *command], stdout=subprocess.PIPE, text=True) as page:
        try:
            assert page.stdout is not None
            assert "stop with Ctrl-C" in page.stdout.readline()
            page.send_signal(ends)
            assert page.wait(timeout=60) == 0
            assert "next: sapiens-curate calibrate watermark" in page.stdout.read()
        finally:
            page.kill()


def test_the_version_is_told() -> None:
    assert curate("--version") == f"sapiens-curation {version('sapiens-curation')}\n"


def installed(*arguments: str | Path, code: int = 0) -> str:
    """What the installed command prints in a process of its own."""
    done = subprocess.run([COMMAND, *map(str, arguments)], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory: pytest.TempPathFactory, plain_recipe: Recipe) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "plain.yaml"
    path.write_text(to_yaml(plain_recipe))
    return path


def test_stages_one_by_one_and_what_each_says(tmp_path: Path, recipe_file: Path) -> None:
    source = write(tmp_path / "photos", {f"{i:02d}.jpg": jpeg(i) for i in range(24)} | BAD)
    out = tmp_path / "out"
    assert "31 images" in installed("plan", source, out, "--recipe", recipe_file)
    assert "next: sapiens-curate decide" in curate("score", out, "--workers", "0")
    assert "7 failed = 31 inputs" in curate("decide", out)
    assert "kept images are not packed" in curate("verify", out, code=1)
    assert "shards; next" in curate("pack", out, "--workers", "0")
    assert "whole" in curate("verify", out)
    assert "report.html" in curate("report", out)
    assert "people scorer was not asked" in curate("stats", out, "--plot", tmp_path / "people.png")
    assert (tmp_path / "people.png").stat().st_size > 1000
    dry = curate("decide", out, "--set", "rules.exposure=exposure > 0.5", "--dry-run")
    assert "exposure" in dry
    assert "+0 kept / −" in dry
    shown = curate("inspect", out, "000000000", "--save", tmp_path / "one.png")
    assert "exposure > 0.2" in shown
    assert (tmp_path / "one.png").exists()
    assert "DamagedImage" in curate("inspect", out, "truncated.png")


def test_usage_errors_are_one_sentence_and_exit_2(tmp_path: Path) -> None:
    assert "nothing is at" in installed("run", tmp_path / "nowhere", tmp_path / "out", code=2)
    assert "no recipe 'x'" in curate("run", tmp_path, tmp_path / "out", "--recipe", "x", code=2)
    assert "holds no" in curate("pack", tmp_path / "nowhere", code=2)
    assert "give a folder or another URL" in curate("verify", "gopher://a/b", code=2)
    assert "No such option" in curate("run", "--speed", code=2)
    assert "Usage" in installed("--help")


@pytest.mark.parametrize("command", ["run", "decide", "pack", "score", "retry"])
def test_a_mistyped_name_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    photos = write(tmp_path / "photos", {"a.jpg": jpeg(1)})
    source = [str(tmp_path / "fotos")] * (command == "run")
    for out in (tmp_path / "new" / "out", photos):
        monkeypatch.setattr(sys, "argv", ["sapiens-curate", command, *source, str(out)])
        with pytest.raises(SystemExit) as done:
            cli.main()
        assert done.value.code == 2
        assert ("nothing is at" if source else "holds no run.json") in capsys.readouterr().err
    assert list(tmp_path.rglob("*")) == [photos, photos / "a.jpg"]


@pytest.mark.parametrize(
    ("words", "order"),
    [
        ("label watermark OUT", "label OUT QUESTION"),
        ("calibrate OUT watermark labels.csv", "calibrate QUESTION LABELS OUT"),
        ("calibrate watermark OUT labels.csv", "calibrate QUESTION LABELS OUT"),
    ],
)
def test_a_swapped_order_is_told(
    made_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: str, order: str
) -> None:
    monkeypatch.setattr(sys, "argv", ["sapiens-curate", *words.replace("OUT", str(made_run)).split()])
    with pytest.raises(SystemExit):
        cli.main()
    said = f"{made_run} is the curated folder, OUT; the order is `sapiens-curate {order}`"
    assert capsys.readouterr().err == f"sapiens-curate: {said}\n"


def test_names_with_brackets_are_printed_as_they_are(tmp_path: Path, recipe_file: Path) -> None:
    source, out = write(tmp_path / "photos [old]", {"a.jpg": jpeg(1)}), tmp_path / "out [new] [/x]"
    printed = curate("run", source, out, "--recipe", recipe_file, "--workers", "0")
    assert f"report: {out}/report.html" in printed
    assert "plan: 1 image\n" in printed
    assert f"1 image in 1 shard; next: sapiens-curate verify '{out}'" in curate("pack", out, "--workers", "0")


def test_another_recipe_may_be_given_until_something_is_scored(tmp_path: Path, recipe_file: Path) -> None:
    source, out = write(tmp_path / "photos", {"a.jpg": jpeg(1)}), tmp_path / "out"
    missing = tmp_path / "detector.pt"
    full = ["--profile", "full", "--weights", f"people={missing}"]
    assert str(missing) in installed("run", source, out, *full, "--workers", "0", code=2)
    curate("run", source, out, "--recipe", recipe_file, "--workers", "0")
    assert "another recipe" in curate("run", source, out, "--workers", "0", code=2)


def test_paths_of_weights_are_text_whatever_yaml_would_make_of_them() -> None:
    settings = cli._networks("full", ["people=runs #3/best: last.pt", "text=2024", "clip=ViT-B-32//größe.safetensors"])
    assert load_recipe("humans300m", settings).weights == {
        "people": "runs #3/best: last.pt",
        "text": "2024",
        "clip": "ViT-B-32//größe.safetensors",
    }
    with pytest.raises(UsageError, match=r"--weights 'yolo11x.pt' has no '='; write --weights people=yolo11x.pt"):
        cli._networks("full", ["yolo11x.pt"])


@pytest.mark.parametrize(("number", "code", "says"), [(errno.ENOSPC, 75, "free some space"), (errno.EACCES, 2, "mend")])
def test_what_the_system_refuses_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int, code: int, says: str
) -> None:
    def refused(*arguments: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(page, "write_report", refused)
    monkeypatch.setattr(sys, "argv", ["sapiens-curate", "report", "out"])
    with pytest.raises(SystemExit) as done:
        cli.main()
    assert done.value.code == code
    error = capsys.readouterr().err
    assert os.strerror(number) in error
    assert says in error
    assert error.count("\n") == 1


def test_a_scheduler_that_is_not_there_is_told_in_one_sentence(tmp_path: Path, recipe_file: Path) -> None:
    source = write(tmp_path / "photos", {"a.jpg": jpeg(1)})
    said = curate("run", source, tmp_path / "out", "--recipe", recipe_file, "--scheduler", "nonsense", code=2)
    assert "no Dask scheduler answers at nonsense (missing port number" in said


def test_ctrl_c_stops_cleanly_and_says_how_to_go_on(tmp_path: Path, recipe_file: Path) -> None:
    source = write(tmp_path / "photos", {f"{i:03d}.jpg": jpeg(i) for i in range(1000)})
    command = [COMMAND, "run", str(source), str(tmp_path / "out"), "--recipe", str(recipe_file), "--workers", "1"]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # nohup ignores it, and a child inherits that
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    signal.signal(signal.SIGINT, before)
    deadline = time.monotonic() + 120
    while not list((tmp_path / "out").glob("scores/*.parquet")) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(child.pid, signal.SIGINT)  # as a terminal does: to every process of the job
    output, errors = child.communicate(timeout=120)
    assert child.returncode == 75, output + errors
    assert "Go on with: sapiens-curate run" in output
    assert "Traceback" not in errors, errors
    assert "whole" in curate("run", source, tmp_path / "out", "--recipe", recipe_file, "--workers", "0")
