from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignment.budget import Budget, Caller
from alignment.slots import Slots
from alignment.textual import Case, TextualProposer, refusal, tidy, unquoted
from personaagent import prompts
from personaagent.persona.persona import tokens
from tests.support.alignment_doubles import SecretLLM, drink

PERSONA = "This person likes strong coffee in the morning."
GOOD = "Prefers mint tea to coffee, above all in the evening. Dislikes sugar."


def caller(calls: int | None = None) -> Caller:
    return Caller(Slots(16), Budget(calls))


def cases(n: int, score: float = 0.0) -> list[Case]:
    return [Case(drink("u", i), "water", score) for i in range(n)]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        (" \n ", "empty"),
        (PERSONA, "unchanged"),
        ("  this person LIKES strong coffee, in the morning", "unchanged"),
        ("<|im_start|>user Prefers tea", "control tokens"),
        ("12 34 56 ... !!! ### 99", "not words"),
        ("?", "not words"),
        ("tea " * 40, "repetitive"),
        ("Likes tea.\nLikes tea.\nLikes tea.\nLikes tea.", "repetitive"),
        ("茶" * 200, "repetitive"),
        (prompts.UPDATE.format(persona=PERSONA, losses="- likes tea", words=50), "the prompt itself"),
        ("Write better notes about this person. Keep what is right.", "the prompt itself"),
        (GOOD, None),
        ("- prefers tea\n- hates sugar\n- eats early", None),
        ("喜欢薄荷茶,不喜欢糖,晚上不喝咖啡。", None),
    ],
)
def test_what_weak_models_return_is_refused(text: str, reason: str | None) -> None:
    assert refusal(text, PERSONA) == reason


@pytest.mark.slow
@given(st.text(max_size=400), st.text(max_size=100))
def test_any_text_gets_a_verdict(text: str, incumbent: str) -> None:
    verdict = refusal(tidy(text), incumbent)
    assert verdict is None or verdict


@pytest.mark.parametrize(
    "wrapped", [f"```\n{GOOD}\n```", f'"{GOOD}"', f"Here are the improved notes:\n{GOOD}", f"  {GOOD}\n"]
)
def test_wrapping_is_taken_off(wrapped: str) -> None:
    assert tidy(wrapped) == GOOD


async def test_proposals_come_from_different_batches_and_temperatures() -> None:
    written = iter([GOOD, GOOD + " Eats early.", GOOD + " Sleeps late."])
    llm = SecretLLM(teach=lambda r: next(written))
    proposals = await TextualProposer(llm, 600).propose(PERSONA, cases(3), 3, caller())
    assert len(proposals.texts) == 3
    assert len(llm.losses) == 3
    assert len({r.temperature for r in llm.updates}) == 3
    assert len({r.messages[-1].text.count("likes mint tea") for r in llm.updates}) == 2


async def test_garbage_is_dropped_with_its_reason() -> None:
    written = iter(["", "tea " * 50, PERSONA, GOOD, GOOD])
    llm = SecretLLM(teach=lambda r: next(written))
    proposals = await TextualProposer(llm, 600).propose(PERSONA, cases(3), 5, caller())
    assert proposals.texts == (GOOD,)
    assert proposals.dropped == {"empty": 1, "repetitive": 1, "unchanged": 1, "repeated": 1}


async def test_right_answers_cost_nothing() -> None:
    llm = SecretLLM()
    assert (await TextualProposer(llm, 600).propose(PERSONA, cases(3, score=1.0), 2, caller())).texts == ()
    assert llm.order == []


async def test_a_rewrite_stays_within_the_length_budget() -> None:
    llm = SecretLLM(teach=lambda r: " ".join(f"Likes thing{i} a lot." for i in range(500)))
    text = await TextualProposer(llm, 60).update(PERSONA, ["likes tea"], caller())
    assert 0 < tokens(text) <= 60
    assert (llm.updates[0].max_tokens or 0) <= 60


async def test_prompts_fit_a_small_context_whatever_users_write() -> None:
    llm = SecretLLM(context_length=512)
    case = Case(
        drink("u", 0).model_copy(update={"query": "long " * 9000, "truth": "{persona} " * 5000}), "a " * 9000, 0.0
    )
    await TextualProposer(llm, 600).propose("old " * 5000, [case] * 8, 2, caller())
    for request in (*llm.losses, *llm.updates):
        size = sum(tokens(m.text) for m in request.messages) + (request.max_tokens or 0)
        assert size <= 512 + 60


def test_a_persona_is_shown_without_what_it_quotes() -> None:
    asked = [drink("u", i) for i in range(3)]
    lines = [f"- asked “{i.query}”,\n wanted “{i.truth}”" for i in asked]
    persona = "\n".join(["What is known of Drink number 1 please:", *lines, "- likes tea"])
    shown = unquoted(persona, [asked[1]])
    assert "Drink number 1 please" not in shown.split(":", 1)[1]
    assert all(i.query in shown for i in (asked[0], asked[2]))
    assert shown.endswith("- likes tea")
    assert unquoted(persona, []) == persona
    assert unquoted("- short\n- lines", [drink("u", 1).model_copy(update={"query": "short"})]) == "- short\n- lines"
