"""A candidate is the same change wherever it is tried, whatever was left out when it was made."""

from __future__ import annotations

import pytest

from alignment.edits import Edit
from alignment.wording import BOTH, Wordings
from personaagent.claims import Claim, ClaimKind
from personaagent.types import Decision, Interaction, Origin, PersonaDraft
from tests.alignment.test_rewording import STYLES, said

TEA = Claim(text="drinks tea", sources=("ann-0", "ann-5"), origin="model", kind=ClaimKind.FACT)
CAT = Claim(text="has a cat", sources=("ann-1",), origin="model", kind=ClaimKind.FACT)
DOG = Claim(text="has a dog", sources=("ann-2", "ann-6"), origin="model", kind=ClaimKind.FACT)


def wordings(claims: tuple[Claim, ...], others: tuple[str, ...] = ()) -> tuple[Wordings, list[Interaction]]:
    history = [said("ann", n, STYLES["ann"]) for n in range(8)]
    persona = PersonaDraft(text="- some", origin=Origin.ALIGNED, decision=Decision(), claims=claims)
    return Wordings(persona, history, others), history


@pytest.mark.parametrize("action", ["strike", "replace"])
@pytest.mark.parametrize("target", [TEA, CAT, DOG])
def test_an_edit_changes_one_claim_whatever_its_number_is(action: str, target: Claim) -> None:
    """Without an interaction some claims are missing, and those behind them have other numbers."""
    made, history = wordings((CAT, TEA, DOG))
    listed = [c.text for c in made.candidate(BOTH).claims]
    new = "" if action == "strike" else "has a parrot"
    name = made.edit(Edit.model_validate({"action": action, "number": listed.index(target.text) + 1, "text": new}))
    for without in (None, *history):
        before = {c.text for c in made.candidate(BOTH, without).claims}
        after = {c.text for c in made.candidate(name, without).claims}
        assert after == (before - {target.text}) | ({new} if new else set())


def test_a_user_with_the_name_of_a_plain_word_takes_nobody_elses_claims_away() -> None:
    plain, _ = wordings(())
    for name in ("writes", "often", "messages", "words"):
        made, _ = wordings((), (name,))
        assert made.candidate(BOTH).claims == plain.candidate(BOTH).claims
        assert not made.refused
