"""What is too large to be stored, by the settings of `memory.limits`, and what to say about it.

Sizes are bytes of UTF-8: of texts as they are, of everything else as the JSON that is stored. Every door comes through here,
because changes are planned with these functions; a door that knows where an item stands may ask before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from personaagent.errors import TooLarge
from personaagent.memory.store import dump_json, pack
from personaagent.settings import LimitsSettings
from personaagent.types import Interaction, Persona, PersonaDraft

__all__ = [
    "KB",
    "MB",
    "check_interactions",
    "check_question",
    "chunks",
    "interaction_fault",
    "persona_bytes",
    "persona_fault",
    "rough_bytes",
    "text_bytes",
    "user_fault",
]

KB, MB = 1_000, 1_000_000
ENVELOPE = 2_500  # bytes: user, id, time and metadata of a turn, at most


def text_bytes(text: str) -> int:
    """Length in UTF-8."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def interaction_fault(interaction: Interaction, limits: LimitsSettings, payload: bytes | None = None) -> str:
    """Why an interaction is too large, or nothing. `payload`: what is stored of it, if that is known."""
    for name in ("query", "response", "truth"):
        text: str | None = getattr(interaction, name)
        if text is not None and (fault := _fault(name, text_bytes(text), "text_kb", limits.text_kb)):
            return fault
    if fault := _choices_fault(interaction.choices or (), limits):
        return fault
    if interaction.metadata:
        size = text_bytes(dump_json(interaction.metadata))
        if fault := _fault("metadata", size, "metadata_kb", limits.metadata_kb):
            return fault
    size = len(pack(interaction) if payload is None else payload)
    return _fault("it", size, "interaction_kb", limits.interaction_kb)


def user_fault(size: int, limits: LimitsSettings) -> str:
    """Why a user whose interactions take so many bytes has too many, or nothing."""
    if size <= limits.user_mb * MB:
        return ""
    return f"with it the user's interactions take {size:,} bytes; memory.limits.user_mb allows {round(limits.user_mb * MB):,}"


def persona_fault(draft: PersonaDraft, limits: LimitsSettings) -> str:
    """Why a persona is too large, or nothing."""
    size = persona_bytes(draft)
    return _fault("the persona with its claims and exemplars", size, "persona_kb", limits.persona_kb)


def persona_bytes(persona: PersonaDraft) -> int:
    """Length of what is stored of a persona."""
    content = persona.plain() if isinstance(persona, Persona) else persona.model_dump(mode="json")
    return text_bytes(dump_json(content))


def check_interactions(interactions: Sequence[Interaction], limits: LimitsSettings) -> None:
    """Raises TooLarge if one of a request's interactions is too large, and says which one."""
    for number, interaction in enumerate(interactions):
        if fault := interaction_fault(interaction, limits):
            raise TooLarge(f"interactions.{number}: {fault}")


def check_question(query: str, choices: Sequence[str], limits: LimitsSettings) -> None:
    """Raises TooLarge if what is asked, and the options, are more than can be remembered."""
    size = text_bytes(dump_json([query, *choices]))
    if fault := (
        _fault("the question", text_bytes(query), "text_kb", limits.text_kb)
        or _choices_fault(choices, limits)
        or _fault("the question with its choices", size + ENVELOPE, "interaction_kb", limits.interaction_kb)
    ):
        raise TooLarge(fault)


def chunks(
    items: Sequence[Interaction], count: int, most: int, size: Callable[[Interaction], int] | None = None
) -> Iterator[Sequence[Interaction]]:
    """Interactions in slices of at most `count` and, but for single ones that are larger, `most` bytes."""
    measure = size or rough_bytes
    first = taken = 0
    for n, item in enumerate(items):
        more = measure(item)
        if n > first and (n - first == count or taken + more > most):
            yield items[first:n]
            first, taken = n, 0
        taken += more
    if first < len(items):
        yield items[first:]


def rough_bytes(interaction: Interaction) -> int:
    """About how many bytes an interaction takes on its way."""
    texts = (interaction.query, interaction.response, interaction.truth, *(interaction.choices or ()))
    metadata = text_bytes(dump_json(interaction.metadata)) if interaction.metadata else 0
    return 200 + metadata + sum(text_bytes(text) for text in texts if text is not None)


def _choices_fault(choices: Sequence[str], limits: LimitsSettings) -> str:
    sizes = [text_bytes(choice) for choice in choices]
    longest = max(sizes, default=0)
    return _fault("an option", longest, "text_kb", limits.text_kb) or _fault(
        "the choices", sum(sizes), "choices_kb", limits.choices_kb
    )


def _fault(what: str, size: int, setting: str, limit: float) -> str:
    allowed = round(limit * KB)
    if size <= allowed:
        return ""
    have = "have" if what == "the choices" else "has"
    return f"{what} {have} {size:,} bytes; memory.limits.{setting} allows {allowed:,}"
