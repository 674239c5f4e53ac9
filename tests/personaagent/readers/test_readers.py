"""Readers of history files: what they give, what they refuse, and that one bad line never costs another."""

from __future__ import annotations

import io
import json
import zipfile
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from personaagent.errors import InvalidInput
from personaagent.memory.incoming import blank, label
from personaagent.readers import FORMATS, Record, lamp_tests, movielens_split, pahf_phase, read
from personaagent.readers.lamp import CATEGORIES, TAGS, lamp_label
from personaagent.readers.movielens import Movie, split_newest
from personaagent.readers.read_result import json_items
from personaagent.tools.known_tools import KnownTools
from personaagent.types import Interaction, Kind, Origin, Persona, Profile
from tests.support.taught import SPECS

KNOWN = KnownTools(specs=SPECS, names=tuple(spec.name for spec in SPECS))


def write(folder: Path, *lines: Any) -> Path:
    """A history file; strings and bytes go in as they are, anything else as JSON."""
    raw = [x if isinstance(x, bytes) else (x if isinstance(x, str) else json.dumps(x)).encode() for x in lines]
    path = folder / "history.jsonl"
    path.write_bytes(b"\n".join(raw))
    return path


# --- any format --------------------------------------------------------------------------------------------------------


def test_unknown_format_names_those_there_are():
    with pytest.raises(InvalidInput, match="history, movielens, pahf, lamp"):
        read("csv", "x")


@pytest.mark.parametrize("name", FORMATS)
def test_missing_file_is_one_line(name: str, tmp_path: Path):
    with pytest.raises(InvalidInput, match="there is no file") as caught:
        read(name, tmp_path / "absent")
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_of_another_kind_is_refused_before_anything_is_read(name: str, tmp_path: Path):
    path = tmp_path / "embodied_original_scenarios_A.json"
    path.write_bytes(b"\x89PNG\r\n\0\0\0")
    with pytest.raises(InvalidInput):
        read(name, path)


@pytest.mark.parametrize("name", ["history", "lamp"])
def test_a_folder_is_refused_where_a_file_is_wanted(name: str, tmp_path: Path):
    with pytest.raises(InvalidInput, match="is a folder"):
        read(name, tmp_path)


def test_number_of_users_must_be_positive(tmp_path: Path):
    with pytest.raises(InvalidInput, match="at least 1"):
        read("history", write(tmp_path, {"user": "u", "query": "q"}), 0)


def test_only_pahf_has_phases(tmp_path: Path):
    with pytest.raises(InvalidInput, match="only pahf"):
        read("history", write(tmp_path), phases=("original_A",))


# --- history -----------------------------------------------------------------------------------------------------------

text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)
words = text.filter(lambda t: not blank(t))
sayings = words.filter(lambda t: label(t) is None)  # a letter may mean an option
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=8,
)
lines = st.fixed_dictionaries(
    {"user": text, "query": words},
    optional={
        "time": st.datetimes(max_value=datetime(2026, 1, 1), timezones=st.just(UTC)).map(datetime.isoformat),
        "response": text,
        "truth": sayings,
        "choices": st.lists(words, min_size=2, max_size=5, unique=True),
        "metadata": st.dictionaries(text, json_values, max_size=3),
        "id": text,
    },
)


@pytest.mark.slow
@given(st.lists(lines, min_size=1, max_size=8), st.booleans())
@settings(max_examples=150, deadline=None)
def test_whatever_a_line_says_is_what_one_gets(tmp_path_factory: pytest.TempPathFactory, rows: list[Any], ascii: bool):
    path = tmp_path_factory.mktemp("h") / "h.jsonl"
    path.write_text("\n".join(json.dumps(r, ensure_ascii=ascii) for r in rows), encoding="utf-8", newline="")
    result = read("history", path)
    got = list(result)
    assert result.errors == []
    assert len(got) == len(rows)
    for row, interaction in zip(rows, got, strict=True):
        for name in ("user", "query", "response", "truth"):
            assert getattr(interaction, name) == row.get(name)
        assert interaction.choices == (tuple(row["choices"]) if "choices" in row else None)
        assert interaction.metadata == {"source": "history"} | row.get("metadata", {})
        if "time" in row:
            assert interaction.time == datetime.fromisoformat(row["time"])
        if "id" in row:
            assert interaction.id == row["id"]
    assert [i.id for i in read("history", path)] == [i.id for i in got]


