"""Reports: what is in them, and that nobody's text gets out of its place."""

from __future__ import annotations

import re
from datetime import date
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from personaagent.errors import InvalidInput
from personaagent.report import plots
from personaagent.report.html import (
    Bars,
    Chat,
    Diff,
    Dumbbell,
    Histogram,
    Line,
    Section,
    SideBySide,
    Table,
    Text,
    write_atomically,
    write_report,
)

EVIL = [
    "<script>alert(1)</script>",
    "</style><img src=x onerror=alert(1)>",
    '" onmouseover="alert(1)',
    "<!-- --><svg onload=alert(1)>",
    "{{ 7 * 7 }}{% raw %}",
    "]]><x/>",
    "$\\frac{$",
    "&lt;b&gt;",
    "_hidden",
    "",
]
VOID = {"meta", "br", "img", "link", "hr", "input"}


class Reader(HTMLParser):
    """Collects tags, attributes and text, and checks that tags close in order."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.open: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def render(folder: Path, sections: list[Section], title: str = "t") -> tuple[str, Reader]:
    html = write_report(folder / "report.html", title, sections).read_text(encoding="utf-8")
    reader = Reader()
    reader.feed(html)
    reader.close()
    assert reader.open == []
    return html, reader


def of_all_kinds(texts: list[str]) -> list[Section]:
    first, *_ = texts
    values = [n / 10 for n in range(len(texts))]
    return [
        Text("\n\n".join(texts), title=first),
        Table(texts, [texts, [1, 2.5, None, float("nan"), True, "x"]], title=first, caption=first),
        Dumbbell(texts, values, values[::-1], title=first, xlabel=first),
        Bars(texts, dict.fromkeys(texts[:3], values), {first: [(0.0, 1.0)] * len(texts)}, title=first, ylabel=first),
        Line(values, dict.fromkeys(texts[:3], values), title=first, xlabel=first, ylabel=first),
        Histogram(values, title=first, xlabel=first),
        SideBySide([(t, t) for t in texts], title=first),
        Diff("\n".join(texts), "\n".join(reversed(texts)), title=first),
        Chat(first, [(t, t) for t in texts], title=first, choices=texts),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("evil", EVIL)
def test_texts_stay_texts_wherever_they_stand(tmp_path: Path, evil: str):
    harmless, before = render(tmp_path, of_all_kinds(["a", "b", "c"]))
    html, after = render(tmp_path, of_all_kinds([evil, "b", "c"]), title=evil)
    allowed = set(before.tags) | {"h2"}
    assert set(after.tags) <= allowed
    assert not {"script", "img", "iframe", "link"} & set(after.tags)
    assert not [name for name, _ in after.attributes if name.startswith("on")]
    assert "7 * 7" in after.text or "7 * 7" not in evil
    if evil:
        assert evil in after.text
    assert harmless.count("<svg") == html.count("<svg") == 4


@pytest.mark.slow
@given(st.lists(st.text(st.characters(exclude_characters="\r"), max_size=60), min_size=2, max_size=4))
@settings(max_examples=15, deadline=None)
def test_any_text_makes_a_well_formed_report(tmp_path_factory: pytest.TempPathFactory, texts: list[str]):
    _, reader = render(tmp_path_factory.mktemp("r"), of_all_kinds(texts))
    assert not {"script", "img", "iframe"} & set(reader.tags)


@pytest.mark.slow
def test_nothing_is_loaded_from_elsewhere(tmp_path: Path):
    html, reader = render(tmp_path, of_all_kinds(["a", "b"]))
    namespaces = {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert set(re.findall(r"https?://[^\s\"'<)]+", html)) <= namespaces
    links = [v for n, v in reader.attributes if n in ("src", "href", "xlink:href")]
    assert all(v and v.startswith("#") for v in links)
    assert "default-src 'none'" in html


@pytest.mark.slow
def test_plots_are_xml_named_and_follow_the_page(tmp_path: Path):
    html, reader = render(tmp_path, of_all_kinds(["a", "日本語 🙂", "ж"]))
    drawings = re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL)
    for drawing in drawings:
        ElementTree.fromstring(drawing)
        assert "var(--ink)" in drawing
    assert sum("日本語 🙂" in d for d in drawings) == 3  # rows, groups and series; a histogram has no names
    assert reader.attributes.count(("role", "img")) == len(drawings) == 4
    ids = [v for n, v in reader.attributes if n == "id"]
    assert len(set(ids)) == len(ids)


@pytest.mark.slow
def test_the_same_sections_give_the_same_bytes_but_for_the_time(tmp_path: Path):
    def body() -> str:
        return re.sub(r"<p class=\"time\">.*?</p>", "", render(tmp_path, of_all_kinds(["a", "b", "c"]))[0])

    assert body() == body()


@pytest.mark.slow
def test_users_without_scores_are_counted_and_many_are_cut(tmp_path: Path):
    _, reader = render(tmp_path, [Dumbbell(["a", "b", "c"], [0.1, None, 0.2], [0.2, 0.3, float("nan")])])
    assert "2 of 3 users have no score" in reader.text
    users = [f"user {n}" for n in range(200)]
    _, reader = render(tmp_path, [Dumbbell(users, [0.0] * 200, [n / 200 for n in range(200)])])
    assert f"The {plots.MAX_ROWS} largest changes of 200 users" in reader.text
    assert "user 199" in reader.text
    assert "user 130" not in reader.text


def test_nothing_to_plot_says_so(tmp_path: Path):
    _, reader = render(tmp_path, [Dumbbell([], [], []), Histogram([])])
    assert "nothing to plot" in reader.text


def test_series_must_fit_their_groups(tmp_path: Path):
    with pytest.raises(ValueError, match="2 values for 1 groups"):
        render(tmp_path, [Bars(["a"], {"s": [1.0, 2.0]})])
    assert list(tmp_path.iterdir()) == []


def test_a_header_stands_above_its_numbers_and_a_date_is_not_broken(tmp_path: Path):
    rows = [["anna", 3, None, date(2025, 1, 21)], ["bo", None, "often", None]]
    html, _ = render(tmp_path, [Table(["user", "answers", "note", "since"], rows)])
    assert '<th scope="col" class="number" dir="auto">answers</th>' in html
    assert '<th scope="col" dir="auto">note</th>' in html
    assert '<td class="date" dir="auto">2025-01-21</td>' in html


def test_changed_words_are_marked(tmp_path: Path):
    html, reader = render(tmp_path, [Diff("Likes black and coffee.\nSame.", "Likes green and tea.\nSame.\nNew line.")])
    assert re.findall(r"<del>(.*?)</del>", html) == ["black", "coffee"]
    assert re.findall(r"<ins>(.*?)</ins>", html) == ["green", "tea", "New line."]
    assert "Same." in reader.text
    assert "Nothing changed." in render(tmp_path, [Diff("", "")])[1].text


def test_a_report_replaces_the_old_one_whole_or_not_at_all(tmp_path: Path):
    path = tmp_path / "report.html"
    path.write_text("old")
    with pytest.raises(TypeError):
        write_report(path, "t", [object()])  # type: ignore[list-item]
    assert path.read_text() == "old"
    write_report(path, "new", [])
    assert "new" in path.read_text()
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_where_it_cannot_be_written(tmp_path: Path):
    for place in (tmp_path, tmp_path / "absent" / "r.html"):
        with pytest.raises(InvalidInput, match="cannot write"):
            write_atomically(place, "x")
    assert list(tmp_path.iterdir()) == []


def test_lone_surrogates_do_not_stop_a_report(tmp_path: Path):
    _, reader = render(tmp_path, [Text("broken \ud800 text"), Dumbbell(["\ud800"], [0.1], [0.2])])
    assert "broken" in reader.text
