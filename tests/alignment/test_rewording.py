"""New words are kept for what the user really said, and for nothing else."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import cast

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignment.aligner import Aligner
from alignment.likelihoods import Likelihoods
from alignment.pooled import Place, Pool, PooledEstimate
from alignment.rewording import HARMFUL, Rewording, anytime, judges
from alignment.wording import Wordings
from personaagent.agent.agent import Agent
from personaagent.memory.local import LocalMemory
from personaagent.persona.counting import counted_claims
from personaagent.persona.general_requests import GENERAL
from personaagent.persona.persona import made
from personaagent.prompts import NEW_USER
from personaagent.settings import AgentSettings, AlignmentSettings
from personaagent.types import (
    AlignmentResult,
    Decision,
    Interaction,
    Likelihood,
    LikelihoodRequest,
    Origin,
    Outcome,
    PersonaDraft,
    Usage,
)
from tests.support.doubles import HashEmbedder
from tests.support.fake_llm import FakeLLM

START = datetime(2025, 2, 3, 9, tzinfo=UTC)
THINGS = (
    "the garden",
    "dinner",
    "a train",
    "the flat",
    "the cat",
    "a letter",
    "the match",
    "the boiler",
    "a visit",
    "rain",
)
STYLES = {
    "ann": "hey yes {}, sounds great lol",
    "ben": "Dear friend, I should be delighted about {}. Yours faithfully, Ben",
    "cem": "OK. {}. Fine by me!!! WOW",
    "dora": "hmm {} … maybe later … let me think …",
    "eve": "Thank you so much, my dear, about {} I am very glad. Hugs, Eve",
}


class LikelyLLM(FakeLLM):
    """A model to which an answer is the likelier the more of its words the conversation has; `harm` hurts general answers."""

    def __init__(self, harm: bool = False) -> None:
        super().__init__('{"loss": "", "action": "add", "text": "", "kind": "fact"}')
        self.harm = harm
        self.asked: list[LikelihoodRequest] = []

    async def likelihoods(self, requests: Sequence[LikelihoodRequest]) -> tuple[Likelihood, ...]:
        self.asked += requests
        return tuple(self._one(r) for r in requests)

    def _one(self, request: LikelihoodRequest) -> Likelihood:
        seen = set(re.findall(r"\w+", " ".join(m.text for m in request.messages).casefold()))
        words = re.findall(r"\w+", request.answer.casefold()) or ["?"]
        logprob = sum(-0.5 if w in seen else -3.0 for w in words)
        if self.harm and any(request.answer == g.answer for g in GENERAL):
            logprob = -0.1 * len(words) * len(request.messages)
        return Likelihood(logprob=logprob, tokens=len(words), usage=Usage(calls=1, prompt_tokens=50))


def said(user: str, n: int, style: str) -> Interaction:
    thing = THINGS[n % len(THINGS)]
    return Interaction(
        id=f"{user}-{n}",
        user=user,
        time=START + timedelta(hours=n),
        query=f"Reply about {thing}.",
        truth=style.format(thing),
    )


async def align(
    truths: dict[str, list[str]], llm: LikelyLLM | None = None, **settings: object
) -> tuple[LocalMemory, dict[str, AlignmentResult]]:
    memory, llm, embedder = LocalMemory(HashEmbedder()), llm or LikelyLLM(), HashEmbedder()
    for user, styles in truths.items():
        await memory.append(user, [said(user, n, style) for n, style in enumerate(styles)])
    # What is recalled shows the same manner here, so that nothing would be left to gain.
    agent = Agent(llm, memory, AgentSettings(tools=False, decision=Decision(episodes=0)))
    aligner = Aligner(
        agent, memory, embedder, AlignmentSettings.model_validate({"retry_s": 0, "profile": False, **settings})
    )
    return memory, {r.user: r for r in await aligner.align(list(truths))}


async def test_users_get_their_own_words() -> None:
    memory, results = await align({user: [style] * 8 for user, style in STYLES.items()})
    better = {user for user, r in results.items() if r.outcome is Outcome.ACCEPTED}
    assert len(better) >= 4, results  # one person's first claims may quote all there is to know
    for user in better:
        style = STYLES[user]
        persona = await memory.persona(user)
        assert persona is not None
        assert persona.exemplars
        assert all(e.truth.startswith(style.split(" {")[0][:4]) for e in persona.exemplars)
        assert set(persona.sources) <= {f"{user}-{n}" for n in range(8)}
        assert (results[user].text_gain or 0) > 0


@pytest.mark.slow
async def test_feedback_that_says_nothing_about_a_user_changes_nothing() -> None:
    """Truths dealt to users at random: another user's words do as well, so they are no persona."""
    passed = total = 0
    for seed in range(6):
        rng = random.Random(seed)
        _, results = await align({user: [rng.choice(list(STYLES.values())) for _ in range(8)] for user in STYLES})
        passed += sum(r.outcome is Outcome.ACCEPTED for r in results.values())
        total += len(results)
    assert passed / total <= 0.15


async def test_words_that_spoil_other_answers_are_refused() -> None:
    _, results = await align({user: [style] * 8 for user, style in STYLES.items()}, LikelyLLM(harm=True))
    assert {r.outcome for r in results.values()} == {Outcome.REJECTED}
    assert sum("general requests" in r.reason for r in results.values()) >= 4


async def test_nothing_is_judged_on_what_it_was_made_from() -> None:
    llm = LikelyLLM()
    await align({user: [style] * 8 for user, style in STYLES.items()}, llm)
    for request in llm.asked:
        assert request.answer not in [m.text for m in request.messages if m.role == "assistant"]