@pytest.mark.slow
@given(
    st.lists(lines, min_size=1, max_size=8), st.lists(st.tuples(st.integers(0, 8), st.binary(max_size=30)), max_size=4)
)
@settings(max_examples=150, deadline=None)
def test_bad_lines_are_named_and_cost_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Any], junk: list[tuple[int, bytes]]
):
    good = [json.dumps(r).encode() for r in rows]
    mixed: list[tuple[bytes, bool]] = [(line, True) for line in good]
    for at, raw in junk:
        mixed.insert(min(at, len(mixed)), (b"!" + raw.replace(b"\n", b"").replace(b"\0", b""), False))
    folder = tmp_path_factory.mktemp("h")
    clean = list(read("history", write(folder, *good)))
    result = read("history", write(folder, *(raw for raw, _ in mixed)))
    got = list(result)
    assert [(i.id, i.query) for i in got] == [(i.id, i.query) for i in clean]
    assert [e.line for e in result.errors] == [n for n, (_, ok) in enumerate(mixed, 1) if not ok]
    assert all(e.reason and "\n" not in e.reason for e in result.errors)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "not JSON"),
        (b'{"user": "\xff"}', "not UTF-8"),
        ([1], "not a JSON object"),
        ({"query": "q"}, "`user` is missing"),
        ({"user": "u"}, "`query` is missing"),
        ({"user": "u", "query": "q", "qurey": 1}, "unknown field 'qurey'"),
        ({"user": "u" * 300, "query": "q"}, "256 characters"),
        ({"user": 7, "query": "q"}, "user: Input should be a valid string"),
        ({"user": "u", "query": "q", "choices": ["a"]}, "at least two different"),
        ({"user": "u", "query": "q", "truth": 4}, "truth: Input should be a valid string"),
        ({"user": "u", "query": "q", "time": "yesterday"}, "ISO 8601"),
        ({"user": "u", "query": "q", "time": True}, "ISO 8601"),
        ({"user": "u", "query": "q", "time": 1_700_000_000_000}, "not milliseconds"),
        ({"user": "u", "query": "q", "time": "0001-01-01T00:00:00+14:00"}, "not a time"),
        ({"user": "u", "query": "q", "metadata": [1]}, "metadata"),
        ('{"user": "u", "query": "q", "metadata": {"x": NaN}}', "NaN"),
        ('{"user": "u", "query": "q", "metadata": {"x": 1e999}}', "too large for JSON"),
        ('{"user": "u", "query": "q", "metadata": {"x": "\\ud800"}}', "surrogate"),
        ('{"user": "u", "query": "\\ud800"}', "surrogate"),
        ('{"user": "u", "query": "q", "metadata": ' + '{"a":' * 3000 + "1" + "}" * 3001, "nested"),
        ({"user": "u", "query": "q", "id": "x" * 200}, "id"),
        ({"user": "u", "query": "\u200b\ufeff"}, "query: is empty"),
        ({"user": "u", "query": "q", "truth": "\u0301"}, "truth: is empty"),
        ({"user": "u", "query": "q", "choices": ["tea", "\u2060"]}, "non-empty"),
        ({"user": "u", "query": "q", "metadata": {"x": 10**400}}, "too large for JSON"),
        ({"type": "mystery"}, "unknown type"),
        ({"type": "persona"}, "after the export's line of type user"),
        ({"user": "u", "query": "q" * 70_000}, "query"),
    ],
)
def test_reasons(tmp_path: Path, line: Any, reason: str):
    result = read("history", write(tmp_path, line, {"user": "u", "query": "good"}))
    assert [i.query for i in result] == ["good"]
    assert len(result.errors) == 1
    assert result.errors[0].line == 1
    assert reason in result.errors[0].reason


def test_reasons_do_not_repeat_what_users_wrote(tmp_path: Path):
    secret = "my password is swordfish"
    rows = [
        {"user": "u", "query": "q", "truth": [secret]},
        {"user": "u", "query": "q", "time": secret},
        {"user": "u", "query": "q", "choices": [secret]},
    ]
    result = read("history", write(tmp_path, *rows))
    assert list(result) == []
    assert not any("swordfish" in e.reason for e in result.errors)


