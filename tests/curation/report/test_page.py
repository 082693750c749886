"""The page: what it says, that it is safe, bounded and the same every time."""

import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from curation.errors import UsageError
from curation.inspect import inspect
from curation.report.page import write_report
from curation.report.pictures import THUMBNAIL_BYTES, THUMBNAIL_SIDE, thumbnail
from manifests.store import Store
from tests.curation.made_run import HOSTILE, failed_row, row, write_run


class Page(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def html(made_run: Path) -> str:
    return write_report(made_run).read_text()


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def test_headline_and_funnel(page: Page) -> None:
    assert "15 of 37 images kept" in page.text
    assert "inputs 37 kept 15 40.5 % rejected 10 27.0 % failed 12 32.4 %" in page.text
    assert "readable 12 25 67.6 %" in page.text
    assert "watermark pwatermark < 0.5 4 3 21 56.8 %" in page.text
    assert "art partistic < 0.5 2 1 20 54.1 %" in page.text
    assert "duplicate exact 1 1 15 40.5 %" in page.text


def test_people_beside_the_paper(page: Page) -> None:
    assert "1 15 100.0 % 17 % 21 84.0 %" in page.text
    assert "≥ 4 0 0.0 % 56 % 0 0.0 %" in page.text


def test_borderline_scores_are_printed(page: Page) -> None:
    after = page.text[page.text.index("Just kept pwatermark < 0.5") :]
    assert re.search(r"14\.jpg 0\.420", after)
    dropped = page.text[page.text.index("Just dropped by the rule watermark") :]
    first = re.findall(r"\d\d\.jpg 0\.\d+", dropped)[:4]
    assert first == ["15.jpg 0.500", "16.jpg 0.600", "17.jpg 0.700", "18.jpg 0.510"]  # 18 also fails another rule


def test_failures_are_grouped_counted_and_listed(page: Page) -> None:
    assert "DamagedImage failed to decode · 11" in page.text
    assert "broken-9.jpg" in page.text
    assert "broken-10.jpg" not in page.text
    assert "and 1 more in the manifest" in page.text
    assert "/photos/<b>gone</b>.jpg <i>no</i> such file" in page.text


def test_a_repeat_is_shown_beside_its_original(page: Page) -> None:
    pairs = page.text[page.text.index("Each left-out image beside") :]
    assert pairs.index("23.jpg same bytes") < pairs.index("00.jpg kept")


def test_run_facts(page: Page) -> None:
    for fact in ("people-small@a1b2c3", "score 1 min 15 s 4.5", "fedcba9876543210", "pwatermark < 0.5"):
        assert fact in page.text


def test_every_picture_is_inside_and_described(page: Page) -> None:
    pictures = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(pictures) > 30
    assert all((one["src"] or "").startswith("data:image/jpeg;base64,") for one in pictures)
    assert all("pixels" in (one["alt"] or "") for one in pictures)
    rects = [attributes for tag, attributes in page.tags if tag == "rect"]
    assert {"class": "sure", "x": "60", "y": "40", "width": "400", "height": "560"} in rects


def test_a_picture_that_is_gone_is_said_to_be(page: Page) -> None:
    assert "The picture could not be read: FileNotFoundError" in page.text


def test_names_and_captions_are_text(html: str, page: Page) -> None:
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"script", "iframe", "object", "form", "base"}
    assert "<script" not in html
    assert HOSTILE in page.text
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]


def test_nothing_is_asked_from_outside(page: Page) -> None:
    loading = ("src", "href", "srcset", "poster", "data", "action", "xlink:href")
    found = [value for _, attributes in page.tags for name, value in attributes.items() if name in loading and value]
    assert all(value.startswith(("data:", "#")) for value in found)
    style = "".join(page.words)
    assert "url(" not in style
    assert "@import" not in style
    policy = next(a["content"] or "" for tag, a in page.tags if tag == "meta" and "http-equiv" in a)
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'unsafe-inline';")


def test_the_same_run_gives_the_same_page(made_run: Path, html: str) -> None:
    assert write_report(made_run).read_text() == html
    assert not list(made_run.glob(".tmp-*"))


