"""Choosing among samples of an answer the one that the persona makes likelier, and that copies nothing.

score(y) = [log p(y | prompt) - log p(y | the same prompt without persona, exemplars and recall)] / tokens of y

This is the pointwise mutual information of answer and persona, and the objective of contrastive decoding (Li et al. 2022,
arXiv:2210.15097) over whole answers instead of tokens. What Li et al. do per token by a plausibility mask, here the samples do:
each was drawn from p(y | prompt).
The likeliest answer given somebody's old texts is one of these texts, so samples that copy are set aside first.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from personaagent.agent.copying import Copy, Said, copied
from personaagent.aio import together
from personaagent.base import Frozen
from personaagent.errors import ContextLengthExceeded, InvalidInput
from personaagent.protocols import LLM, Likely, likely
from personaagent.types import ChatRequest, ChatResult, LikelihoodRequest, Message, Usage

__all__ = ["MAX_SAMPLES", "SampleSetting", "Samples", "best_of", "checked_samples"]

log = logging.getLogger(__name__)

MAX_SAMPLES = 16
TEMPERATURE = 0.7  # of samples, where the request says none: below 1, since small models lose the thread there
UNTOLD = "the model's server does not tell likelihoods, so one answer was made instead of {count}"
TOO_LONG = "conversation and answer are too long to be compared, so the first answer was taken"


class Samples(Frozen):
    """How an answer was chosen.

    `count` answers were looked at, and `set_aside` of them copied where others did not. `gain` is the chosen one's score in
    nats per token; None if there was nothing to choose. `note` says why it was not done as asked for.
    """

    count: int = 1
    set_aside: int = 0
    gain: float | None = None
    note: str | None = None


@dataclass(frozen=True, slots=True)
class SampleSetting:
    """What answers are compared against: the prompt without the user, what the user said before, what may be repeated."""

    bare: tuple[Message, ...]
    said: Sequence[Said]
    allowed: Sequence[str]


def checked_samples(llm: LLM, asked: int | None, default: int, whole_text: bool) -> Samples:
    """How many samples an answer is chosen from, and a note if that is fewer than the settings say.

    Args:
        llm: the model.
        asked: for by the request; None: what the settings say.
        default: of the settings.
        whole_text: whether the answer is free text, not streamed and without the application's tools or constraints.

    Raises:
        InvalidInput: the request asks for several, and that is not possible.
    """
    count = default if asked is None else asked
    if count == 1:
        return Samples()
    if not whole_text:
        if asked is None:  # the settings are about free text
            return Samples()
        raise InvalidInput(
            "personaagent.samples: only free text is chosen among samples, neither streamed nor with choices, tools or a "
            "response format"
        )
    if likely(llm) is not None:
        return Samples(count=count)
    if asked is not None:
        raise InvalidInput("personaagent.samples: the model's server does not tell likelihoods, by which one is chosen")
    return Samples(note=UNTOLD.format(count=count))


async def best_of(llm: LLM, request: ChatRequest, count: int, against: SampleSetting) -> tuple[ChatResult, Samples]:
    """The best of several answers to one request, with the usage of all; or the first one's call of a memory tool.

    The first is what one answer alone would have been, so that it can only be replaced by a better one. They share their
    prompt, which the engine's prefix cache reads once. The first error, and cancellation, end all calls.

    Args:
        llm: a model that tells likelihoods.
        request: what one answer would be asked for with.
        count: answers, at least two.
        against: what they are compared against.

    Raises:
        ContextLengthExceeded, LLMError, UnavailableError: as `LLM.chat`.
    """
    model = likely(llm)
    if model is None:
        raise InvalidInput("this model does not tell likelihoods")
    results = await together(llm.chat(_sample(request, number)) for number in range(count))
    usage = sum((r.usage for r in results), Usage())
    answers: dict[str, ChatResult] = {}
    for result in results:
        if result.text.strip():
            answers.setdefault(result.text.strip(), result)
    if not answers:
        return results[0].model_copy(update={"usage": usage}), Samples(count=count)
    copies = {text: copied(text, against.said, against.allowed) for text in answers}
    kept = _least_copied(copies)
    aside = sum(r.text.strip() in copies and r.text.strip() not in kept for r in results)
    chosen, gain, note = kept[0], None, None
    if len(kept) > 1:
        try:
            gains, spent = await _gains(model, kept, request, against.bare)
        except ContextLengthExceeded:  # an answer that just fits has no room for its end
            note = TOO_LONG
        else:
            usage = usage + spent
            gain = max(gains)
            chosen = kept[gains.index(gain)]
    found = Samples(count=count, set_aside=aside, gain=gain, note=note)
    return answers[chosen].model_copy(update={"usage": usage}), found


def _sample(request: ChatRequest, number: int) -> ChatRequest:
    if number == 0:
        return request
    return request.model_copy(
        update={
            "temperature": request.temperature or TEMPERATURE,
            "seed": None if request.seed is None else request.seed + number,  # or all would be the same
        }
    )


def _least_copied(copies: dict[str, Copy]) -> list[str]:
    """The answers that copy nothing; where all do, those that copy least. In their order."""
    faults = {text: (len(c.names), c.words) if c.fault else (0, 0) for text, c in copies.items()}
    least = min(faults.values())
    return [text for text, fault in faults.items() if fault == least]


async def _gains(
    model: Likely, answers: Sequence[str], request: ChatRequest, bare: tuple[Message, ...]
) -> tuple[list[float], Usage]:
    """Nats per token that the persona adds to each answer, and what asking for it took."""
    asked = [
        LikelihoodRequest(messages=messages, answer=answer, priority=request.priority)
        for messages in (request.messages, bare)
        for answer in answers
    ]
    found = await model.likelihoods(asked)
    shown, alone = found[: len(answers)], found[len(answers) :]
    gains = [(a.logprob - b.logprob) / max(1, a.tokens) for a, b in zip(shown, alone, strict=True)]
    return gains, sum((f.usage for f in found), Usage())