def test_a_line_too_long_is_skipped_without_reading_on_in_it(tmp_path: Path):
    huge = b'{"user": "u", "query": "' + b"x" * (20 << 20) + b'"}'
    result = read("history", write(tmp_path, huge, {"user": "u", "query": "after"}))
    assert [i.query for i in result] == ["after"]
    assert [(e.line, "longer" in e.reason) for e in result.errors] == [(1, True)]


def test_blank_lines_and_a_byte_order_mark_are_no_errors(tmp_path: Path):
    result = read(
        "history", write(tmp_path, b'\xef\xbb\xbf{"user": "u", "query": "a"}', "", "  ", {"user": "u", "query": "b"})
    )
    assert [i.query for i in result] == ["a", "b"]
    assert result.errors == []


def test_a_mended_file_gives_old_lines_their_old_ids(tmp_path: Path):
    a, b, c = ({"user": "u", "query": q, "truth": "t"} for q in "abc")
    broken = list(read("history", write(tmp_path, a, "{broken", c, a)))
    mended = list(read("history", write(tmp_path, a, b, c, a)))
    assert len({i.id for i in mended}) == 4
    assert [i.id for i in mended if i.query != "b"] == [i.id for i in broken]
    assert [i.query for i in sorted(mended, key=lambda i: i.time)] == ["a", "b", "c", "a"]


def test_ids_survive_lines_put_in_before(tmp_path: Path):
    a, b = {"user": "u", "query": "a"}, {"user": "u", "query": "b", "time": 5}
    before = {i.id for i in read("history", write(tmp_path, a, b))}
    after = {
        i.id for i in read("history", write(tmp_path, {"user": "v", "query": "a"}, {"user": "u", "query": "n"}, a, b))
    }
    assert before < after
    assert len(after) == 4


def test_order_of_the_file_is_kept_without_times(tmp_path: Path):
    rows = [
        {"user": "u", "query": "1"},
        {"user": "v", "query": "x"},
        {"user": "u", "query": "2"},
        {"user": "u", "query": "3", "time": "2024-05-01T10:00:00"},
        {"user": "u", "query": "4"},
        {"user": "u", "query": "5"},
        {"user": "u", "query": "6", "time": 1714557601.5},
    ]
    mine = [i for i in read("history", write(tmp_path, *rows)) if i.user == "u"]
    assert [i.query for i in sorted(mine, key=lambda i: i.time)] == list("123456")
    assert all(i.time.tzinfo is not None for i in mine)


def test_only_the_first_users(tmp_path: Path):
    rows = [{"user": u, "query": q} for u, q in (("a", "1"), ("b", "2"), ("c", "3"), ("a", "4"))]
    assert [i.query for i in read("history", write(tmp_path, *rows), 2)] == ["1", "2", "4"]


def test_reading_again_starts_anew(tmp_path: Path):
    result = read("history", write(tmp_path, "{", {"user": "u", "query": "q"}))
    assert list(result) == list(result)
    assert len(result.errors) == 1


def test_an_export_is_read_back(tmp_path: Path):
    time = datetime(2025, 3, 1, tzinfo=UTC)
    interaction = Interaction(
        id="i1", user="ü", time=time, query="q", response="r", truth="t", metadata={"a": [1, None]}
    )
    persona = Persona(number=1, parent=None, time=time, text="likes tea", origin=Origin.INITIAL)
    profile = Profile(version=2, covered=1, watermark=time)
    exported = [
        {"type": "user", "user": "ü", "version": 1},
        {"type": "interaction", "arrived": 1, "truth_arrived": 2, **interaction.model_dump(mode="json")},
        {"type": "persona", **persona.model_dump(mode="json")},
        {"type": "profile", **profile.model_dump(mode="json")},
    ]
    result = read("history", write(tmp_path, *exported))
    assert list(result) == [interaction]
    assert result.errors == []
    assert result.records == [Record(3, "ü", persona), Record(4, "ü", profile)]


