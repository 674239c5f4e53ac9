"""What clients do at moments that the seed decides: chat, imports, feedback, personas, profiles, forgetting and reading."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from actors.memory.client import ShardedMemory
from personaagent.errors import NotFoundError
from personaagent.types import Fact, Interaction, Origin, PersonaDraft, Profile, RecallQuery, user_key
from tests.simulation.history import History, Op
from tests.simulation.world import World

__all__ = ["DELETING", "Client", "personas_seen", "profile_seen", "seen"]

START = datetime(2025, 1, 1, tzinfo=UTC)
ALL = 1000
DELETING = 100_000  # clients delete single interactions from this seed on; what smaller ones play stays as it was


def seen(interactions: Any) -> dict[str, tuple[str, str | None, str | None]]:
    """What a read tells of interactions: owner by the text, response and truth, by id; a doubled one is named so."""
    found: dict[str, tuple[str, str | None, str | None]] = {}
    for i in interactions:
        found[f"{i.id} again" if i.id in found else i.id] = (i.query.split()[0], i.response, i.truth)
    return found


def personas_seen(personas: Any) -> list[tuple[int, str]]:
    """Numbers and texts."""
    return [(p.number, p.text) for p in personas]


def profile_seen(profile: Profile) -> tuple[int, tuple[str, ...]]:
    """Version and facts."""
    return profile.version, tuple(f.text for f in profile.facts)


class Client:
    """One client: it calls one generation of the service at a time, and waits for each answer or gives up."""

    def __init__(self, world: World, history: History, name: str, users: list[str]) -> None:
        self.world, self.history, self.name, self.users = world, history, name, users
        self.random = world.kernel.random
        self.generation = 0
        self.patient = False
        self._count = 0
        self._known: dict[str, list[str]] = {user: [] for user in users}  # ids that may be there
        self._queries: dict[str, str] = {}  # by id
        self._exports: dict[str, tuple[str, ...]] = {}
        self._weights: list[tuple[Callable[[str], Awaitable[Any]], int]] = [
            (self.append, 14),
            (self.chat, 10),
            (self.repeat, 8),
            (self.import_many, 7),
            (self.feedback, 10),
            (self.persona, 10),
            (self.profile, 8),
            (self.forget, 5),
            (self.restore, 5),
            (self.latest, 9),
            (self.some, 3),
            (self.recall, 4),
            (self.export, 6),
            (self.personas, 5),
            (self.read_profile, 4),
            (self.listing, 4),
        ]
        if world.seed >= DELETING:
            self._weights.append((self.delete, 10))

    @property
    def memory(self) -> ShardedMemory:
        return self.world.memory(self.generation, self.name)

    async def work(self, until: float) -> None:
        """Call after call."""
        calls, weights = zip(*self._weights, strict=True)
        while self.world.kernel.now < until:
            await asyncio.sleep(self.random.expovariate(1.0))
            self._follow()
            await self.random.choices(calls, weights)[0](self.random.choice(self.users))

    def _follow(self) -> None:
        """Move on to a newer generation, or stay: an upgrade reaches clients one by one."""
        newest = len(self.world.generations) - 1
        alive = {slot.generation for slot in self.world.slots()}
        if self.generation not in alive or self.random.random() < 0.3:
            self.generation = newest if self.random.random() < 0.65 else self.random.choice(sorted(alive))

    async def _do(self, op: Op, call: Awaitable[Any]) -> Any:
        hurried = not self.patient and self.random.random() < 0.1
        async with asyncio.timeout(4.0 if hurried else 90.0):
            op.value = await call
        return op.value

    def _new(self, user: str, truth: bool | None = None) -> Interaction:
        self._count += 1
        name = f"{self.name}-{self._count}"
        long = " " + "é" * 300 if self.random.random() < 0.1 else ""
        self._queries[name] = f"{user} asks {name}{long}"
        return Interaction(
            id=name,
            user=user,
            time=START + timedelta(minutes=self.random.randrange(1000)),
            query=self._queries[name],
            response=f"{user} r{self._count}" if self.random.random() < 0.5 else None,
            truth=f"{user} t{name}" if (self.random.random() < 0.4 if truth is None else truth) else None,
        )

    async def _incarnation(self, user: str) -> int | None:
        """Where forgetting stands, as every door of the product asks before it begins; None if it cannot be had."""
        with self.history.call(self.name, "incarnation", user) as op:
            await self._do(op, self.memory.incarnation(user))
        return op.value if op.outcome == "ok" else None

    # Changes

    async def append(self, user: str) -> None:
        incarnation = await self._incarnation(user)
        if incarnation is None:
            return
        began = self.world.kernel.now
        items = [self._new(user) for _ in range(self.random.choice([1, 1, 2, 3]))]
        await self._append(user, items, began, incarnation)

    async def _append(self, user: str, items: list[Interaction], began: float, incarnation: int | None) -> None:
        self._known[user] += [i.id for i in items if i.id not in self._known[user]]
        with self.history.call(self.name, "append", user, began, rows=seen(items)) as op:
            op.fenced = incarnation is not None
            result = await self._do(op, self.memory.append(user, items, incarnation))
            op.value = str(result)

    async def chat(self, user: str) -> None:
        incarnation = await self._incarnation(user)
        if incarnation is None:
            return
        began = self.world.kernel.now
        await self.recall(user)
        await asyncio.sleep(self.random.choice([0.05, 0.5, 3.0, 15.0]))
        await self._append(user, [self._new(user, truth=False)], began, incarnation)

    async def repeat(self, user: str) -> None:
        """Send again what may be there, now with a truth or a response."""
        mine = [i for i in self._known[user] if i.startswith(f"{self.name}-")]
        if not mine:
            return
        incarnation = await self._incarnation(user)
        if incarnation is None:
            return
        began = self.world.kernel.now
        name = self.random.choice(mine)
        self._count += 1
        again = Interaction(
            id=name,
            user=user,
            time=START,
            query=self._queries[name],
            response=f"{user} r{self._count}" if self.random.random() < 0.6 else None,
            truth=f"{user} t{self.name}-{self._count}" if self.random.random() < 0.4 else None,
        )
        await self._append(user, [again], began, incarnation)

    async def import_many(self, user: str) -> None:
        """Interactions of all users in one call."""
        with self.history.call(self.name, "incarnations", "") as op:
            await self._do(op, self.memory.incarnations())
        if op.outcome != "ok":
            return
        began = self.world.kernel.now
        await asyncio.sleep(self.random.choice([0.0, 0.0, 1.0, 8.0]))
        items = [self._new(other) for other in self.users for _ in range(self.random.choice([0, 1, 2]))]
        if not items:
            return
        numbers = op.value
        for i in items:
            self._known[i.user].append(i.id)
        with self.history.call(
            self.name, "import", "", began, users={i.id: i.user for i in items}, rows=seen(items)
        ) as op:
            result = await self._do(op, self.memory.append_many(items, numbers))
            op.value = {"refused": result.refused, "added": result.added}

    async def feedback(self, user: str) -> None:
        if not self._known[user]:
            return
        incarnation = await self._incarnation(user)
        if incarnation is None:
            return
        began = self.world.kernel.now
        name = self.random.choice(self._known[user][-6:])
        self._count += 1
        truth = f"{user} f{self.name}-{self._count}"
        with self.history.call(self.name, "feedback", user, began, id=name, truth=truth) as op:
            told = await self._do(op, self.memory.feedback(user, name, truth, incarnation))
            op.value = seen([told])

    async def persona(self, user: str) -> None:
        incarnation = await self._incarnation(user)
        if incarnation is None:
            return
        began = self.world.kernel.now
        versions = await self.personas(user)
        if versions is None:
            return
        expected = versions[-1][0] if versions else None
        if self.random.random() < 0.5:
            await asyncio.sleep(self.random.choice([0.01, 0.5, 6.0]))
        self._count += 1
        text = f"{user} p{self.name}-{self._count}"
        draft = PersonaDraft(text=text, origin=Origin.ALIGNED)
        with self.history.call(self.name, "commit_persona", user, began, expected=expected, text=text) as op:
            persona = await self._do(op, self.memory.commit_persona(user, draft, expected, incarnation))
            op.value = (persona.number, persona.text)

    async def profile(self, user: str) -> None:
        incarnation = await self._incarnation(user)
        if incarnation is None:
            return
        began = self.world.kernel.now
        stored = await self.read_profile(user)
        if stored is None:
            return
        if self.random.random() < 0.5:
            await asyncio.sleep(self.random.choice([0.01, 0.5, 6.0]))
        self._count += 1
        text = f"{user} k{self.name}-{self._count}"
        fact = Fact(id=text, text=text, evidence=(), first_seen=START, last_seen=START)
        with self.history.call(self.name, "commit_profile", user, began, expected=stored[0], text=text) as op:
            made = await self._do(op, self.memory.commit_profile(user, Profile(facts=(fact,)), stored[0], incarnation))
            op.value = profile_seen(made)

    async def delete(self, user: str) -> None:
        """Delete interactions that may be there; now and then after thinking about it."""
        if not self._known[user]:
            return
        incarnation = await self._incarnation(user)
        if incarnation is None:
            return
        began = self.world.kernel.now
        if self.random.random() < 0.3:
            await asyncio.sleep(self.random.choice([0.01, 0.5, 6.0]))
        ids = sorted(self.random.sample(self._known[user], min(self.random.choice([1, 1, 2]), len(self._known[user]))))
        with self.history.call(self.name, "delete", user, began, ids=ids) as op:
            await self._do(op, self.memory.delete(user, ids, self.name, incarnation))

    async def forget(self, user: str) -> Op:
        """Forget, and look right after the receipt what the store and its files still have from before."""
        key = user_key(user)
        for _ in range(4):
            with self.history.call(self.name, "forget", user) as op:
                receipt = await self._do(op, self.memory.forget(user, by=self.name))
                left = [s for s in self.world.raw(key) if s.written < op.invoked]
                op.value = {"audit_id": receipt.audit_id, "left": [f"{s.pk[32:]} by {s.by}" for s in left]}
                op.value["remaining"] = receipt.remaining
            if op.outcome == "fail":  # nothing is known of the user, so nothing may be stored either
                left = [s for s in self.world.raw(key) if s.written < op.invoked]
                op.asked["left"] = [f"{s.pk[32:]} by {s.by}" for s in left if s.pk[32:] not in ("/user", "/counts")]
            if op.outcome != "unknown" or self.random.random() < 0.3:
                break
            await asyncio.sleep(self.random.random())
        return op

    async def restore(self, user: str) -> None:
        """Bring back an export of before."""
        lines = self._exports.get(user)
        if lines is None:
            return
        with self.history.call(self.name, "incarnations", "") as op:
            await self._do(op, self.memory.incarnations())
        if op.outcome != "ok":
            return
        began = self.world.kernel.now
        await asyncio.sleep(self.random.choice([0.0, 0.0, 1.0, 8.0]))
        rows, personas, profile = exported(lines)
        with self.history.call(
            self.name, "restore", user, began, rows=rows, personas=personas, profile=profile
        ) as restored:
            await self._do(restored, self.memory.restore(lines, op.value))

    # Reads

    async def latest(self, user: str) -> None:
        with self.history.call(self.name, "latest", user) as op:
            op.value = seen(await self._do(op, self.memory.latest(user, ALL)))

    async def some(self, user: str) -> None:
        if not self._known[user]:
            return
        ids = self.random.sample(self._known[user], min(3, len(self._known[user])))
        with self.history.call(self.name, "interactions", user, ids=ids) as op:
            op.value = seen(await self._do(op, self.memory.interactions(user, ids)))

    async def recall(self, user: str) -> None:
        with self.history.call(self.name, "recall", user) as op:
            query = RecallQuery(text=f"{user} asks", k=ALL)
            recalled = await self._do(op, self.memory.recall(user, query))
            op.value = seen(e.interaction for e in recalled.episodes)

    async def export(self, user: str) -> None:
        """Everything of a user, or nothing of an unknown one."""
        with self.history.call(self.name, "export", user) as op:
            try:
                lines = await self._do(op, self.memory.export(user))
            except NotFoundError:
                lines = ()
            if lines:
                self._exports[user] = lines
            op.value = exported(lines)

    async def personas(self, user: str) -> list[tuple[int, str]] | None:
        with self.history.call(self.name, "personas", user) as op:
            op.value = personas_seen(await self._do(op, self.memory.personas(user)))
        return op.value if op.outcome == "ok" else None

    async def read_profile(self, user: str) -> tuple[int, tuple[str, ...]] | None:
        with self.history.call(self.name, "profile", user) as op:
            op.value = profile_seen(await self._do(op, self.memory.profile(user)))
        return op.value if op.outcome == "ok" else None

    async def listing(self, user: str) -> None:
        with self.history.call(self.name, "users", "") as op:
            found = await self._do(op, self.memory.users())
            op.value = {s.user: (s.interactions, s.persona) for s in found}


def exported(lines: tuple[str, ...]) -> tuple[Any, list[tuple[int, str]], tuple[int, tuple[str, ...]]]:
    """Rows, personas and profile of an export."""
    rows: dict[str, tuple[str, str | None, str | None]] = {}
    personas: list[tuple[int, str]] = []
    profile: tuple[int, tuple[str, ...]] = (0, ())
    for line in lines:
        content = json.loads(line)
        if content["type"] == "interaction":
            name = content["id"]
            told = (content["query"].split()[0], content["response"], content["truth"])
            rows[f"{name} again" if name in rows else name] = told
        elif content["type"] == "persona":
            personas.append((content["number"], content["text"]))
        elif content["type"] == "profile":
            profile = (content["version"], tuple(f["text"] for f in content["facts"]))
    return rows, personas, profile