class Rising:
    """A measure to which every further wording is better."""

    async def of(self, pairs: Sequence[object], recall: bool = True) -> npt.NDArray[np.float64]:
        return np.arange(len(pairs), dtype=np.float64)

    async def general(self, drafts: Sequence[object], asked: Sequence[object]) -> npt.NDArray[np.float64]:
        return np.zeros((len(drafts), len(asked)))


class Told(Place):
    """A gate that knows already."""

    def __init__(self, found: dict[str, PooledEstimate]) -> None:
        super().__init__(Pool(1))
        self.found = found

    async def join(self, user: str, gains: Mapping[str, object], shared: object = None) -> dict[str, PooledEstimate]:
        return self.found


@pytest.mark.parametrize("denied", [None, "gain", "served", "personal"])
async def test_what_helps_the_others_is_not_forced_on_whom_it_harms(denied: str | None) -> None:
    clear = PooledEstimate(mean=1.0, error=0.01, items=6, users=8, own=1.0, own_error=0.1, freedom=30)
    found = dict.fromkeys(("gain", "served", "personal", "general"), clear)
    if denied is not None:
        found[denied] = replace(clear, own=-1.0)
    history = [said("ann", n, STYLES["ann"]) for n in range(8)]
    persona = PersonaDraft(text=NEW_USER, origin=Origin.INITIAL)
    search = Rewording(cast(Likelihoods, Rising()), 0.0, 0.05, 300)
    ended = await search.run(persona, Wordings(persona, history), history, Pool(1).place(), Told(found))
    assert (ended.wording is None) == (denied is not None), ended.reason
    nothing = {name: replace(e, items=0, own=0.0, own_error=np.inf) for name, e in found.items()}
    ended = await search.run(persona, Wordings(persona, history), history, Pool(1).place(), Told(nothing))
    assert ended.wording is None


@pytest.mark.parametrize("count", [0, 1])
async def test_too_few_answers_are_no_reason(count: int) -> None:
    _, results = await align({"ann": [STYLES["ann"]] * count, "ben": [STYLES["ben"]] * 8})
    assert results["ann"].outcome is Outcome.SKIPPED
    assert results["ben"].outcome in (Outcome.ACCEPTED, Outcome.REJECTED)


async def test_a_budget_that_runs_out_leaves_the_persona_and_the_others() -> None:
    memory, results = await align({user: [style] * 8 for user, style in STYLES.items()}, max_calls=3)
    assert all(r.outcome is not Outcome.FAILED for r in results.values()), results
    assert (await memory.persona("ann")) is not None


@given(st.integers(2, 12), st.text(min_size=1, max_size=6))
def test_who_judges_is_balanced_and_mostly_stays_so(count: int, user: str) -> None:
    """What selected on one night must not judge on the next, or the gate would not be apart from the search."""
    items = [said(user, n, "{}") for n in range(count + 1)]
    held, select = judges(items[:-1])
    assert abs(len(held) - len(select)) <= 1
    assert held
    assert select
    assert sorted(i.id for i in (*held, *select)) == sorted(i.id for i in items[:-1])
    later, _ = judges(items)
    moved = {i.id for i in later} & {i.id for i in select}
    assert len(moved) <= 1


@given(st.integers(1, 40))
def test_the_boundary_is_wider_than_that_of_one_look(items: int) -> None:
    assert 2.5 < anytime(0.05, items) < 3.4
    assert anytime(0.01, items) > anytime(0.05, items)


def test_gains_of_nothing_seldom_pass_however_often_one_looks() -> None:
    rng = np.random.default_rng(0)
    draws = rng.standard_normal((4_000, 40))
    counts = np.arange(1, 41)
    sums = draws.cumsum(axis=1)
    bounds = np.asarray([anytime(0.05, int(n)) for n in counts]) * np.sqrt(counts)
    assert (sums > bounds).any(axis=1).mean() <= 0.05
    assert (sums > 1.645 * np.sqrt(counts)).any(axis=1).mean() > 0.15  # what a bound for one look comes to


async def test_what_claims_are_worth_is_kept_where_the_words_stay() -> None:
    """A refused wording was measured all the same, and people ask what their claims are worth."""
    worse = PooledEstimate(mean=1.0, error=0.01, items=6, users=8, own=-1.0, own_error=0.1, freedom=30)
    found = dict.fromkeys(("gain", "served", "personal", "general"), worse)
    history = [said("ann", n, STYLES["ann"]) for n in range(8)]
    persona = made(counted_claims(history), Decision(), Origin.INITIAL, budget=None)
    search = Rewording(cast(Likelihoods, Rising()), 0.0, 0.05, 300)
    ended = await search.run(persona, Wordings(persona, history), history, Pool(1).place(), Told(found))
    assert ended.wording is None
    assert [c.text for c in ended.measured] == [c.text for c in persona.claims]
    assert any(c.gain is not None for c in ended.measured)


def test_harm_to_one_user_is_not_hidden_by_others() -> None:
    search = Rewording(cast(Likelihoods, None), 0.0, 0.05, 300)
    fine = PooledEstimate(0.5, 0.05, 6, 7, own=0.5, own_error=0.05, freedom=5)
    drowned = PooledEstimate(-0.1, 0.05, 2, 7, own=-1.5, own_error=0.2, freedom=1)
    found = {"gain": fine, "served": fine, "personal": fine, "general": drowned}
    assert (search._refusal(found, 2.8) or ("",))[0] == HARMFUL
    assert search._refusal({**found, "general": fine}, 2.8) is None
    unlucky = replace(drowned, own=-0.4, own_error=0.4)  # two answers, as far off as chance has them
    assert search._refusal({**found, "general": unlucky}, 2.8) is None
