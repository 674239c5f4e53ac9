"""What a persona says, judged by the likelihood of what the user really said.

Half of the latest free texts select a candidate, the other half judge it. Both times the cohort's users are the prior
(`alignment.pooled`): with 3 to 8 interactions of one's own, what the same kind of change gains others decides. A
new wording must

- make what the user said clearly likelier than the persona as it is, half with memory as served and half with nothing
  recalled, since the next request may be of a kind that memory knows nothing like; and not less likely as served,
- clearly more so than another user's wording does: what would suit anybody is not a persona, and
- leave general requests alone.

Whatever the cohort gains, a user whose own answers became clearly less likely keeps the words they have.

Clearly means that the gain exceeds the boundary of `anytime`, in standard deviations of its posterior. A user is aligned again as
interactions come, and each time partly on the same ones; a bound for one look would be passed by luck sooner or later. This one
holds for all looks together: if feedback says nothing about the users, the second gain has mean zero, and no more than a share
`luck` of them ever gets new words.
"""

from __future__ import annotations

import math
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from alignment.likelihoods import Likelihoods
from alignment.pooled import Place, PooledEstimate
from alignment.stages import stage
from alignment.wording import BOTH, Wording, Wordings
from personaagent.claims import Claim
from personaagent.persona.general_requests import General, general_for
from personaagent.types import Interaction, Kind, PersonaDraft

__all__ = ["HARM", "HARMFUL", "LUCK", "Reworded", "Rewording", "anytime", "finite", "judged_on", "judges"]

Float = npt.NDArray[np.float64]

LATEST = 12  # interactions that select and judge, together
# Interactions a single claim is measured on; one is enough where other users' claims of the kind are the prior.
ALONE = 3
COHORT = 8  # users from which on that is so
GENERAL = 2  # general requests a user of a cohort is asked, so that the cohort is asked all of them
GENERAL_ALONE = 6  # and one of whom there are few
HARM = 0.25  # nats per token that the answers to general requests may lose against wrong ones

# Why the gate refuses, with a place for the numbers.
UNMEASURED = "none of the user's answers could be measured"
WORSE = "the user's own answers became less likely{}"
LUCK = "the answers became likelier{}, which may be luck"
IMPERSONAL = "better than another user's words{}, which may be luck"
BESIDE = "beside what is recalled the answers became less likely{}"
HARMFUL = "right answers to general requests lost against wrong ones{}"


@dataclass(frozen=True)
class Reworded:
    """How it ended: the new wording, or None and why.

    `gain` is over the persona as it was and `personal` over another user's wording, in nats per token. Where the gate
    refused, `refusal` is which of the reasons above it was, without the numbers. `measured` are the persona's claims with
    what each was seen to be worth by itself.
    """

    wording: Wording | None
    reason: str
    gain: PooledEstimate | None = None
    personal: PooledEstimate | None = None
    harm: PooledEstimate | None = None
    candidates: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    refusal: str = ""
    measured: tuple[Claim, ...] = ()


def judged_on(history: Sequence[Interaction]) -> list[Interaction]:
    """Interactions that a wording is judged on, oldest first: free texts, or choices where there are hardly any."""
    texts = [i for i in history if i.kind is Kind.TEXT and (i.truth or "").strip()]
    if len(texts) >= 2:
        return texts[-LATEST:]
    return [i for i in history if i.kind is Kind.CHOICE and (i.truth or "").strip()][-LATEST:]


def anytime(luck: float, items: int) -> float:
    """How many standard deviations a mean must exceed zero by to be believed, however often it is looked at as items come.

    The one-sided normal mixture boundary of Howard, Ramdas, McAuliffe and Sekhon ("Time-uniform, nonparametric, nonasymptotic
    confidence sequences", 2021), with the mixture's precision that of one item, since there are few. About 2.8 for a `luck` of
    .05, where 1.6 would do for a single look.

    Args:
        luck: probability that a mean of zero ever exceeds it, below .5.
        items: that the mean is of, at least one.
    """
    n = max(1, items)
    return math.sqrt(2 * (1 + 1 / n) * math.log(math.sqrt(1 + n) / (2 * luck) + 1))


