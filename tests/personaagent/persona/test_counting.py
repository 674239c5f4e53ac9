from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from personaagent.claims import MAX_SOURCES, Claim, ClaimKind
from personaagent.persona.counting import counted_claims
from personaagent.readers import read, sample_path
from personaagent.types import Interaction

START = datetime(2025, 1, 6, 8, tzinfo=UTC)
DISHES = (
    "falafel bowl",
    "fish and chips",
    "beef stew",
    "lentil curry",
    "roast chicken",
    "pizza",
    "miso soup",
    "lamb wrap",
)
SUBJECTS = ("a walk by the lake", "the trip to Oslo", "the new bicycle", "our garden", "that old piano", "her lecture")


def said(truth: str, at: int, query: str = "Write my reply.", choices: Sequence[str] | None = None) -> Interaction:
    return Interaction(
        id=f"i{at}",
        user="u",
        time=START + timedelta(hours=19 * at),
        query=query,
        truth=truth,
        choices=None if choices is None else tuple(choices),
    )


def texts(claims: Sequence[Claim], kind: ClaimKind | None = None) -> str:
    return "\n".join(c.text for c in claims if kind in (None, c.kind))


def chooser(
    rng: random.Random, number: int, wanted: str | None, refused: str | None, noise: float
) -> list[Interaction]:
    """Choices of somebody who takes `wanted` whenever it is on offer, and never `refused`, but for noise."""
    made = []
    for at in range(number):
        offered = rng.sample(DISHES, 4)
        left = [d for d in offered if d != refused]
        truth = wanted if wanted in offered else rng.choice(left)
        made.append(said(rng.choice(offered) if rng.random() < noise else str(truth), at, "What shall I eat?", offered))
    return made


def writer(rng: random.Random, at: int, style: str) -> str:
    subject, other = rng.sample(SUBJECTS, 2)
    return {
        "lower": f"yo {subject} sounds fun but {other} is better lol".lower(),
        "formal": f"Dear colleagues, {subject} pleases me, as does {other}. Kindly confirm. Yours, Hugo Brandt",
        "loud": f"WOW, {subject} is great! And {other}, I cannot wait!! 🎉",
    }[style]


def test_nothing_is_said_of_nobody() -> None:
    assert counted_claims(()) == ()
    assert counted_claims([said("", 0), said("  ", 1)]) == ()
    assert counted_claims([Interaction(id="x", user="u", time=START, query="q")]) == ()


def test_how_somebody_writes() -> None:
    rng = random.Random(1)
    casual = texts(counted_claims([said(writer(rng, n, "lower"), n) for n in range(12)]))
    assert "writes all in lower case" in casual
    assert "leaves out the full stop" in casual
    assert "lol”" in casual
    formal = texts(counted_claims([said(writer(rng, n, "formal"), n) for n in range(12)], 20))
    assert "begins with “Dear colleagues”" in formal
    assert "signs off with “Yours, Hugo Brandt”" in formal
    loud = texts(counted_claims([said(writer(rng, n, "loud"), n) for n in range(12)], 20))
    assert "uses exclamation marks" in loud
    assert "uses emoji (🎉)" in loud
    assert "in capitals" in loud


@pytest.mark.parametrize(
    ("text", "claim"),
    [
        ("Ich komme am Freitag und bringe den Kuchen mit, das ist doch klar {}.", "writes in German"),
        ("Je viens vendredi avec une tarte pour vous, mais pas le matin {}.", "writes in French"),
        ("Я приду в пятницу и принесу пирог {}.", "writes in Cyrillic script"),
        ("金曜日にケーキを持って行きます、よろしく{}。", "writes in Japanese"),
        ("วันศุกร์ฉันจะมาพร้อมเค้ก {}", "writes in Thai"),
    ],
)
def test_languages(text: str, claim: str) -> None:
    assert claim in texts(counted_claims([said(text.format(n), n) for n in range(5)], 20))


def test_english_is_no_other_language() -> None:
    rng = random.Random(2)
    for style in ("lower", "formal", "loud"):
        assert "writes in" not in texts(counted_claims([said(writer(rng, n, style), n) for n in range(9)], 20))


def test_two_texts_say_only_what_is_very_clear() -> None:
    plain = [said("I will come on Friday.", 0), said("The garden is fine, thank you.", 1)]
    assert counted_claims(plain) == ()
    clear = [said("yesss im in for friday 🌱", 0), said("the garden is fine thx 🌱", 1)]
    assert "writes all in lower case" in texts(counted_claims(clear))
    assert "uses emoji (🌱)" in texts(counted_claims(clear))


