"""The versions of users' personas: the first one, and what people do with them.

Each method is one use case, whoever asks for it; the API and the command line only translate. A change is a new version over
the one that was read (compare-and-set), and none is lost. A user who is forgotten meanwhile gets none, even if they come back:
where forgetting stands is asked before anything is read.
"""

from __future__ import annotations

from collections.abc import Callable

from pydantic import ValidationError

from personaagent.claims import ClaimKind
from personaagent.errors import ConflictError, ForgottenError, InvalidInput, NotFoundError, UnknownUserError
from personaagent.persona.first import first_draft, foreseen
from personaagent.persona.persona import add, again, pin_claim, strike, written
from personaagent.persona.profile import build_profile
from personaagent.protocols import Embedder, Memory
from personaagent.settings import AgentSettings
from personaagent.types import Decision, Origin, Persona, PersonaDraft, PersonaPage

__all__ = ["PersonaVersions"]


class PersonaVersions:
    """Reads and changes personas of any user; it keeps no state of its own.

    Every change raises, beside what its method names: ConflictError if somebody else's change was first, ForgottenError if the
    user was forgotten meanwhile, and StoreError or UnavailableError if memory cannot write.
    """

    def __init__(self, memory: Memory, settings: AgentSettings, embedder: Embedder | None = None) -> None:
        """Args:
        memory: of all users.
        settings: how a first persona is made, and how memory enters the answers of one written by hand.
        embedder: lets the first persona of a user with a history be made from it.
        """
        self._memory = memory
        self._settings = settings
        self._embedder = embedder

    # The first one

    async def ensured(self, user: str, incarnation: int | None = None) -> Persona:
        """The current version; the first one is made from what counting and the profile find, and committed.

        `incarnation` is that of longer work that this is part of, see `Memory`. Raises ForgottenError.
        """
        if incarnation is None:
            incarnation = await self._memory.incarnation(user)
        persona = await self._memory.persona(user)
        return persona if persona is not None else await self._begun(user, incarnation)

    async def first(self, user: str, incarnation: int, commit: bool) -> PersonaDraft:
        """The persona that a user without one gets. `commit`: whether the profile that it takes is stored, if there was none."""
        profile = await self._memory.profile(user)
        if profile.version == 0 and self._embedder is not None:
            try:  # without the model, so that a first turn does not wait for it
                built = await build_profile(
                    self._memory, self._embedder, user, pages=1, incarnation=incarnation, commit=commit
                )
                profile = built.profile
            except ForgottenError:
                raise
            except ConflictError:  # another replica was first
                profile = await self._memory.profile(user)
        return await first_draft(self._memory, user, profile, self._settings)

    # Looking

    async def current(self, user: str, incarnation: int | None = None) -> Persona:
        """The current version of a user who must be there. One who was imported but never spoken to gets their first one.

        `incarnation`: as in `ensured`. Raises UnknownUserError.
        """
        if incarnation is None:  # before the look: one who is forgotten right after it gets no persona
            incarnation = await self._memory.incarnation(user)
        persona = await self._memory.persona(user)
        if persona is not None:
            return persona
        await self._check_known(user)
        return await self._begun(user, incarnation)

    async def shown(self, user: str) -> Persona:
        """The current version. Of a user without one, the version that they would start with; nothing is stored.

        Raises UnknownUserError.
        """
        return await self._memory.persona(user) or await self._foreseen(user)

    async def page(self, user: str, before: int | None, limit: int) -> PersonaPage:
        """The newest versions before number `before` (None: of all), oldest first; see `Memory.persona_page`.

        Of a user without any, the version that they would start with; nothing is stored. Raises UnknownUserError.
        """
        page = await self._memory.persona_page(user, before, limit)
        return page if page.versions or before is not None else PersonaPage(versions=(await self._foreseen(user),))

    # Changing

    async def write(
        self,
        user: str,
        text: str,
        decision: Decision | None = None,
        pinned: bool | None = None,
        expected: int | None = None,
    ) -> Persona:
        """Write a version by hand, as one claim. A new user starts with it. Exemplars and struck claims stay.

        Args:
            user: whose.
            text: all of it.
            decision: how memory enters the answers; None: as before, or as the settings say.
            pinned: whether alignment must leave it alone; None: as before.
            expected: number of the version that it must replace; 0: there must be none yet; None: whichever is current.

        Raises:
            InvalidInput: the text may not stand in a persona (`safety.danger`), is too long or no valid Unicode.
        """
        incarnation = await self._memory.incarnation(user)
        old = await self._memory.persona(user)
        how = decision or (old.decision if old else self._settings.decision)
        try:
            draft = written(text, how, old, (old is not None and old.pinned) if pinned is None else pinned)
        except ValidationError as e:
            raise InvalidInput(f"persona: {e.errors()[0]['msg'].removeprefix('Value error, ')}") from e
        if expected is None:
            expected = old.number if old else None
        return await self._memory.commit_persona(user, draft, expected or None, incarnation)

    async def roll_back(self, user: str, number: int) -> Persona:
        """Make the claims, exemplars and decision of an older version current again, as a new version.

        Raises UnknownUserError, or NotFoundError if there is no such version or its texts are gone.
        """
        incarnation = await self._memory.incarnation(user)
        now = await self.current(user, incarnation)
        old = await self._memory.persona(user, number)
        if old is None:
            raise NotFoundError(f"persona version {number} does not exist; there are 1 to {now.number}")
        draft = again(old, Origin.ROLLBACK, now.pinned, now.struck)
        return await self._memory.commit_persona(user, draft, now.number, incarnation)

    async def pin(self, user: str, pinned: bool) -> Persona:
        """Protect the persona from alignment, or allow it again. A change is a new version. Raises UnknownUserError."""

        def change(now: Persona) -> PersonaDraft:
            return now if now.pinned == pinned else again(now, Origin.MANUAL, pinned)

        return await self._amend(user, None, change)

    async def add_claim(self, user: str, text: str, kind: ClaimKind, expected: int | None = None) -> Persona:
        """Say something of the user. It stays until a person takes it away.

        `expected`: the version that is meant, whose claims have the numbers people name; None: whichever is current.
        Raises UnknownUserError, or as `persona.add`; ConflictError for another version than expected.
        """
        return await self._amend(user, expected, lambda now: add(now, text, kind))

    async def strike_claim(self, user: str, number: int, expected: int | None = None) -> Persona:
        """Take a claim away; alignment does not propose it again. `expected` and errors: as `add_claim`, `persona.strike`."""
        return await self._amend(user, expected, lambda now: strike(now, number))

    async def pin_claim(self, user: str, number: int, pinned: bool, expected: int | None = None) -> Persona:
        """Protect a claim from alignment, or allow it again. `expected` and errors: as `add_claim`, `persona.pin_claim`."""
        return await self._amend(user, expected, lambda now: pin_claim(now, number, pinned))

    # Within

    async def _amend(self, user: str, expected: int | None, change: Callable[[Persona], PersonaDraft]) -> Persona:
        """Commit what `change` makes of the current version; nothing, if that is the version itself."""
        incarnation = await self._memory.incarnation(user)
        now = await self.current(user, incarnation)
        if expected is not None and expected != now.number:  # numbers of claims are those of a version
            raise ConflictError(f"the persona is at version {now.number}, not {expected}; read it again")
        draft = change(now)
        return now if draft is now else await self._memory.commit_persona(user, draft, now.number, incarnation)

    async def _begun(self, user: str, incarnation: int) -> Persona:
        """Commit the first version of a user without one."""
        draft = await self.first(user, incarnation, commit=True)
        try:
            return await self._memory.commit_persona(user, draft, None, incarnation)
        except ForgottenError:
            raise
        except ConflictError:  # another replica was first
            persona = await self._memory.persona(user)
            if persona is None:
                raise
            return persona

    async def _foreseen(self, user: str) -> Persona:
        persona = await foreseen(self._memory, user, self._settings)
        await self._check_known(user)  # after the look: of one who is forgotten meanwhile there is nothing to show
        return persona

    async def _check_known(self, user: str) -> None:
        if await self._memory.summary(user) is None:
            raise UnknownUserError("this user is unknown")
