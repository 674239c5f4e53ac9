"""Closed choices made from two sources: the model's option scores and the evidence of memory.

Both are distributions over the options, and the answer is their product: p(o) ~ p_memory(o) * p_LM(o | prompt) ^ weight, a
product of experts (Hinton, 2002), so that whoever knows little says little. How the model's option scores are had in one
call is here too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from personaagent.protocols import LLM
from personaagent.types import ChatRequest, Frozen, Kind, Message, Usage, choice_kind

__all__ = ["Choice", "OptionScores", "combined", "decide", "median_grade", "score_options"]

DEEPER = 2  # calls behind the first that tell options apart which begin alike
FLOOR = -30.0  # log-probability of an option the model gave no mass at all

Float = npt.NDArray[np.float64]


class Choice(Frozen):
    """The option taken, every option's probability and, for ratings, the expected value on the scale."""

    answer: str
    probabilities: dict[str, float]
    expected: float | None = None


class OptionScores(Frozen):
    """log p_LM of each option, normalised over the options, and what they cost."""

    logprobs: tuple[float, ...]
    usage: Usage


def decide(
    choices: Sequence[str],
    lm: Sequence[float] | None,
    evidence: Sequence[float] | None,
    weight: float,
) -> Choice:
    """Combine model and memory into one choice.

    The answer to a rating is the median of the combined distribution, which has the smallest expected absolute error; its
    mean is reported beside it.

    Args:
        choices: the m options, in the request's order; ties go to the earlier one.
        lm: log p_LM of each option, or None to leave the model out.
        evidence: log p_memory of each option, or None if memory is left out; the model's weight is 1 then.
        weight: of the model.
    """
    p = combined(lm, None if evidence is None else np.asarray([evidence], dtype=float), weight, len(choices))[0]
    probabilities = {choice: float(x) for choice, x in zip(choices, p, strict=True)}
    if choice_kind(choices) is not Kind.RATING:
        return Choice(answer=choices[int(np.argmax(p))], probabilities=probabilities)
    values = np.asarray([float(c) for c in choices])
    answer = choices[int(median_grade(p[None, :], values)[0])]
    return Choice(answer=answer, probabilities=probabilities, expected=float(p @ values))


def combined(lm: Sequence[float] | None, evidence: Float | None, weight: float, options: int) -> Float:
    """Distributions of model and memory together, one for each row of evidence, (d, m), each summing to 1.

    Args:
        lm: log p_LM, (m,), or None.
        evidence: log p_memory, (d, m), or None; a single row then.
        weight: of the model; 1 without evidence.
        options: m.
    """
    total = np.zeros((1, options)) if evidence is None else np.asarray(evidence, dtype=float)
    if lm is not None:
        total = total + (1.0 if evidence is None else weight) * np.asarray(lm, dtype=float)
    p = np.exp(total - total.max(axis=1, keepdims=True))
    return np.asarray(p / p.sum(axis=1, keepdims=True))


def median_grade(p: Float, values: Float) -> npt.NDArray[np.intp]:
    """Which grade is the median of each distribution, (d,), given (d, m) probabilities and the m grades' values."""
    order = np.argsort(values, kind="stable")
    upto = np.cumsum(p[:, order], axis=1)
    return np.asarray(order[np.argmax(upto >= 0.5 - 1e-9, axis=1)])


async def score_options(llm: LLM, messages: Sequence[Message], choices: Sequence[str], priority: int) -> OptionScores:
    """The model's log-probability of each option, from choice-constrained generation.

    At the first position the engine's log-probabilities are normalised over the tokens that the options allow, so one
    call of one token tells options apart that begin differently, and it uses the prefix cache. A token that several
    options allow ("b" for "black coffee" and "black tea") is shared among them evenly, then another call after their
    common beginning divides the share by what the model says there; names of tools may need one more ("mail_read_new").
    """
    logprobs = [0.0] * len(choices)
    group, prefix, mass, usage = list(range(len(choices))), "", 0.0, Usage()
    for _ in range(1 + DEEPER):
        names = [choices[i] for i in group]
        first, more = await _first_position(llm, messages, names, prefix, priority)
        usage = usage + more
        refined, ambiguous = _attribute(names, first, prefix)
        for i, value in zip(group, refined, strict=True):
            logprobs[i] = mass + value
        group = [group[i] for i in ambiguous]
        if not group:
            break
        mass = _logsumexp([logprobs[i] for i in group])
        longer = _common_prefix([choices[i] for i in group])
        if len(longer) <= len(prefix) or not longer.strip() or not all(len(choices[i]) > len(longer) for i in group):
            break
        prefix = longer
    return OptionScores(logprobs=tuple(logprobs), usage=usage)


async def _first_position(
    llm: LLM, messages: Sequence[Message], choices: Sequence[str], prefix: str, priority: int
) -> tuple[tuple[tuple[str, float], ...], Usage]:
    if prefix:
        messages = [*messages, Message(role="assistant", content=prefix)]
    result = await llm.chat(
        ChatRequest(
            messages=tuple(messages),
            max_tokens=1,
            choices=tuple(c[len(prefix) :] for c in choices),
            top_logprobs=min(100, 5 * len(choices)),  # each option begins with a few partial tokens
            continue_final=bool(prefix),
            priority=priority,
        )
    )
    return result.first_logprobs, result.usage


def _attribute(
    choices: Sequence[str], first: Sequence[tuple[str, float]], prefix: str
) -> tuple[list[float], list[int]]:
    """Log-probability per option, normalised, and the largest group of options that shared a token's mass."""
    mass = [0.0] * len(choices)
    groups: dict[tuple[int, ...], float] = {}
    rests = [c[len(prefix) :] for c in choices]
    for token, logprob in first:
        fits = tuple(i for i, rest in enumerate(rests) if token and (rest.startswith(token) or token == rest))
        if not fits or logprob < -100:
            continue
        p = math.exp(logprob)
        for i in fits:
            mass[i] += p / len(fits)
        if len(fits) > 1:
            groups[fits] = groups.get(fits, 0.0) + p
    total = sum(mass)
    if total <= 0:
        return [-math.log(len(choices))] * len(choices), []
    # An option outside the reported top tokens is no likelier than the least likely one reported.
    floor = max(FLOOR, min(logprob for _, logprob in first if logprob > -100))
    logprobs = [math.log(m / total) if m > 0 else floor for m in mass]
    shared = max(groups, key=lambda g: groups[g]) if groups else ()
    return logprobs, list(shared) if shared and groups[shared] > 0.05 else []


def _common_prefix(texts: Sequence[str]) -> str:
    low, high = min(texts), max(texts)
    size = next((i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), min(len(low), len(high)))
    prefix = low[:size]
    # Cut at a word boundary: a prompt that ends inside a word is tokenised unlike anything the model has seen.
    if " " in prefix:
        return prefix[: prefix.rfind(" ")]
    return prefix[: max(prefix.rfind("_"), prefix.rfind("-")) + 1]  # names of tools; a server's all begin with its own


def _logsumexp(values: Sequence[float]) -> float:
    top = max(values)
    return top + math.log(sum(math.exp(v - top) for v in values))