def test_words_of_the_request_are_nobodys_manner() -> None:
    asked = [said(f"The dumplings were number {n}.", n, f"Write about dumplings, part {n}.") for n in range(10)]
    assert "dumplings" not in texts(counted_claims(asked, 20), ClaimKind.WRITES)


def test_what_is_taken_and_refused() -> None:
    claims = counted_claims(chooser(random.Random(3), 60, "falafel bowl", "fish and chips", 0.0))
    assert "prefers “falafel bowl”" in texts(claims, ClaimKind.PREFERS)
    assert "avoids “fish and chips”" in texts(claims, ClaimKind.AVOIDS)
    for claim in claims:
        assert claim.sources
        assert claim.since is not None


def test_two_lucky_picks_are_no_claim() -> None:
    two = [said("beef stew", n, "What shall I eat?", DISHES[:5]) for n in range(2)]
    assert counted_claims(two) == ()


def test_who_takes_anything_prefers_nothing() -> None:
    claimed = sum(bool(counted_claims(chooser(random.Random(n), 60, None, None, 1.0))) for n in range(30))
    assert claimed <= 4


def test_attributes_of_bundles() -> None:
    rng = random.Random(4)
    made = []
    for n in range(40):
        options = [
            f"price: {p}; opens: {o}; colour: {c}"
            for p in ("low", "high")
            for o in ("up", "down")
            for c in ("red", "blue")
        ]
        offered = rng.sample(options, 3)
        made.append(said(next((o for o in offered if "opens: down" in o), offered[0]), n, "Which?", offered))
    assert "“opens: down”" in texts(counted_claims(made), ClaimKind.PREFERS)
    assert "colour" not in texts(counted_claims(made))


def test_what_holds_for_some_requests_only() -> None:
    rng = random.Random(5)
    made = []
    for n in range(80):
        offered = rng.sample(DISHES, 4)
        lunch = n % 2 == 0
        wanted = "pizza" if lunch else "miso soup"
        other = [d for d in offered if d not in ("pizza", "miso soup")]
        truth = wanted if wanted in offered else rng.choice(other)
        made.append(said(truth, n, "What do I have for lunch?" if lunch else "What is for supper?", offered))
    found = texts(counted_claims(made, 12))
    assert "prefers “pizza” when a request says “lunch”" in found
    assert "prefers “miso soup” when a request says “supper”" in found


def test_grades_by_subject() -> None:
    rng = random.Random(6)
    subjects = {"the sea": "5", "running gear": "1", "cooking": "3", "trains": "3", "chess": "3"}
    made = []
    for n in range(50):
        subject = rng.choice(list(subjects))
        made.append(said(subjects[subject], n, f"How many stars for a book on {subject}?", ("1", "2", "3", "4", "5")))
    claims = counted_claims(made)
    assert "grades “sea” higher than usual" in texts(claims, ClaimKind.PREFERS)
    assert "grades “running gear” lower than usual" in texts(claims, ClaimKind.AVOIDS)
    assert "cooking" not in texts(claims)


@pytest.mark.parametrize("seed", range(12))
def test_noise_inverts_no_claim(seed: int) -> None:
    rng = random.Random(seed)
    claims = counted_claims(chooser(rng, 80, "falafel bowl", "fish and chips", 0.3), 20)
    assert "falafel" not in texts(claims, ClaimKind.AVOIDS)
    assert "fish" not in texts(claims, ClaimKind.PREFERS)
    noisy = [
        said(writer(rng, n, rng.choice(("formal", "loud")) if rng.random() < 0.3 else "lower"), n) for n in range(60)
    ]
    written = texts(counted_claims(noisy, 20))
    assert "writes all in capitals" not in written
    assert "Dear" not in written


def test_a_manner_is_mostly_found_in_noise() -> None:
    said_so = []
    for seed in range(20):
        rng = random.Random(seed)
        noisy = [said(writer(rng, n, "formal" if rng.random() < 0.3 else "lower"), n) for n in range(60)]
        said_so.append("lower case" in texts(counted_claims(noisy, 20)))
    assert sum(said_so) >= 15


def test_a_taste_is_mostly_found_in_noise() -> None:
    said_so = [
        "prefers “falafel bowl”" in texts(counted_claims(chooser(random.Random(seed), 80, "falafel bowl", None, 0.3)))
        for seed in range(40)
    ]
    assert sum(said_so) >= 34


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_what_the_newest_contradict_is_not_said(seed: int, noise: float) -> None:
    rng = random.Random(seed)
    before = chooser(rng, 60, "falafel bowl", None, noise)
    after = [
        said(str(i.truth), 60 + n, i.query, i.choices)
        for n, i in enumerate(chooser(rng, 40, "pizza", "falafel bowl", noise))
    ]
    changed = counted_claims([*before, *after])
    assert "falafel" not in texts(changed, ClaimKind.PREFERS)
    assert "pizza" not in texts(changed, ClaimKind.AVOIDS)
    written = [said(writer(rng, n, "lower" if n < 30 else "formal"), n) for n in range(45)]
    assert "lower case" not in texts(counted_claims(written, 20))


