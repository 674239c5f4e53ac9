"""Redaction on the way to the shards: before anything is embedded, sent or stored."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import replace

from personaagent.memory.export import Exported
from personaagent.memory.privacy import Redactor, redacted_persona, redacted_profile
from personaagent.types import Interaction

__all__ = ["Redaction"]


class Redaction:
    """`personaagent.memory.privacy.Redactor`, or nothing if it is not enabled.

    Made when first used, in a thread, and once per process: it takes seconds to load, and does not travel.
    """

    def __init__(self, enabled: bool) -> None:
        self.enabled = enabled
        self._redactor: Redactor | None = None
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type[Redaction], tuple[bool]]:
        """Arrives elsewhere without what it loaded."""
        return Redaction, (self.enabled,)

    async def ready(self) -> None:
        """Load what is needed. Raises InvalidInput if the `privacy` extra is not installed."""
        if self.enabled:
            await asyncio.to_thread(self._loaded)

    async def interactions(self, interactions: Sequence[Interaction]) -> Sequence[Interaction]:
        """The interactions with their texts redacted; metadata and choices stay as they are."""
        if not self.enabled:
            return interactions
        return await asyncio.to_thread(lambda: [self._loaded().interaction(i) for i in interactions])

    async def exported(self, exported: Exported) -> Exported:
        """An export with the texts of interactions, personas and profile redacted."""
        if not self.enabled:
            return exported
        interactions = tuple(await self.interactions(exported.interactions))

        def rest() -> Exported:
            redact, profile = self._loaded().text, exported.profile
            return replace(
                exported,
                interactions=interactions,
                personas=tuple(redacted_persona(p, redact) for p in exported.personas or ()),
                profile=None if profile is None else redacted_profile(profile, redact),
            )

        return await asyncio.to_thread(rest)

    async def truth(self, about: Interaction, truth: str) -> str:
        """What feedback on an interaction says, redacted. One of its choices stays as it is, or it would match none."""
        if not self.enabled or about.choices is not None:
            return truth
        return await asyncio.to_thread(lambda: self._loaded().text(truth))

    def _loaded(self) -> Redactor:
        with self._lock:
            if self._redactor is None:
                self._redactor = Redactor()
            return self._redactor