# --- JSON arrays -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@given(st.lists(st.dictionaries(text, json_values, max_size=3), max_size=6), st.sampled_from([None, 0, 2]))
@settings(max_examples=100, deadline=None)
def test_items_of_an_array(tmp_path_factory: pytest.TempPathFactory, items: list[Any], indent: int | None):
    path = tmp_path_factory.mktemp("j") / "x.json"
    path.write_text(json.dumps(items, indent=indent), encoding="utf-8")
    assert list(json_items(path, "x")) == list(enumerate(items, 1))


def test_items_larger_than_what_is_read_at_once(tmp_path: Path):
    path = tmp_path / "x.json"
    items = [{"text": "x" * n} for n in (10, 3_000_000, 5, 2_500_000)]
    path.write_text(json.dumps(items))
    assert [i for _, i in json_items(path, "x")] == items


def test_an_array_that_breaks_off_gives_what_came_before(tmp_path: Path):
    path = tmp_path / "x.json"
    path.write_text('[{"a": 1}, {"a": 2}, {"a"')
    *good, (number, error) = json_items(path, "x")
    assert good == [(1, {"a": 1}), (2, {"a": 2})]
    assert number == 3
    assert isinstance(error, ValueError)


@pytest.mark.parametrize("content", ["", "{}", "[", "[{]", "text"])
def test_an_array_that_never_was_one(tmp_path: Path, content: str):
    path = tmp_path / "x.json"
    path.write_text(content)
    with pytest.raises(InvalidInput):
        json_items(path, "x")


# --- MovieLens ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("title", "genres", "question"),
    [
        ("Matrix, The (1999)", "Action|Sci-Fi", "How would you rate the movie The Matrix (1999, action, sci-fi)?"),
        ("Babylon 5", "(no genres listed)", "How would you rate the movie Babylon 5?"),
        ("American in Paris, An (1951) ", "IMAX", "How would you rate the movie An American in Paris (1951, IMAX)?"),
        ("Hate (Haine, La) (1995)", "Crime", "How would you rate the movie Hate (La Haine) (1995, crime)?"),
        ("Avventura, L' (1960)", "Film-Noir", "How would you rate the movie L'Avventura (1960, film noir)?"),
        ("Paris, Texas (1984)", "Drama", "How would you rate the movie Paris, Texas (1984, drama)?"),
        ("X (a.k.a. Y, The) (2000)", "War", "How would you rate the movie X (a.k.a. The Y) (2000, war)?"),
        ("(500) Days of Summer (2009)", "", "How would you rate the movie (500) Days of Summer (2009)?"),
    ],
)
def test_movies_are_named_as_people_do(title: str, genres: str, question: str):
    assert Movie.parse(title, genres).question == question


def movielens(
    folder: Path, ratings: str, movies: str = 'movieId,title,genres\n1,"A, The (1999)",Drama\n2,B (2000),War\n'
) -> Path:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("ml/ratings.csv", "userId,movieId,rating,timestamp\n" + ratings)
        archive.writestr("ml/movies.csv", movies)
    path = folder / "ml-tiny.zip"
    path.write_bytes(buffer.getvalue())
    return path


def test_ratings_in_time_order_with_bad_rows_named(tmp_path: Path):
    rows = "1,1,4.0,20\n1,2,0.5,10\n1,9,3.0,5\n1,1,7.0,5\n1,1\n1,1,x,5\n2,2,5.0,1\n"
    result = read("movielens", movielens(tmp_path, rows))
    got = [(i.user, i.query, i.truth) for i in result]
    assert got == [
        ("movielens-1", "How would you rate the movie B (2000, war)?", "0.5"),
        ("movielens-1", "How would you rate the movie The A (1999, drama)?", "4.0"),
        ("movielens-2", "How would you rate the movie B (2000, war)?", "5.0"),
    ]
    assert [e.line for e in result.errors] == [4, 5, 6, 7]


def test_zip_and_folders_give_the_same(tmp_path: Path):
    path = movielens(tmp_path, "1,1,4.0,20\n")
    with zipfile.ZipFile(path) as archive:
        archive.extractall(tmp_path / "unpacked")
    expected = list(read("movielens", path))
    assert expected
    assert expected == list(read("movielens", tmp_path / "unpacked"))
    assert expected == list(read("movielens", tmp_path / "unpacked" / "ml"))
    (tmp_path / "downloads").mkdir()
    path.rename(tmp_path / "downloads" / path.name)
    assert expected == list(read("movielens", tmp_path / "downloads"))