def judges(items: Sequence[Interaction]) -> tuple[list[Interaction], list[Interaction]]:
    """Which interactions judge and which select, newest first, as evenly as it goes.

    Drawn by id, so that an interaction that selected on one night does not judge on the next.
    """
    newest = list(reversed(items))
    drawn = sorted(newest, key=lambda i: zlib.crc32(i.id.encode("utf-8", "surrogatepass")))
    side = {i.id: zlib.crc32(f"side {i.id}".encode("utf-8", "surrogatepass")) % 2 for i in drawn}
    held = [i for i in drawn if side[i.id]]
    select = [i for i in drawn if not side[i.id]]
    few, many = sorted((held, select), key=len)
    while len(few) < len(many) - 1:  # with few interactions chance may leave one side empty
        few.append(many.pop())
    judging = {i.id for i in held}
    return [i for i in newest if i.id in judging], [i for i in newest if i.id not in judging]


class Rewording:
    """Looks for better words for one user's persona."""

    def __init__(self, measure: Likelihoods, min_gain: float, luck: float, budget: int) -> None:
        """Args:
        measure: of this user.
        min_gain: smallest gain that counts, nats per token.
        luck: share of users who may ever get new words although feedback says nothing about them.
        budget: length of a persona in tokens.
        """
        self._measure = measure
        self._min_gain = min_gain
        self._luck = luck
        self._budget = budget

    async def run(
        self,
        persona: PersonaDraft,
        wordings: Wordings,
        history: Sequence[Interaction],
        selection: Place,
        gate: Place,
    ) -> Reworded:
        """Select a candidate and let the gate judge it.

        Args:
            persona: as it is.
            wordings: the candidates, a model's edits included.
            history: interactions with truths, oldest first.
            selection: this user's place in the cohort's selection.
            gate: and in its gate.
        """
        user = history[-1].user
        items = judged_on(history)
        if len(items) < 2:
            gate.leave()
            selection.leave()
            return Reworded(None, "too few answers in the user's own words", refused=wordings.refused)
        names = _different(wordings)
        if not names:
            gate.leave()
            await selection.join(user, {}, shared=wordings.candidate(BOTH))
            return Reworded(None, "there is nothing new to say", refused=wordings.refused)
        held, select = judges(items)
        few = select[: 1 if selection.members >= COHORT else ALONE]
        if len(names) == 1:  # nothing to select, so all but those that single claims are measured on can judge
            held = [i for i in items[::-1] if i not in few]
        gains = await self._gains(persona, wordings, names, select) if len(names) > 1 else {}
        alone = await self._alone(persona, wordings, few)
        estimates = await selection.join(user, {**gains, **_by_kind(alone)}, shared=wordings.candidate(BOTH))
        worth = {c.text: selection.estimate(user, f"claim {c.kind}", np.asarray(v)) for c, v in alone}
        count = len(names) + len(worth)
        best = max(gains, key=lambda name: estimates[name].mean, default=names[0])
        if gains and estimates[best].mean <= 0.0:
            gate.leave()
            return Reworded(
                None, "no other wording made the answers likelier", candidates=count, refused=wordings.refused
            )
        caution = anytime(self._luck, len(held))
        # Claims help together more than each alone, so only what is clearly harmful by itself goes.
        dropped = frozenset(text for text, e in worth.items() if e.mean + caution * e.error < 0.0)
        asked = general_for(user, GENERAL if selection.members >= COHORT else GENERAL_ALONE)
        judged = await self._judged(persona, wordings, best, dropped, held, selection.neighbour(user), asked)
        found = await gate.join(user, judged)
        own = {c.text: values for c, values in alone}

        def measured(claims: Sequence[Claim]) -> tuple[Claim, ...]:
            return tuple(_measured(c, worth.get(c.text), own.get(c.text, [])) for c in claims)

        final = wordings.candidate(best, dropped=dropped)
        new = Wording(measured(final.claims), final.exemplars)
        return self._verdict(found, caution, new, count, wordings.refused, measured(wordings.own().claims))

    def _verdict(
        self,
        found: Mapping[str, PooledEstimate],
        caution: float,
        new: Wording,
        candidates: int,
        unusable: Counter[str],
        measured: tuple[Claim, ...],
    ) -> Reworded:
        """The new wording, or why the gate refuses what these estimates say of it."""
        gain = found["gain"]
        result = Reworded(
            None, "", gain, found.get("personal"), found["general"], candidates, unusable, measured=measured
        )
        if (refused := self._refusal(found, caution)) is not None:
            why, numbers = refused
            return replace(result, reason=why.format(numbers), refusal=why)
        exemplars = tuple(e.model_copy(update={"gain": gain.mean, "error": finite(gain.error)}) for e in new.exemplars)
        said = f"what the user said became likelier by {_said(gain)}"
        return replace(result, wording=Wording(new.claims, exemplars), reason=said)

    def _refusal(self, found: Mapping[str, PooledEstimate], caution: float) -> tuple[str, str] | None:
        """Why the gate refuses what these estimates say, and in which numbers; None if it does not."""
        gain, harm, personal, served = found["gain"], found["general"], found.get("personal"), found["served"]
        if not gain.items:
            return UNMEASURED, ""
        if gain.denied:
            return WORSE, f", by {_own(gain)}"
        if not gain.above(self._min_gain, caution):
            return LUCK, f" by {_said(gain)}"
        if personal is not None and (personal.denied or not personal.above(0.0, caution)):
            return IMPERSONAL, f" by {_said(personal)}"
        if served.mean < -served.error or served.denied:
            return BESIDE, f", by {_own(served) if served.denied else _said(served)}"
        # Others' mean must not hide it; but two answers are often that far off by chance, so they must be clearly beyond it.
        if harm.own + harm.own_error < -HARM:
            return HARMFUL, f", by {_own(harm)}"
        return (HARMFUL, f", by {_said(harm)}") if harm.mean < -HARM else None

    @stage("selecting words")
    async def _gains(
        self, persona: PersonaDraft, wordings: Wordings, names: Sequence[str], items: Sequence[Interaction]
    ) -> dict[str, Float]:
        """What each candidate gains over the persona as it is, nats per token of each interaction."""
        makers: list[Callable[[Interaction], Wording]] = [wordings.own, *(_maker(wordings, name) for name in names)]
        pairs = [(self._draft(persona, make(i)), i) for make in makers for i in items]
        logs = (await self._measure.of(pairs) + await self._measure.of(pairs, recall=False)) / 2
        logs = logs.reshape(len(makers), len(items))
        return {name: _known(row - logs[0]) for name, row in zip(names, logs[1:], strict=True)}

    @stage("selecting words")
    async def _alone(
        self, persona: PersonaDraft, wordings: Wordings, few: Sequence[Interaction]
    ) -> list[tuple[Claim, list[float]]]:
        """What each claim gains by itself over no persona, on those of a few interactions it can be counted without."""
        claims = [c for c in wordings.candidate(BOTH).claims if "\n" not in c.text]
        bare = self._draft(persona, Wording())
        pairs, owners = [(bare, i) for i in few], []
        known = [wordings.candidate(BOTH, interaction).content[0] for interaction in few]
        for number, claim in enumerate(claims):
            for at, interaction in enumerate(few):
                if claim.text in known[at]:
                    pairs.append((self._draft(persona, Wording((claim,))), interaction))
                    owners.append((number, at))
        logs = await self._measure.of(pairs, recall=False)
        found: list[list[float]] = [[] for _ in claims]
        for (number, at), value in zip(owners, logs[len(few) :], strict=True):
            if np.isfinite(gain := value - logs[at]):
                found[number].append(float(gain))
        return list(zip(claims, found, strict=True))

    @stage("judging words")
    async def _judged(
        self,
        persona: PersonaDraft,
        wordings: Wordings,
        name: str,
        dropped: frozenset[str],
        items: Sequence[Interaction],
        neighbour: object | None,
        asked: Sequence[General],
    ) -> dict[str, Float]:
        """Gains of the chosen candidate on interactions that selected nothing, and on general requests."""
        new = [self._draft(persona, wordings.candidate(name, i, dropped)) for i in items]
        own = [self._draft(persona, wordings.own(i)) for i in items]
        both = list(zip([*own, *new], [*items, *items], strict=True))
        served = (await self._measure.of(both)).reshape(2, len(items))
        # Whose persona it is shows best where nothing recalled stands beside it.
        theirs = [self._draft(persona, neighbour)] * len(items) if isinstance(neighbour, Wording) else []
        alone = await self._measure.of([*both, *zip(theirs, items, strict=False)], recall=False)
        alone = alone.reshape(-1, len(items))
        gain = (served[1] - served[0] + alone[1] - alone[0]) / 2
        # Whatever was selected, it was selected in the same way: so users who chose differently are each other's prior, too.
        judged = {"gain": _known(gain), "served": _known(served[1] - served[0])}
        if theirs:
            judged["personal"] = _known(alone[1] - alone[2])
        final = self._draft(persona, wordings.candidate(name, dropped=dropped))
        drafts = (self._draft(persona, wordings.own()), final)
        general = await self._measure.general(drafts, asked)
        return {**judged, "general": _known(general[1] - general[0])}

    def _draft(self, persona: PersonaDraft, wording: Wording) -> PersonaDraft:
        return wording.draft(persona, self._budget)