def test_kept_pictures_come_from_their_shard(made_run: Path, tmp_path: Path, html: str) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(made_run, moved, ignore=shutil.ignore_patterns("photos"))
    for path in (made_run / "photos").iterdir():
        path.rename(path.with_suffix(".away"))
    try:
        elsewhere = Page(write_report(moved).read_text())
    finally:
        for path in (made_run / "photos").iterdir():
            path.rename(path.with_suffix(".jpg"))
    alts = [attributes["alt"] or "" for tag, attributes in elsewhere.tags if tag == "img"]
    assert {alt.split(",")[0] for alt in alts} == {f"{number:02d}.jpg" for number in range(10)}


def test_an_unfinished_run_is_called_so(tmp_path: Path) -> None:
    write_run(tmp_path, [row("/gone.jpg")], files=1, inputs=3)
    assert "The plan lists 3 inputs, the manifest accounts for 1." in Page(write_report(tmp_path).read_text()).text


def test_one_is_not_many(tmp_path: Path) -> None:
    lazily = {"verdict": "rejected", "reasons": ["watermark"], "not_asked": ["people"]}
    unasked = row("/gone.jpg", person_boxes=None, num_persons=None, pwatermark=0.9, partistic=None, **lazily)
    lost = failed_row("/lost.jpg", "failed_to_read", "Lost: it")
    write_run(tmp_path / "one", [row("/kept.jpg"), unasked, lost], files=1)
    text = Page(write_report(tmp_path / "one").read_text()).text
    for said in ("1 image was asked no more", "1 readable image has none.", "1 input has no verdict"):
        assert said in text
    write_run(tmp_path / "first", [row("/gone.jpg")], files=1)
    text = Page(write_report(tmp_path / "first").read_text()).text
    assert "1 of 1 image kept" in text
    assert not re.search(r"\b1 (?:\w+ )?(?:images|inputs|persons|bits) ", text)


def test_a_run_of_failures_or_of_nothing_has_a_page(tmp_path: Path) -> None:
    write_run(tmp_path, [], files=1)
    text = Page(write_report(tmp_path).read_text()).text
    assert "0 of 0 images kept" in text
    assert "Every input could be read and scored." in text


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"holds no run\.json"):
        write_report(tmp_path)


def test_the_page_stays_small_whatever_the_number_of_rows(tmp_path: Path) -> None:
    source = tmp_path / "noise.png"
    noise = np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)  # the worst case for a JPEG
    Image.fromarray(noise).save(source)
    rules = {f"r{number}": f"pwatermark < {0.1 + number / 100}" for number in range(40)}
    recipe = {"name": "many", "scorers": ["people", "watermark"], "rules": rules}
    kept = [row(str(source), pwatermark=0.05) for _ in range(60)]
    rejected = [row(str(source), pwatermark=0.9, verdict="rejected", reasons=list(rules)) for _ in range(60)]
    out = write_run(tmp_path / "out", kept + rejected, recipe=recipe)
    assert write_report(out).stat().st_size < 6_000_000


def test_thresholds_are_not_shown_beside_the_verdicts_of_others(tmp_path: Path) -> None:
    out = write_run(tmp_path / "out", [row(str(tmp_path / "a.jpg"), recipe_hash="0123456789abcdef")])
    for show in (write_report, lambda folder: inspect(folder, "a.jpg")):
        with pytest.raises(UsageError, match=r"decided by another recipe than run\.json's; run `sapiens-curate decide"):
            show(out)


def test_questions_that_the_recipe_does_not_ask_are_not_missed(tmp_path: Path) -> None:
    """An earlier recipe asked more, and of an image that it could not read nothing is known of that."""
    out = write_run(tmp_path / "out", [row(str(tmp_path / "a.jpg"), not_asked=["safety"])])
    assert "This run was lazy" not in write_report(out).read_text()
    assert all(ruling.passes is not None for ruling in inspect(out, "a.jpg").rulings)


def test_thumbnails_are_small(made_run: Path) -> None:
    from curation.report.pictures import locate, read_picture

    store = Store(made_run)
    jpeg = thumbnail(read_picture(store, locate(store, [3])[3], THUMBNAIL_SIDE))
    assert jpeg.startswith(b"\xff\xd8")
    assert len(jpeg) <= THUMBNAIL_BYTES