def test_movielens_of_another_kind(tmp_path: Path):
    with pytest.raises(InvalidInput, match=r"holds no movies\.csv"):
        read("movielens", tmp_path)
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("a.txt", "a")
    with pytest.raises(InvalidInput, match=r"holds no movies\.csv"):
        read("movielens", tmp_path / "x.zip")
    with pytest.raises(InvalidInput, match="no column title"):
        read("movielens", movielens(tmp_path, "", movies="movieId,name,genres\n"))


def test_the_newest_of_each_user_are_the_test(tmp_path: Path):
    rows = "".join(f"{user},{movie},3.0,{10 - movie}\n" for user in (1, 2) for movie in (1, 2))
    learn, test = movielens_split(read("movielens", movielens(tmp_path, rows)))
    assert [(i.user, i.metadata["movie"]) for i in learn] == [("movielens-1", 2), ("movielens-2", 2)]
    assert [(i.user, i.metadata["movie"]) for i in test] == [("movielens-1", 1), ("movielens-2", 1)]
    with pytest.raises(InvalidInput, match="between 0 and 1"):
        split_newest(learn, 1.5)


@pytest.mark.slow
def test_movielens_itself(data_dir: Path):
    result = read("movielens", data_dir / "movielens" / "ml-latest-small.zip", 50)
    got = list(result)
    assert result.errors == []
    assert len({i.user for i in got}) == 50
    assert len({i.id for i in got}) == len(got)
    assert all(i.kind is Kind.RATING and i.choices and i.truth in i.choices for i in got)
    for before, after in pairwise(got):
        assert before.user != after.user or before.time <= after.time
    learn, test = movielens_split(got)
    assert len(learn) + len(test) == len(got)
    newest = {}
    for i in learn:
        newest[i.user] = i.time
    assert all(i.time >= newest[i.user] for i in test)


# --- PAHF --------------------------------------------------------------------------------------------------------------


def test_pahf_itself(data_dir: Path):
    folder = data_dir / "pahf"
    result = read("pahf", folder)
    got = list(result)
    assert result.errors == []
    assert result.skipped == 6
    assert len(got) == 2394
    assert len({i.user for i in got}) == 40
    assert [i.metadata["phase"] for i in got] == ["original_A"] * 1196 + ["evolved_A"] * 1198
    assert all(i.choices and i.truth in i.choices and len(i.choices) >= 3 for i in got)
    everything = [
        i for phase in ("original_A", "original_B", "evolved_A", "evolved_B") for i in pahf_phase(folder, phase)
    ]
    assert len({i.id for i in everything}) == len(everything) == 4789
    assert [i.time for i in everything] == sorted(i.time for i in everything)


def test_one_file_is_its_phase(data_dir: Path):
    got = list(read("pahf", data_dir / "pahf" / "embodied_evolved_scenarios_B.json", 3))
    assert {i.metadata["phase"] for i in got} == {"evolved_B"}
    assert len({i.user for i in got}) == 3


def test_pahf_items_that_are_broken(tmp_path: Path):
    good = {
        "index": 0,
        "user": "A",
        "task": "drink?",
        "context": "c",
        "user_intent_object": "tea",
        "scene_objects": ["tea", "ale", "rum"],
    }
    items = [
        good,
        5,
        {**good, "scene_objects": ["tea"]},
        {**good, "task": None},
        {k: v for k, v in good.items() if k != "user"},
    ]
    path = tmp_path / "embodied_original_scenarios_A.json"
    path.write_text(json.dumps(items))
    result = read("pahf", path)
    assert [i.truth for i in result] == ["tea"]
    assert result.skipped == 1
    assert [e.line for e in result.errors] == [2, 4, 5]
    with pytest.raises(InvalidInput, match="item 2"):
        pahf_phase(tmp_path, "original_A")


