"""What memory says about closed requests, asked through the index as serving asks it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from personaagent.evidence.commons import BINS, SIZE, Commons, Population, packed, places
from personaagent.memory.changes import option_texts
from personaagent.memory.index import EpisodeIndex
from personaagent.memory.store import Row, half, microseconds, pack, quantised
from personaagent.types import Decision, Interaction, Kind, RecallQuery, choice_kind
from tests.support.doubles import HashEmbedder

EMBEDDER = HashEmbedder(dim=48)
START = datetime(2025, 1, 1, tzinfo=UTC)
GRADES = ("1", "2", "3", "4", "5")
DRINKS = ("green tea", "black coffee", "orange juice")

Asked = tuple[str, str, Sequence[str] | None]  # query, truth, choices


def row(n: int, asked: Asked, vectors: bool = True) -> Row:
    query, truth, choices = asked
    interaction = Interaction(
        id=f"i{n}",
        user="u",
        time=START + timedelta(minutes=n),
        query=query,
        truth=truth,
        choices=None if choices is None else tuple(choices),
    )
    options = option_texts(interaction) if vectors else ()
    return Row(
        user="u",
        id=interaction.id,
        time=microseconds(interaction.time),
        arrived=n + 1,
        truth_arrived=n + 1,
        payload=pack(interaction),
        query_vector=EMBEDDER.encode([query])[0],
        truth_vector=half(EMBEDDER.encode([truth])[0]),
        option_vectors=quantised(EMBEDDER.encode(options)) if options else None,
    )


def remember(*history: Asked, vectors: bool = True) -> EpisodeIndex:
    index = EpisodeIndex(48)
    for n, asked in enumerate(history):
        index.put(row(n, asked, vectors))
    return index


def ask(
    index: EpisodeIndex,
    query: str,
    choices: Sequence[str],
    decision: Decision | None = None,
    commons: Commons | None = None,
    **more: object,
) -> dict[str, float]:
    """Each option's probability."""
    wanted = RecallQuery(text=query, k=0, choices=tuple(choices), decisions=(decision or Decision(),), **more)
    vectors = EMBEDDER.encode(choices if choice_kind(choices) is Kind.CHOICE else [])
    found = index.recall(wanted, EMBEDDER.encode([query])[0], vectors, commons)
    p = np.exp(found.evidence[0])
    assert p.sum() == pytest.approx(1)
    assert (p > 0).all()
    return dict(zip(choices, p.tolist(), strict=True))


def best(probabilities: dict[str, float]) -> str:
    return max(probabilities, key=lambda option: probabilities[option])


# Choices


def test_who_knows_nothing_says_nothing() -> None:
    assert ask(EpisodeIndex(48), "what shall I drink", DRINKS) == pytest.approx(dict.fromkeys(DRINKS, 1 / 3))
    assert ask(EpisodeIndex(48), "how loud", GRADES) == pytest.approx(dict.fromkeys(GRADES, 1 / 5))


def test_what_was_chosen_is_likelier_and_what_was_refused_less_likely() -> None:
    index = remember(("what shall I drink", "green tea", ("green tea", "black coffee")))
    p = ask(index, "what shall I drink", DRINKS)
    assert p["green tea"] > p["orange juice"] > p["black coffee"]


def test_one_answer_says_less_than_five() -> None:
    once = remember(("what shall I drink", "green tea", DRINKS))
    often = remember(*[(f"what shall I drink at {n}", "green tea", DRINKS) for n in range(5)])
    asked = "what would I like to drink"
    assert 1 / 3 < ask(once, asked, DRINKS)["green tea"] < ask(often, asked, DRINKS)["green tea"] < 1


def test_the_newest_word_on_a_subject_wins() -> None:
    index = remember(
        ("what shall I drink", "green tea", DRINKS),
        ("which shoes", "boots", ("boots", "sandals")),
        ("what shall I drink", "black coffee", DRINKS),
    )
    assert best(ask(index, "what shall I drink", DRINKS)) == "black coffee"


