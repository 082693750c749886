"""The labelling page: which images it shows, what it writes down, who may ask, and how it does in a real browser."""

import asyncio
import csv
import json
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest

from curation.errors import UsageError
from curation.labelling.borderline import append, nearest, read_done
from curation.labelling.scores import Question, read_scores
from curation.labelling.serve import Session, make_server, start_session
from manifests.scan import NoManifest
from manifests.store import Store

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
FLAGS = (
    "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-component-update "
    "--disable-sync --disable-extensions --disable-dev-shm-usage --remote-debugging-port=0"
).split()


@pytest.fixture
def session(made_run: Path, tmp_path: Path) -> Session:
    return start_session(str(made_run), "watermark", tmp_path / "labels.csv", number=6)


@pytest.fixture
def address(session: Session) -> Iterator[str]:
    with make_server(session) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_images_come_from_both_sides_nearest_first() -> None:
    values = np.array([0.1, 0.45, 0.55, 0.9, np.nan, 0.52])
    done = np.array([False, False, False, False, False, True])
    assert nearest(values, 0.5, 3, done) == [2, 1, 3]
    assert nearest(values, 0.5, 9, done) == [2, 1, 3, 0]


def test_answers_are_kept_and_not_asked_again(session: Session, made_run: Path, tmp_path: Path) -> None:
    first, second = session.rows[:2]
    session.answer(first, 1)
    session.answer(second, 0)
    session.answer(second, None)
    uid = session.scores.uids[first]
    assert read_done(session.labels, "watermark") == {uid: 1}
    again = start_session(str(made_run), "watermark", session.labels, 6)
    assert first not in again.rows
    assert second in again.rows


def test_a_concept_that_is_not_decided_yet_is_one_sentence(made_run: Path) -> None:
    with pytest.raises(NoManifest, match=r"has no column phat; run `sapiens-curate decide`"):
        read_scores(Store(made_run), Question("hat", "phat", "Is it a hat?"))


def test_a_csv_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UsageError, match="labels are kept as uid, uri, question, label"):
        read_done(tmp_path / "labels.csv", "watermark")


def test_an_answer_does_not_stick_to_a_line_that_an_editor_left_open(tmp_path: Path) -> None:
    labels = tmp_path / "labels.csv"
    append(labels, "aa", "/a.jpg", "watermark", 1)
    labels.write_text(labels.read_text() + "bb,/b.jpg,watermark,0")
    append(labels, "cc", "/c.jpg", "watermark", 1)
    assert read_done(labels, "watermark") == {"aa": 1, "bb": 0, "cc": 1}


def test_every_picture_is_served(session: Session, address: str) -> None:
    told = json.load(urllib.request.urlopen(f"{address}/images.json"))
    assert [image["row"] for image in told["images"]] == list(session.rows)
    picture = urllib.request.urlopen(f"{address}/image/{session.rows[0]}").read()
    assert picture.startswith(b"\xff\xd8")


@pytest.mark.parametrize("path", ["/image/99999", "/image/../run.json", "/run.json"])
def test_nothing_else_is_served(address: str, path: str) -> None:
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(address + path)


def test_other_sites_cannot_ask(session: Session, address: str) -> None:
    foreign = urllib.request.Request(f"{address}/images.json", headers={"Host": "evil.example"})
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(foreign)
    form = urllib.request.Request(f"{address}/label", b'{"row": 0, "label": 1}', {"Content-Type": "text/plain"})
    with pytest.raises(urllib.error.HTTPError, match="400"):
        urllib.request.urlopen(form)
    assert not session.labels.exists()