def test_pahf_refuses_what_it_cannot_place(tmp_path: Path):
    with pytest.raises(InvalidInput, match="unknown phase"):
        read("pahf", tmp_path, phases=("final",))
    with pytest.raises(InvalidInput, match="there is no file"):
        read("pahf", tmp_path)
    (tmp_path / "x.json").write_text("[]")
    with pytest.raises(InvalidInput, match="file names"):
        read("pahf", tmp_path / "x.json")


# --- LaMP --------------------------------------------------------------------------------------------------------------


def lamp(folder: Path, questions: Any, golds: dict[str, str] | None = None, task: str = "LaMP_X") -> Path:
    path = folder / "dev_questions.json"
    path.write_text(json.dumps(questions))
    if golds is not None:
        outputs = {"task": task, "golds": [{"id": k, "output": v} for k, v in golds.items()]}
        (folder / "dev_outputs.json").write_text(json.dumps(outputs))
    return path


def test_lamp_movie_tags(tmp_path: Path):
    question = {
        "id": "110",
        "input": "Which tag does this movie relate to among the following tags? tags: [sci-fi, ...] description: A robot wakes.",
        "profile": [
            {"id": "7", "tag": "comedy", "description": "A funny day."},
            {"id": "8", "tag": "sci-fi", "description": "Mars."},
        ],
    }
    path = lamp(tmp_path, [question], {"110": "sci-fi"})
    first, second = read("lamp", path)
    assert (first.user, first.truth, first.choices) == ("lamp-2m-110", "comedy", TAGS)
    assert first.query == "Which tag fits this movie? A funny day."
    assert first.time < second.time
    (test,) = lamp_tests(path)
    assert (test.user, test.query, test.truth) == ("lamp-2m-110", "Which tag fits this movie? A robot wakes.", "sci-fi")
    assert test.time > second.time
    assert len({test.id, first.id, second.id}) == 3


def test_lamp_news_categories(tmp_path: Path):
    question = {
        "id": "1",
        "input": "Which category does this article relate to? categories: [women] article: Cup final tonight.",
        "profile": [{"id": "a", "title": "T", "text": "X", "category": "sports"}],
    }
    path = lamp(tmp_path, [question], {"1": "sports"})
    (item,) = read("lamp", path)
    assert (item.query, item.truth, item.choices) == ("Which category fits this article? T. X", "sports", CATEGORIES)
    assert lamp_tests(path)[0].query == "Which category fits this article? Cup final tonight."


def test_lamp_stars(tmp_path: Path):
    question = {
        "id": "1",
        "input": "What is the score of the following review on a scale of 1 to 5? review: Broke at once.",
        "profile": [
            {"id": "a", "text": "Great", "score": "5.0", "date": "2020-01-02"},
            {"id": "b", "text": "Meh", "score": 2},
        ],
    }
    path = lamp(tmp_path, [question], {"1": "1.0"})
    assert [i.truth for i in read("lamp", path)] == ["5", "2"]
    (test,) = lamp_tests(path)
    assert test.kind is Kind.RATING
    assert test.truth == "1"
    assert lamp_label(test, "1") == "1"


def test_lamp_citations_choose_between_titles_and_give_the_label_back(tmp_path: Path):
    question = {
        "id": "1",
        "input": 'For an author who has written the paper with the title "Deep nets", which reference is related? Just answer '
        'with [1] or [2] without explanation. [1]: "On "small" bees" [2]: "Networks"',
        "profile": [{"id": "a", "title": "Nets", "abstract": "We study nets."}],
    }
    path = lamp(tmp_path, [question], {"1": "[2]"})
    (item,) = read("lamp", path)
    assert (item.truth, item.kind) == ("Nets", Kind.TEXT)
    (test,) = lamp_tests(path)
    assert test.choices == ('On "small" bees', "Networks")
    assert test.truth == "Networks"
    assert lamp_label(test, "Networks") == "[2]"
    assert lamp_label(test, "neither") == "neither"


