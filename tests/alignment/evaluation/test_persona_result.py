"""Means, paired differences and intervals of a case that can be worked out by hand."""

from __future__ import annotations

import math

import pytest
from scipy import stats

from alignment.evaluation.persona_arms import ArmRow
from alignment.evaluation.persona_result import (
    Estimate,
    Stage,
    alignment_of,
    by_luck,
    clustered,
    general_of,
    measured,
    user_gains,
)
from alignment.pooled import PooledEstimate as Judged
from alignment.rewording import HARMFUL, LUCK, Reworded
from personaagent.types import AlignmentResult, Kind, Origin, Outcome, Persona, Usage, utc_now


def text(user: str, item: str, aligned: float, first: float) -> ArmRow:
    values = {("aligned", "alone"): {"nats": aligned}, ("first", "alone"): {"nats": first}}
    return ArmRow(user, item, Kind.TEXT, values)  # type: ignore[arg-type]


def persona(text: str, number: int) -> Persona:
    return Persona(text=text, origin=Origin.INITIAL, number=number, parent=None, time=utc_now())


def test_values_of_a_user_go_together() -> None:
    found = clustered([("ann", 1.0), ("ann", 3.0), ("ben", -1.0), ("ben", float("nan")), ("cem", 1.0)])
    assert found is not None
    assert (found.mean, found.n, found.users) == (1.0, 4, 3)
    # Sums of deviations by user: 2, -2 and 0; sqrt(3/2 * (4 + 4)) / 4.
    assert found.se == pytest.approx(math.sqrt(12) / 4)
    told = found.as_dict()
    half = 4.3027 * math.sqrt(12) / 4  # Student's t with two degrees of freedom
    assert told["low"] == pytest.approx(1.0 - half, abs=1e-3)
    assert told["high"] == pytest.approx(1.0 + half, abs=1e-3)


def test_of_one_user_there_is_no_interval_and_of_nobody_no_mean() -> None:
    found = clustered([("ann", 1.0), ("ann", 2.0)])
    assert found is not None
    assert found.as_dict() == {"mean": 1.5, "se": None, "low": None, "high": None, "n": 2, "users": 1}
    assert clustered([]) is None
    assert clustered([("ann", float("nan"))]) is None


def test_differences_are_paired_by_item() -> None:
    rows = [text("ann", "a", -1.0, -2.0), text("ben", "b", -3.0, -3.5)]
    # Measured under one of the two alone: in its mean, but in no difference.
    rows.append(ArmRow("cem", "c", Kind.TEXT, {("aligned", "alone"): {"nats": -8.0}}))
    cell = measured(rows)["text"]
    assert cell["items"] == 3
    assert cell["means"]["aligned"]["alone"]["nats"]["mean"] == -4.0
    assert cell["means"]["first"]["alone"]["nats"]["n"] == 2
    difference = cell["differences"]["aligned-first"]["alone"]["nats"]
    assert (difference["mean"], difference["n"], difference["se"]) == (0.75, 2, 0.25)
    assert set(cell["differences"]) == {"aligned-first"}


def test_more_is_better_in_what_users_gained() -> None:
    rated = ArmRow(
        "ann",
        "a",
        Kind.RATING,
        {("aligned", "evidence"): {"error": 1.0}, ("first", "evidence"): {"error": 2.0}},
    )
    said = ArmRow("ann", "b", Kind.TEXT, {("aligned", "served"): {"nats": -1.0}, ("first", "served"): {"nats": -2.5}})
    assert user_gains([rated, said]) == {"ann": {"rating": 1.0, "text": 1.5}}


def test_what_alignment_came_to() -> None:
    by = " by +0.031 nats per token (± 0.020) on 4 answers, with 3 other users"
    luck = Reworded(None, LUCK.format(by), refusal=LUCK)
    other = Reworded(None, luck.reason.replace("0.031", "0.002").replace(", with 3 other users", ""), refusal=LUCK)
    harm = Reworded(None, HARMFUL.format(f",{by}"), harm=Judged(-0.4, 0.1, 4, 3), refusal=HARMFUL)
    names = ("ann", "ben", "cem", "dora")
    stage = Stage(
        results=[
            AlignmentResult(user=u, outcome=Outcome.REJECTED, calls=10, prompt_tokens=100, cached_tokens=60)
            for u in names
        ],
        words={"ann": luck, "ben": other, "cem": harm, "dora": Reworded(None, "")},
        spent={u: Usage(calls=4, prompt_tokens=40) for u in names},
        before={u: persona("before", 1) for u in names},
        after={u: persona("after" if u == "dora" else "before", 2) for u in names},
        seconds=8.0,
    )
    told = alignment_of(stage)
    assert told["new_words"] == 1
    assert told["refused"] == {
        "the answers became likelier, which may be luck": 2,
        "right answers to general requests lost against wrong ones": 1,
    }
    assert told["per_user"]["prefilled_tokens"] == 40
    assert told["per_user"]["seconds"] == 2.0
    assert told["per_user"]["calls_for_words"] == 4
    # One of four: 1 - (1 - .0063) ** 4 is .025.
    assert by_luck(stage, 0.05) == {"new_words": 0.25, "low": 0.0063, "high": 0.8059, "promised": 0.05}
    general = general_of(stage, {"ann": -9.0, "dora": -0.1})
    assert general["aligned-first"]["mean"] == -0.1  # of those with new words alone
    assert general["refused"]["mean"] == -0.4


@pytest.mark.parametrize(("renewed", "users"), [(0, 1), (1, 1), (0, 7), (7, 7), (3, 40), (200, 1000)])
def test_the_share_of_luck_has_the_interval_of_scipys_binomial_test(renewed: int, users: int) -> None:
    names = [str(n) for n in range(users)]
    stage = Stage(
        results=[AlignmentResult(user=u, outcome=Outcome.REJECTED) for u in names],
        words={},
        spent={},
        before={u: persona("before", 1) for u in names},
        after={u: persona("after" if int(u) < renewed else "before", 2) for u in names},
        seconds=1.0,
    )
    wanted = stats.binomtest(renewed, users).proportion_ci(0.95, "exact")
    told = by_luck(stage, 0.05)
    assert (told["low"], told["high"]) == (round(wanted.low, 4), round(wanted.high, 4))


@pytest.mark.parametrize("users", [2, 3, 40, 1000])
def test_the_interval_of_a_mean_is_students(users: int) -> None:
    half = stats.t.ppf(0.975, users - 1) * 0.5
    told = Estimate(1.0, 0.5, users, users).as_dict()
    assert (told["low"], told["high"]) == (round(1.0 - half, 4), round(1.0 + half, 4))