@pytest.mark.parametrize("label", ["true", "1.0", '"1"', '"None"', "2", "[]"])
def test_only_yes_no_and_nothing_are_answers(session: Session, address: str, label: str) -> None:
    body = f'{{"row": {session.rows[0]}, "label": {label}}}'.encode()
    request = urllib.request.Request(f"{address}/label", body, {"Content-Type": "application/json"})
    with pytest.raises(urllib.error.HTTPError, match="400"):
        urllib.request.urlopen(request)
    assert not session.labels.exists()


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH: apt-get install chromium")
def test_a_person_tags_by_keyboard(session: Session, address: str, tmp_path: Path) -> None:
    heading, place, complaints, shot = asyncio.run(typed(f"{address}/", tmp_path / "profile", "ynuy"))
    (tmp_path / "page.png").write_bytes(shot)
    assert heading == "Does it carry a watermark?"
    assert place == "4 of 6"
    assert complaints == []
    with session.labels.open() as file:
        rows = [(row["uid"], row["label"]) for row in csv.DictReader(file)]
    uids = [session.scores.uids[row] for row in session.rows]
    assert rows == [(uids[0], "1"), (uids[1], "0"), (uids[2], ""), (uids[2], "1")]


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH: apt-get install chromium")
def test_a_picture_that_nobody_sees_gets_no_answer(
    session: Session, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second cannot be shown: a key does nothing there, and the page says so."""
    real = Session.jpeg

    def gone(self: Session, row: int) -> bytes:
        if row == session.rows[1]:
            raise FileNotFoundError(row)
        return real(self, row)

    monkeypatch.setattr(Session, "jpeg", gone)
    trouble = "document.getElementById('trouble').textContent.includes('cannot be shown')"
    _, place, _, _ = asyncio.run(typed(f"{address}/", tmp_path / "profile", "y", trouble, unheard="n"))
    assert place == "2 of 6"
    assert list(read_done(session.labels, "watermark")) == [session.scores.uids[session.rows[0]]]


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH: apt-get install chromium")
def test_a_key_that_bounces_is_one_answer(
    session: Session, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Session.answer
    monkeypatch.setattr(Session, "answer", lambda self, row, label: (time.sleep(0.5), real(self, row, label)))
    _, place, _, _ = asyncio.run(typed(f"{address}/", tmp_path / "profile", "y", "true", bounces=True))
    assert place == "2 of 6"
    with session.labels.open() as file:
        assert len(list(csv.DictReader(file))) == 1


def test_a_page_that_is_opened_again_knows_the_answers(session: Session, address: str) -> None:
    session.answer(session.rows[0], 1)
    told = json.load(urllib.request.urlopen(f"{address}/images.json"))
    assert [image["label"] for image in told["images"]] == [1, *[None] * 5]


async def typed(
    url: str, profile: Path, keys: str, at_last: str = "", unheard: str = "", bounces: bool = False
) -> tuple[str, str, list[str], bytes]:
    """Press keys in Chromium: the page's heading, its counter, what the console complained of and a screenshot.

    at_last: what becomes true after the keys, by default that a picture is shown. unheard: keys that do nothing then.
    bounces: every key is pressed twice at once.
    """
    import base64

    from tornado.websocket import websocket_connect

    browser = subprocess.Popen(
        [str(CHROMIUM), *FLAGS, f"--user-data-dir={profile}", "--window-size=1100,800", url],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert browser.stderr is not None
        said = next(line for line in browser.stderr if "DevTools listening" in line)
        port = re.search(r"127.0.0.1:(\d+)", said)
        assert port
        pages = json.load(urllib.request.urlopen(f"http://127.0.0.1:{port[1]}/json"))
        page = next(page for page in pages if page["type"] == "page")
        talk = await websocket_connect(page["webSocketDebuggerUrl"], max_message_size=1 << 26)
        complaints: list[str] = []
        number = 0

        async def ask(method: str, **parameters: Any) -> dict[str, Any]:
            nonlocal number
            number += 1
            await talk.write_message(json.dumps({"id": number, "method": method, "params": parameters}))
            while True:
                message = json.loads(await asyncio.wait_for(talk.read_message(), 60) or "{}")
                if message.get("method") in {"Runtime.exceptionThrown", "Log.entryAdded"}:
                    complaints.append(str(message["params"]))
                if message.get("id") == number:
                    return message["result"]

        async def value(expression: str) -> Any:
            return (await ask("Runtime.evaluate", expression=expression))["result"].get("value")

        async def until(expression: str) -> None:
            for _ in range(300):
                if await value(expression):
                    return
                await asyncio.sleep(0.1)
            raise AssertionError(f"never true: {expression}")

        await ask("Emulation.setFocusEmulationEnabled", enabled=True)
        await ask("Runtime.enable")
        await ask("Log.enable")
        picture = "document.getElementById('picture')"
        await until(f"{picture} && {picture}.complete && {picture}.naturalWidth > 0")
        shown = f"{picture}.complete && {picture}.naturalWidth > 0"

        async def press(key: str) -> None:
            await ask("Input.dispatchKeyEvent", type="keyDown", key=key, text=key)
            await ask("Input.dispatchKeyEvent", type="keyUp", key=key)

        for answered, key in enumerate(keys, 1):
            await until(shown)
            for _ in range(1 + bounces):
                await press(key)
            await until(f"document.body.dataset.answered === '{answered}'")
        await until(at_last or shown)
        for key in unheard:
            await press(key)
            await asyncio.sleep(0.3)
        shot = base64.b64decode((await ask("Page.captureScreenshot"))["data"])
        heading = await value("document.getElementById('asks').textContent")
        return heading, await value("document.getElementById('count').textContent"), complaints, shot
    finally:
        browser.terminate()
        browser.wait(20)