def test_lamp_items_that_are_broken(tmp_path: Path):
    profile = [
        {"id": "a", "text": "Great", "score": "5"},
        {"id": "a", "text": "Twice", "score": "5"},
        {"id": "b", "score": "1"},
        3,
    ]
    questions = [
        {"id": "1", "input": "review: x", "profile": profile},
        {"id": "2"},
        {"id": "3", "input": "x", "profile": []},
    ]
    result = read("lamp", lamp(tmp_path, questions))
    assert [i.query for i in result] == ["How many stars does this review give? Great"]
    assert [e.line for e in result.errors] == [1, 1, 1, 2]


@pytest.mark.parametrize(
    ("questions", "golds", "message"),
    [
        ([{"id": "1", "input": "x", "profile": [{"id": "a", "text": "tweet"}]}], {}, "not read here"),
        ([{"a": 1}], {}, "no LaMP questions"),
        ([], {}, "no question"),
        ([{"id": "1", "input": "x", "profile": [{"id": "a", "text": "t", "score": "1"}]}], None, "there is no file"),
        (
            [{"id": "1", "input": "x", "profile": [{"id": "a", "text": "t", "score": "1"}]}],
            {"2": "1"},
            "not among the outputs",
        ),
    ],
)
def test_lamp_that_cannot_be_tested(tmp_path: Path, questions: Any, golds: dict[str, str] | None, message: str):
    with pytest.raises(InvalidInput, match=message):
        lamp_tests(lamp(tmp_path, questions, golds))


def test_lamp_outputs_that_are_none(tmp_path: Path):
    path = lamp(tmp_path, [{"id": "1", "input": "x", "profile": [{"id": "a", "text": "t", "score": "1"}]}])
    (tmp_path / "dev_outputs.json").write_text('{"golds": 5}')
    with pytest.raises(InvalidInput, match="not a LaMP outputs file"):
        lamp_tests(path)


# --- lessons on tools --------------------------------------------------------------------------------------------------


def test_a_line_may_say_which_tool_was_right(tmp_path: Path):
    action = {"tool": "weather", "arguments": {"units": "metric", "place": "Oslo"}, "among": ["weather", "trains"]}
    rain = {"user": "ann", "query": "rain", "time": "2026-02-01T08:00:00Z", "action": action}
    path = write(tmp_path, rain, {"user": "ann", "query": "joke"})
    asked, tool, units, joke = read("history", path, tools=KNOWN)
    assert (asked.lesson, joke.lesson) == (False, False)
    assert (tool.choices, tool.truth, tool.metadata["of"]) == (("answer", "weather", "trains"), "weather", asked.id)
    assert (units.truth, units.time) == ("metric", asked.time)
    assert tool.metadata["arguments"] == {"place": "Oslo"}
    assert list(read("history", path, tools=KNOWN)) == [asked, tool, units, joke]  # the same ids again


def test_an_action_that_does_not_say_among_means_the_tools_of_the_settings(tmp_path: Path):
    path = write(tmp_path, {"user": "ann", "query": "rain", "action": {"tool": "weather"}})
    assert list(read("history", path, tools=KNOWN))[1].choices == ("answer", "trains", "flights", "weather", "notes")
    partly = KNOWN.model_copy(update={"names": ("trains",), "whole": False})  # a server's tools are not known
    assert list(read("history", path, tools=partly))[1].choices == ("answer", "trains", "weather")
    found = read("history", path)
    assert [i.query for i in found] == []
    assert "name the tools that there were in action.among" in found.errors[0].reason


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ({"action": {"tool": "wether"}}, "did you mean weather"),
        ({"action": {"tool": "teleport"}}, "name the tools that there were in action.among"),
        ({"action": {"tool": "wether", "among": ["weather"]}}, "did you mean weather"),
        ({"action": {"tool": "weather", "among": ["weather"], "arguments": {"units": "miles"}}}, "units"),
        ({"action": {"among": ["weather"]}}, "action"),
        ({"action": "weather"}, "action"),
        ({"id": "lesson:x"}, "lessons on tools"),
    ],
)
def test_an_action_that_no_tool_could_do_is_an_error_of_its_line(tmp_path: Path, line: dict[str, Any], says: str):
    found = read(
        "history", write(tmp_path, {"user": "ann", "query": "q", **line}, {"user": "ann", "query": "r"}), tools=KNOWN
    )
    assert [i.query for i in found] == ["r"]
    (error,) = found.errors
    assert error.line == 1
    assert says in error.reason