def test_both_ways_of_writing_and_choosing_have_their_place() -> None:
    rng = random.Random(8)
    mixed = chooser(rng, 60, "falafel bowl", "fish and chips", 0.0)
    mixed += [said(writer(rng, n, "formal"), 100 + n) for n in range(12)]
    claims = counted_claims(mixed, 5)
    assert len(claims) == 5
    assert sum(c.kind is ClaimKind.WRITES for c in claims) >= 3
    assert {c.kind for c in claims} >= {ClaimKind.WRITES, ClaimKind.PREFERS}
    assert counted_claims(mixed, 0) == ()


def test_usual_times_need_many_days() -> None:
    nightly = [
        Interaction(id=str(n), user="u", time=START + timedelta(days=n, hours=13, minutes=n), query="q", truth=f"t{n}")
        for n in range(30)
    ]
    assert "usually asks between" in texts(counted_claims(nightly, 20), ClaimKind.FACT)
    at_once = [i.model_copy(update={"time": START}) for i in nightly]
    assert not texts(counted_claims(at_once, 20), ClaimKind.FACT)


@pytest.mark.parametrize(
    "truth",
    [
        "ok",
        "word " * 10_000,
        "好",
        "!!!",
        "🌱",
        "5",
        "a" * 50_000,
        "…",
        "İ",
        "ẞ\u0301",
        "\u200d\ufe0f",
        "Hi\x00 there\x07 you",
    ],
)
@pytest.mark.parametrize("number", [1, 2, 7])
def test_odd_and_equal_truths(truth: str, number: int) -> None:
    for claim in counted_claims([said(truth, n) for n in range(number)], 20):
        assert len(claim.text) <= 200
        assert claim.text.isprintable()


_PIECES = "hey Dear Sam yesss 🌱 lol NO! und das ist gut... Yours, Hugo i'm im 絵文字 :) - 1. \n"
_TEXT = st.one_of(
    st.text(max_size=60),
    st.lists(st.sampled_from(_PIECES.split(" "))).map(" ".join),
)
_OPTIONS = st.one_of(
    st.lists(_TEXT.filter(bool), min_size=2, max_size=5, unique=True),
    st.lists(st.sampled_from(DISHES), min_size=2, max_size=5, unique=True),
    st.sampled_from([["1", "2", "3"], ["0.5", "5"], ["nan", "inf"], ["1", "1.0"], ["1e308", "-1e308"]]),
)


@st.composite
def _interactions(draw: st.DrawFn) -> list[Interaction]:
    made = []
    for at in range(draw(st.integers(0, 25))):
        choices = draw(st.none() | _OPTIONS)
        truth = draw(_TEXT) if choices is None else draw(st.sampled_from(choices) | _TEXT)
        time = START + timedelta(days=draw(st.integers(0, 20)))
        made.append(
            Interaction(
                id=draw(st.sampled_from([f"i{at}", "same"])),
                user="u",
                time=time,
                query=draw(_TEXT),
                truth=draw(st.sampled_from([truth, None, truth, truth])),
                choices=None if choices is None else tuple(choices),
            )
        )
    return made


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(_interactions(), st.integers(0, 12), st.randoms(use_true_random=False))
def test_any_history_gives_claims_that_rest_on_it(made: list[Interaction], most: int, rng: random.Random) -> None:
    claims = counted_claims(made, most)
    assert len(claims) <= most
    known = {i.id for i in made if i.truth}
    for claim in claims:
        assert claim.shown
        assert claim.origin == "counted"
        assert set(claim.sources) <= known
        assert len(set(claim.sources)) == len(claim.sources) <= MAX_SOURCES
        assert 0 < len(claim.text) <= 200
        assert "\n" not in claim.text
    shuffled = list(made)
    rng.shuffle(shuffled)
    assert counted_claims(shuffled, most) == claims


def test_the_people_of_the_sample() -> None:
    by_user: dict[str, list[Interaction]] = {}
    for interaction in read("history", sample_path()):
        by_user.setdefault(interaction.user, []).append(interaction)
    claims = {user: texts(counted_claims(made)) for user, made in by_user.items()}
    assert all(claims.values())
    assert "writes all in lower case" in claims["hugo"]
    assert "energy drink" not in claims["hugo"]  # given up midway
    assert "salmon" not in claims["ines"]
    assert "“dumplings”" in claims["chen"]
    assert "begins with “Dear”" in claims["grace"]