def test_a_new_wish_known_by_likeness_beats_the_old_one_known_by_name() -> None:
    """Who changed their mind about one request is not offered the old favourite where something like the new one is there."""
    wishes = {"after the run": "cold water", "with the cake": "black coffee", "at breakfast": "orange juice"}
    options = (*wishes.values(), "apple cider")
    before = [(f"a drink {when}", wish, options) for _ in range(3) for when, wish in wishes.items()]
    index = remember(*before, ("a drink with the cake", "hot green tea", (*options, "hot green tea")))
    asked = ("black coffee", "iced green tea", "orange juice")
    assert best(ask(index, "a drink with the cake", asked)) == "iced green tea"
    assert best(ask(index, "a drink at breakfast", asked)) == "orange juice"


def test_a_request_settled_once_long_ago_stays_settled() -> None:
    fruit = ("ripe pear", "sour plum", "dried fig", "sweet melon")
    others = [(f"item {n} for the {n % 7} shelf", fruit[n % 4], fruit) for n in range(120)]
    index = remember(("feeling drowsy bring me something", "black coffee", DRINKS), *others)
    assert best(ask(index, "bring me something, feeling rather drowsy", DRINKS)) == "black coffee"


def test_tastes_carry_over_to_options_never_seen() -> None:
    """A user who always takes what is red takes the red one of new things too: it is learned from what was refused."""
    rng = random.Random(3)
    things = ["scarf", "lamp", "chair", "bag", "mug", "pen", "hat", "bike", "tent", "coat"]
    history = []
    for n in range(24):
        thing = rng.choice(things[:6])
        offers = [f"red {thing}", f"blue {thing}", f"grey {thing}"]
        rng.shuffle(offers)
        history.append((f"which {thing} number {n}", f"red {thing}", offers))
    p = ask(remember(*history), "which tent", ("grey tent", "blue tent", "red tent"))
    assert best(p) == "red tent"
    assert p["red tent"] > 0.6


def test_what_depends_on_the_request_is_told_apart() -> None:
    history = []
    for n in range(16):
        history.append((f"weekday lunch at the desk {n}", "small salad", ("small salad", "large pizza")))
        history.append((f"sunday dinner with everybody {n}", "large pizza", ("small salad", "large pizza")))
    index = remember(*history)
    assert best(ask(index, "weekday lunch at the desk", ("large pizza", "small salad"))) == "small salad"
    assert best(ask(index, "sunday dinner with everybody", ("large pizza", "small salad"))) == "large pizza"


def test_what_was_said_freely_counts_where_it_is_on_offer() -> None:
    index = remember(("what shall I drink", "black coffee", None), ("write to Sam", "Dear Sam, see you soon.", None))
    assert best(ask(index, "what shall I drink", DRINKS)) == "black coffee"


def test_a_truth_that_was_not_on_offer_is_preferred_to_what_was() -> None:
    index = remember(("what shall I drink", "orange juice", ("green tea", "black coffee")))
    assert best(ask(index, "what shall I drink", DRINKS)) == "orange juice"


def test_somebody_who_chooses_at_random_is_not_believed() -> None:
    """Never worse than knowing nothing, beyond chance: the mean log score over 40 random answers is near log(1/3)."""
    rng = random.Random(5)
    logs = []
    for user in range(8):
        history = [(f"pick a drink number {n}", rng.choice(DRINKS), DRINKS) for n in range(40 + user)]
        index = remember(*history)
        logs += [np.log(ask(index, f"pick a drink number {50 + n}", DRINKS)[rng.choice(DRINKS)]) for n in range(5)]
    assert np.mean(logs) > np.log(1 / 3) - 0.35


def test_a_user_who_changes_often_forgets_faster() -> None:
    history = [(f"what shall I drink at {n}", "green tea", DRINKS) for n in range(12)]
    history += [(f"what shall I drink at {n}", "black coffee", DRINKS) for n in range(12, 15)]
    index = remember(*history)
    asked = "what shall I drink at 99"
    never, often = (ask(index, asked, DRINKS, Decision(change=c))["black coffee"] for c in (0.0, 10.0))
    assert often > never


