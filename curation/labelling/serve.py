"""The page on which borderline images are tagged by keyboard. It listens on this machine alone."""

import io
import json
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from pathlib import Path
from threading import Lock

import numpy as np
from PIL import Image

from curation.labelling.borderline import append, nearest, read_done
from curation.labelling.scores import Question, Scores, find_question, read_scores, threshold_in
from curation.record import load_record
from curation.report.pictures import locate, read_picture
from manifests.store import Store

HOST = "127.0.0.1"
SIDE = 1024  # pixels of the longer side on the page
LINE = 0.5  # where the recipe has none
LARGEST_BODY = 10_000


@dataclass(frozen=True)
class Session:
    """What is being labelled, and where the answers go."""

    store: Store
    question: Question
    line: float
    rows: tuple[int, ...]
    scores: Scores
    labels: Path
    lock: Lock

    def images(self) -> list[dict[str, object]]:
        """What the page is told about each image; its label is None where there is none yet."""
        done = read_done(self.labels, self.question.name)
        return [
            {"row": row, "score": float(self.scores.values[row]), "label": done.get(self.scores.uids[row])}
            for row in self.rows
        ]

    def jpeg(self, row: int) -> bytes:
        """The picture, upright and at most 1024 px, as JPEG."""
        picture = Image.fromarray(read_picture(self.store, locate(self.store, [row])[row], SIDE).rgb)
        picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=88)
        return buffer.getvalue()

    def answer(self, row: int, label: int | None) -> None:
        """Write one answer down."""
        with self.lock:
            append(self.labels, self.scores.uids[row], self.scores.uris[row], self.question.name, label)


def start_session(out: str, name: str, labels: Path, number: int) -> Session:
    """Choose the images of question `name` that are not in `labels` yet. Raises UsageError."""
    store = Store(out)
    recipe = load_record(store).recipe
    question = find_question(name, recipe)
    scores = read_scores(store, question)
    line = threshold_in(recipe, question)
    line = LINE if line is None else line
    done = read_done(labels, question.name)
    is_done = np.array([uid in done or not uid for uid in scores.uids], dtype=bool)
    rows = nearest(scores.values, line, number, is_done)
    return Session(store, question, line, tuple(rows), scores, labels, Lock())


def make_server(session: Session, port: int = 0) -> ThreadingHTTPServer:
    """A server on 127.0.0.1; port 0 takes a free one. `serve_forever()` runs it."""
    return ThreadingHTTPServer((HOST, port), partial(_Handler, session))


class _Handler(BaseHTTPRequestHandler):
    def __init__(self, session: Session, *args: object) -> None:
        self.session = session
        super().__init__(*args)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        if not self._is_ours():
            return
        if self.path == "/":
            page = resources.files("curation.labelling").joinpath("page.html").read_bytes()
            self._send("text/html; charset=utf-8", page)
        elif self.path == "/images.json":
            told = {"asks": self.session.question.asks, "line": self.session.line, "images": self.session.images()}
            self._send("application/json", json.dumps(told).encode())
        elif (row := self._row(self.path.removeprefix("/image/"))) is not None:
            try:
                self._send("image/jpeg", self.session.jpeg(row))
            except Exception as error:  # a source that is gone is this picture's trouble, not the session's
                self.send_error(HTTPStatus.NOT_FOUND, explain=type(error).__name__)
        else:
            self.send_error(HTTPStatus.NOT_FOUND)

    def do_POST(self) -> None:
        if not self._is_ours():
            return
        length = int(self.headers.get("Content-Length") or 0)
        if self.headers.get("Content-Type") != "application/json" or not 0 < length < LARGEST_BODY:
            self.send_error(HTTPStatus.BAD_REQUEST)
            return
        try:
            said = json.loads(self.rfile.read(length))
            row, label = self._row(str(said["row"])), said["label"]
        except (ValueError, KeyError, TypeError):
            row, label = None, None
        if self.path != "/label" or row is None or json.dumps(label) not in ("0", "1", "null"):
            self.send_error(HTTPStatus.BAD_REQUEST)
            return
        self.session.answer(row, label)
        self._send("application/json", b"{}")

    def log_message(self, format: str, *args: object) -> None:
        """Requests are not printed."""

    def _is_ours(self) -> bool:
        """Whether the browser asked for this machine by name: another site's page must not reach the pictures."""
        assert isinstance(self.server, ThreadingHTTPServer)
        port = self.server.server_port
        if self.headers.get("Host") in {f"{HOST}:{port}", f"localhost:{port}"}:
            return True
        self.send_error(HTTPStatus.FORBIDDEN)
        return False

    def _row(self, text: str) -> int | None:
        return int(text) if text.isdecimal() and int(text) in self.session.rows else None

    def _send(self, kind: str, body: bytes) -> None:
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("Content-Security-Policy", "default-src 'self' 'unsafe-inline'; img-src 'self' data:")
        self.end_headers()
        self.wfile.write(body)