def _different(wordings: Wordings) -> list[str]:
    """Candidates that say something else than the persona and than those before them."""
    seen, names = {wordings.own().content}, []
    for name in wordings.names:
        if (content := wordings.candidate(name).content) not in seen:
            seen.add(content)
            names.append(name)
    return names


def _by_kind(alone: Sequence[tuple[Claim, list[float]]]) -> dict[str, Float]:
    """What single claims gain, all of a kind together."""
    found: dict[str, list[float]] = {}
    for claim, values in alone:
        found.setdefault(f"claim {claim.kind}", []).extend(values)
    return {kind: np.asarray(values) for kind, values in found.items()}


def _maker(wordings: Wordings, name: str) -> Callable[[Interaction], Wording]:
    return lambda interaction: wordings.candidate(name, interaction)


def _known(gains: Float) -> Float:
    return np.asarray(gains[np.isfinite(gains)])


def _said(estimate: PooledEstimate) -> str:
    if not np.isfinite(estimate.error):  # too few of one's own, and nobody else who changed alike
        return f"what {estimate.items} answers alone cannot tell"
    rest = f", with {estimate.users} other users" if estimate.users else ""
    return f"{estimate.mean:+.3f} nats per token (± {estimate.error:.3f}) on {estimate.items} answers{rest}"


def _own(estimate: PooledEstimate) -> str:
    return f"{estimate.own:+.3f} nats per token (± {estimate.own_error:.3f}) on {estimate.items} answers alone"


def finite(value: float) -> float | None:
    """A number as JSON has it: None where nothing is known."""
    return value if np.isfinite(value) else None


def _measured(claim: Claim, estimate: PooledEstimate | None, values: Sequence[float]) -> Claim:
    if estimate is None or not values:
        return claim
    if not np.isfinite(estimate.error):  # seen once or twice, and nothing to compare it with
        return claim.model_copy(update={"gain": float(np.mean(values)), "error": None})
    return claim.model_copy(update={"gain": estimate.mean, "error": estimate.error})