def test_stronger_tastes_are_surer() -> None:
    index = remember(*[(f"drink {n}", "green tea", DRINKS) for n in range(3)])
    weak, strong = (ask(index, "drink 9", DRINKS, Decision(prior_scale=s))["green tea"] for s in (0.1, 4.0))
    assert strong > weak


def test_memories_of_an_older_version_have_no_vectors_of_what_was_refused() -> None:
    index = remember(*[(f"drink {n}", "green tea", DRINKS) for n in range(3)], vectors=False)
    assert best(ask(index, "drink 9", DRINKS)) == "green tea"
    mixed = remember(*[(f"drink {n}", "green tea", DRINKS) for n in range(3)], vectors=False)
    mixed.put(row(3, ("drink 3", "green tea", DRINKS)))
    assert best(ask(mixed, "drink 9", DRINKS)) == "green tea"


def test_a_replay_sees_only_what_came_before() -> None:
    index = remember(
        ("what shall I drink", "green tea", DRINKS),
        ("what shall I drink", "black coffee", DRINKS),
        ("what shall I drink", "black coffee", DRINKS),
    )
    now = ask(index, "what shall I drink", DRINKS)
    assert best(now) == "black coffee"
    before = ask(index, "what shall I drink", DRINKS, before="i1")
    alone = ask(remember(("what shall I drink", "green tea", DRINKS)), "what shall I drink", DRINKS)
    assert before == pytest.approx(alone)
    assert ask(index, "what shall I drink", DRINKS) == pytest.approx(now)  # nothing of the replay is kept


def test_feedback_that_comes_late_is_learned() -> None:
    index = remember(("what shall I drink", "green tea", DRINKS))
    told = row(1, ("what shall I drink", "black coffee", DRINKS))
    asked = Interaction(**{**told.interaction.model_dump(), "truth": None})
    index.put(replace(told, payload=pack(asked), truth_vector=None, truth_arrived=0))
    assert best(ask(index, "what shall I drink", DRINKS)) == "green tea"
    index.put(told)
    assert best(ask(index, "what shall I drink", DRINKS)) == "black coffee"


@pytest.mark.slow
def test_more_is_remembered_than_is_looked_at() -> None:
    """Among thousands of choices the few that bear on a request are found."""
    fruit = ("ripe pear", "sour plum", "dried fig", "sweet melon")
    rng = random.Random(1)
    others = [(f"shelf {rng.randrange(900)} needs item {n}", rng.choice(fruit), fruit) for n in range(2_000)]
    index = remember(*others[:1_000], ("thirsty after running", "orange juice", DRINKS), *others[1_000:])
    assert best(ask(index, "very thirsty after running", DRINKS)) == "orange juice"


# Anything goes in, a distribution comes out

TEXTS = st.one_of(
    st.sampled_from(
        ["tea", "Tea ", "ＴＥＡ", "café", "café", "ชาเขียว", "ชาดำ", "绿茶", "红茶", "شاي", "🍵", "1,5", "a, b, c", "-"]
    ),
    st.text(min_size=1, max_size=12).filter(lambda t: t.isprintable()),
)
OFFERS = st.lists(TEXTS, min_size=2, max_size=6, unique=True).filter(lambda c: choice_kind(c) is Kind.CHOICE)


@pytest.mark.slow
@settings(max_examples=120, deadline=None)
@given(st.lists(st.tuples(TEXTS, OFFERS, st.integers(0, 9)), max_size=14), OFFERS, TEXTS, st.randoms())
def test_any_history_gives_a_distribution_whatever_the_order_of_options(
    history: list[tuple[str, list[str], int]], offered: list[str], query: str, rng: random.Random
) -> None:
    index = remember(*[(q, c[n] if n < len(c) else "something else", c) for q, c, n in history])
    p = ask(index, query, offered)
    mixed = list(offered)
    rng.shuffle(mixed)
    assert ask(index, query, mixed) == pytest.approx({o: p[o] for o in mixed}, abs=2e-3)


