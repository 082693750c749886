"""The page in a real browser: nothing is complained about, nothing is asked from outside, everything is drawn."""

import functools
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from curation.report.page import write_report

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next((found for name in NAMES if (found := shutil.which(name))), None)
QUIET = (
    "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-component-update "
    "--disable-sync --disable-extensions --disable-dev-shm-usage --enable-logging=stderr --v=0"
).split()
PROBE = """<script>addEventListener("load", () => {
  const broken = [...document.images].filter(image => !image.naturalWidth).length;
  const sideways = document.documentElement.scrollWidth - document.documentElement.clientWidth;
  const report = `${document.images.length} pictures, ${broken} broken, ${sideways} too wide`;
  document.title = report; parent.postMessage(report, "*");
})</script>"""

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH: apt-get install chromium")


def opened(address: str, profile: Path) -> tuple[str, list[str]]:
    """The document after loading, and what the browser's console said."""
    command = [str(CHROMIUM), *QUIET, f"--user-data-dir={profile}", "--window-size=1200,900", "--dump-dom", address]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.fixture(scope="module")
def report(made_run: Path) -> Path:
    return write_report(made_run)


@pytest.fixture
def served(report: Path) -> Iterator[tuple[str, list[str]]]:
    """The folder of the page on a local port, and every path that was asked for."""
    asked: list[str] = []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            asked.append(self.path)

    handler = functools.partial(Handler, directory=str(report.parent))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    thread.join()
    server.server_close()


def test_it_opens_without_a_complaint_and_asks_for_nothing_else(served: tuple[str, list[str]], tmp_path: Path) -> None:
    address, asked = served
    dom, console = opened(f"{address}/report.html", tmp_path)
    assert "15 of 37 images kept" in dom
    assert "<script" not in dom
    assert dom.count("<img") > 30
    assert console == []
    assert set(asked) == {"/report.html"}


def test_a_request_or_an_error_would_be_noticed(report: Path, tmp_path: Path) -> None:
    spoiled = tmp_path / "spoiled.html"
    spoiled.write_text(report.read_text().replace("</main>", '<img src="http://127.0.0.1:9/x.jpg"></main>'))
    _, console = opened(spoiled.as_uri(), tmp_path / "profile")
    assert any("Content Security Policy" in line for line in console)


@pytest.mark.parametrize("width", [420, 1200])
def test_every_picture_is_drawn_and_the_page_fits_its_width(report: Path, tmp_path: Path, width: int) -> None:
    probed = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", report.read_text())
    (tmp_path / "probed.html").write_text(probed + PROBE)
    frame = tmp_path / "frame.html"
    listen = '<script>addEventListener("message", event => { document.title = event.data })</script>'
    frame.write_text(f'<title>-</title>{listen}<iframe width={width} height=900 src="probed.html"></iframe>')
    dom, _ = opened(frame.as_uri(), tmp_path / "profile")
    assert re.search(r"<title>\d\d+ pictures, 0 broken, 0 too wide</title>", dom)