@pytest.mark.parametrize("count", [2, 12, 13, 100])
def test_any_number_of_options(count: int) -> None:
    options = [f"model {n}, {'red' if n % 3 == 0 else 'blue'}" for n in range(count)]
    index = remember(*[(f"which car {n}", options[0], options) for n in range(30)])
    p = ask(index, "which car", options)
    assert best(p) == options[0]
    assert ask(index, "which car", [o.upper() for o in options])[options[0].upper()] > 1 / count


def test_options_that_look_alike_are_as_likely() -> None:
    index = remember(("what shall I drink", "green tea", DRINKS))
    p = ask(index, "what shall I drink", ("Green  tea", "green tea", "black coffee"))
    assert p["Green  tea"] == pytest.approx(p["green tea"], abs=1e-3)


@pytest.mark.parametrize("n", [1, 3, 60])
def test_contradictions_and_constant_answers_end_well(n: int) -> None:
    constant = remember(*[("the same request", "green tea", DRINKS)] * n)
    assert best(ask(constant, "the same request", DRINKS)) == "green tea"
    torn = remember(*[("the same request", DRINKS[k % 2], DRINKS) for k in range(2 * n)])
    p = ask(torn, "the same request", DRINKS)
    assert min(p["green tea"], p["black coffee"]) > p["orange juice"]


# Ratings


def test_a_rating_follows_what_similar_things_were_rated() -> None:
    history = []
    for n in range(12):
        history.append((f"rate the loud concert {n}", "1", GRADES))
        history.append((f"rate the quiet museum {n}", "5", GRADES))
    index = remember(*history)
    assert ask(index, "rate the quiet museum tonight", GRADES)["5"] > 0.5
    assert ask(index, "rate the loud concert tonight", GRADES)["1"] > 0.5


def test_a_user_has_their_own_scale() -> None:
    generous = remember(*[(f"rate book {n}", ("4", "5")[n % 2], GRADES) for n in range(20)])
    p = ask(generous, "rate the new album", GRADES)
    assert p["4"] + p["5"] > 0.75


def test_grades_of_another_scale_are_compared_by_their_place_on_it() -> None:
    index = remember(*[(f"rate the quiet museum {n}", "10", ("0", "5", "10")) for n in range(6)])
    assert best(ask(index, "rate the quiet museum", GRADES)) == "5"


@pytest.mark.slow
@settings(max_examples=80, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["a film", "a song", "ein Buch"]), st.sampled_from([*GRADES, "7", "x"])), max_size=12
    ),
    st.lists(st.integers(-5, 40), min_size=2, max_size=6, unique=True),
)
def test_any_ratings_give_a_distribution(history: list[tuple[str, str]], grades: list[int]) -> None:
    index = remember(*[(q, truth, GRADES) for q, truth in history])
    ask(index, "a film", [str(g) for g in grades])
    ask(index, "a film", [*(str(g) for g in grades), f"{grades[0]}.0"])  # the same grade in two forms


# What people have in common


def commons(**weights: float) -> Commons:
    table = np.zeros(SIZE)
    for text, weight in weights.items():
        table[places(text)[0][0]] = weight  # of the text's first word
    grades = tuple(np.eye(BINS)[-1].tolist())
    return Commons(Population(users=9, time=START, choices=packed(table), ratings=packed(table), grades=grades))


def test_somebody_new_starts_from_what_people_have_in_common_and_leaves_it() -> None:
    shared = commons(coffee=2.0)
    assert best(ask(EpisodeIndex(48), "what shall I drink", DRINKS, commons=shared)) == "black coffee"
    own = remember(*[(f"what shall I drink at {n}", "green tea", DRINKS) for n in range(6)])
    assert best(ask(own, "what shall I drink", DRINKS, commons=shared)) == "green tea"
    p = ask(EpisodeIndex(48), "rate the coffee", GRADES, commons=shared)
    assert best(p) == "5"


def test_what_was_learned_from_other_features_is_not_used() -> None:
    table = np.full(SIZE, 3.0)
    old = Commons(Population(features=0, users=9, time=START, choices=packed(table), ratings=packed(table)))
    assert ask(EpisodeIndex(48), "what shall I drink", DRINKS, commons=old) == pytest.approx(
        dict.fromkeys(DRINKS, 1 / 3)
    )
