"""The clients of `bench chaos`: over HTTP they chat, give feedback, import, read, set personas, forget, and note what they saw.

Every text that a client writes carries a mark (see `chaos_history`). A call without an answer is often repeated with the same
ids, as careful clients do, and one that forgets is repeated until there is a receipt.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote

import httpx

from serve.bench.chaos_history import Operation, Status
from serve.bench.chaos_record import ENGINE, ROUTER, ChaosAnswer, History, Person, marks_in

__all__ = ["Client"]

QUICK_S, CHAT_S, FORGET_S = 20.0, 45.0, 60.0  # what a client waits for
DELIBERATE = {"X-PersonaAgent": "1"}  # a request without a body says that it means it
ANSWER_TOKENS = 8
RECEIPT_TRIES = 5
TOPICS = ("for dinner", "to read", "to drink", "on Sunday", "to listen to", "for my sister")
DRINKS = ("tea", "coffee", "water")


class Client:
    """One client; it works on any of the people, beside others."""

    def __init__(self, http: httpx.AsyncClient, history: History, people: list[Person], model: str, seed: str) -> None:
        self._http = http
        self._history = history
        self._people = people
        self._model = model
        self._rng = random.Random(seed)
        self._forgetting: set[asyncio.Task[None]] = set()

    async def work(self, over: Callable[[], bool], pause_s: float, chats: bool = True) -> None:
        """Do one thing after the other until it is over; then wait for what was begun. `chats`: also what needs the model."""
        acts = (
            (self.chat, 3 * chats),
            (self.stream, 4 * chats),
            (self.feedback, 3),
            (self.bring, 2),
            (self.export, 2),
            (self.recall, 2),
            (self.persona, 1),
            (self.set_persona, 1),
            (self.forget, 1),
        )
        try:
            while not over():
                act = self._rng.choices([a for a, _ in acts], [weight for _, weight in acts])[0]
                await act(self._rng.choice(self._people))
                await asyncio.sleep(self._rng.uniform(0, 2 * pause_s))
            await asyncio.gather(*self._forgetting)
        finally:
            for task in self._forgetting:
                task.cancel()

    async def chat(self, person: Person) -> None:
        """A turn, and the same one again if nobody said whether it was remembered."""
        await self._turn(person, streamed=False)

    async def stream(self, person: Person) -> None:
        """A streamed turn; now and then the user is forgotten as the first word is there."""
        await self._turn(person, streamed=True)

    async def _turn(self, person: Person, streamed: bool) -> None:
        mark, wanted = self._history.mark(), self._history.mark()
        body = {
            "model": self._model,
            "user": person.name,
            "messages": [{"role": "user", "content": f"What is good {self._rng.choice(TOPICS)}? {mark}"}],
            "max_tokens": ANSWER_TOKENS,
            "stream": streamed,
            "personaagent": {"interaction_id": mark},
        }
        meanwhile = streamed and self._rng.random() < 0.15
        for _ in range(2):
            began = self._history.clock()
            if streamed:
                answer = await self._streamed(body, self._forget_soon(person) if meanwhile else None)
            else:
                answer = await self._send("POST", "/v1/chat/completions", body, CHAT_S)
            needs = {ROUTER, ENGINE, person.part}
            saw = marks_in(answer.text) - {mark}
            self._history.note(
                "stream" if streamed else "chat",
                person.name,
                began,
                answer,
                wrote={mark},
                saw=saw,
                makes=True,
                needs=needs,
            )
            if answer.status is Status.OK:
                person.asked.append((mark, wanted))
            if answer.status is not Status.UNKNOWN or meanwhile or self._rng.random() < 0.5:
                return

    async def feedback(self, person: Person) -> None:
        """What the user really wanted of an earlier turn, which may be forgotten by now."""
        if not person.asked:
            return
        interaction, mark = self._rng.choice(person.asked)
        path = f"{person.path}/interactions/{interaction}/feedback"
        await self._write(
            "feedback", person, "POST", path, {"truth": f"{self._rng.choice(DRINKS)} {mark}"}, {mark}, makes=False
        )

    async def bring(self, person: Person) -> None:
        """Import a few interactions, some with an id of their own and some whose content is their id."""
        marks: set[str] = set()
        items: list[dict[str, Any]] = []
        for n in range(self._rng.randint(1, 4)):
            query, truth = self._history.mark(), self._history.mark()
            item: dict[str, Any] = {"query": f"What shall I have to drink today? {query}", "time": f"2026-01-0{n + 1}"}
            marks.add(query)
            if self._rng.random() < 0.5:
                item["id"] = query
            if self._rng.random() < 0.6:
                item |= {"choices": list(DRINKS), "truth": self._rng.choice(DRINKS)}
            else:
                item["truth"] = f"{self._rng.choice(DRINKS)} {truth}"
                marks.add(truth)
            items.append(item)
        await self._write("import", person, "POST", f"{person.path}/interactions", {"interactions": items}, marks)

    async def set_persona(self, person: Person) -> None:
        """Write a persona by hand."""
        mark = self._history.mark()
        await self._write("persona", person, "PUT", f"{person.path}/persona", {"text": f"Likes {mark}."}, {mark})

    async def _write(
        self, kind: str, person: Person, method: str, path: str, body: Any, marks: set[str], makes: bool = True
    ) -> None:
        for _ in range(2):
            began = self._history.clock()
            answer = await self._send(method, path, body, QUICK_S)
            self._history.note(kind, person.name, began, answer, wrote=marks, makes=makes, needs={ROUTER, person.part})
            if answer.status is not Status.UNKNOWN or self._rng.random() < 0.3:
                return

    async def export(self, person: Person) -> Operation:
        """Everything stored of the user: what a whole look is."""
        began = self._history.clock()
        answer = await self._send("GET", f"{person.path}/export", None, QUICK_S)
        unknown = answer.error == "not_found"
        if unknown:
            answer.status = Status.OK
        saw, doubled = _stored(answer.text) if answer.code == 200 else (set[str](), set[str]())
        return self._history.note(
            "export",
            person.name,
            began,
            answer,
            saw=saw,
            doubled=doubled,
            whole=answer.status is Status.OK,
            exists=not unknown if answer.status is Status.OK else None,
            needs={ROUTER, person.part},
        )

    async def recall(self, person: Person) -> None:
        """Episodes for a request."""
        path = f"{person.path}/memory?k=20&query={quote('What is good ' + self._rng.choice(TOPICS))}"
        await self._read("recall", person, path)

    async def persona(self, person: Person) -> None:
        """All versions of the persona; one who has none yet gets the first."""
        await self._read("versions", person, f"{person.path}/persona/versions", makes=True)

    async def _read(self, kind: str, person: Person, path: str, makes: bool = False) -> None:
        began = self._history.clock()
        answer = await self._send("GET", path, None, QUICK_S)
        exists = True if answer.status is Status.OK else None
        self._history.note(
            kind,
            person.name,
            began,
            answer,
            saw=marks_in(answer.text),
            makes=makes,
            exists=exists,
            needs={ROUTER, person.part},
        )

    async def forget(self, person: Person) -> None:
        """Forget the user, again and again until there is a receipt or nothing to forget."""
        for _ in range(RECEIPT_TRIES):
            began = self._history.clock()
            answer = await self._send("DELETE", person.path, None, FORGET_S)
            unknown = answer.error == "not_found"
            if unknown:
                answer.status = Status.OK
            self._history.note(
                "forget",
                person.name,
                began,
                answer,
                forgets=not unknown,  # work that goes on may still store the first text of somebody unknown: no receipt was given
                whole=unknown,
                exists=False if unknown else None,
                needs={ROUTER, person.part},
            )
            if answer.status is Status.OK:
                return

    async def ask(self, part: str, person: Person) -> None:
        """The least that needs a part."""
        began = self._history.clock()
        if part == ENGINE:
            ask = {"model": self._model, "user": person.name, "max_tokens": 1, "personaagent": {"remember": False}}
            body = {**ask, "messages": [{"role": "user", "content": "hi"}]}
            answer = await self._send("POST", "/v1/chat/completions", body, QUICK_S)
        elif part == ROUTER:
            answer = await self._send("GET", "/healthz", None, QUICK_S)
        else:
            answer = await self._send("GET", f"{person.path}/memory?k=1", None, QUICK_S)
        needs = {ROUTER, part} | ({person.part} if part == ENGINE else set())
        self._history.note("probe", person.name, began, answer, makes=part == ENGINE, needs=needs)

    def _forget_soon(self, person: Person) -> Callable[[], None]:
        def begin() -> None:
            task = asyncio.create_task(self.forget(person))
            self._forgetting.add(task)
            task.add_done_callback(self._forgetting.discard)

        return begin

    # HTTP

    async def _send(self, method: str, path: str, body: Any, timeout_s: float) -> ChaosAnswer:
        answer = ChaosAnswer()
        async with self._sent(answer, timeout_s):
            response = await self._http.request(method, path, json=body, headers=DELIBERATE, timeout=timeout_s)
            answer.code, answer.text = response.status_code, response.text
            answer.judge()
        return answer

    async def _streamed(self, body: Any, at_first: Callable[[], None] | None) -> ChaosAnswer:
        """A streamed chat. Only its finish reason says that it is remembered; an error after that cannot be."""
        answer, finished = ChaosAnswer(), False
        async with (
            self._sent(answer, CHAT_S),
            self._http.stream("POST", "/v1/chat/completions", json=body, timeout=CHAT_S) as response,
        ):
            answer.code = response.status_code
            if answer.code != 200:
                answer.text = (await response.aread()).decode("utf-8", "replace")
                answer.judge()
                return answer
            async for event in _events(response.aiter_lines()):
                if answer.started is None:
                    answer.started = self._history.clock()
                    if at_first is not None:
                        at_first()
                if (error := event.get("error")) is not None:
                    answer.error = str(error.get("code"))
                    if answer.error == "forgotten":
                        answer.status = Status.FAIL
                    return answer
                for choice in event.get("choices") or []:
                    answer.text += choice["delta"].get("content") or ""
                    finished = finished or choice["finish_reason"] is not None
            answer.status = Status.OK if finished else Status.UNKNOWN
        return answer

    @asynccontextmanager
    async def _sent(self, answer: ChaosAnswer, timeout_s: float) -> AsyncIterator[None]:
        """Bounds a call; what went wrong is in the answer."""
        try:
            async with asyncio.timeout(timeout_s):
                yield
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as e:
            answer.status, answer.error = Status.FAIL, type(e).__name__  # nothing was sent
        except (httpx.HTTPError, TimeoutError) as e:
            answer.status, answer.error = Status.UNKNOWN, type(e).__name__


async def _events(lines: AsyncIterator[str]) -> AsyncIterator[dict[str, Any]]:
    async for line in lines:
        if line.startswith("data: ") and line != "data: [DONE]":
            yield json.loads(line.removeprefix("data: "))


def _stored(lines: str) -> tuple[set[str], set[str]]:
    """The marks of an export, and those stored more than once: as a request or as a truth, not quoted in an answer."""
    found = Counter[str]()
    rows = [json.loads(line) for line in lines.splitlines()]
    for row in rows:
        if row["type"] == "interaction":
            found.update(marks_in(f"{row['query']} {row.get('truth')}"))
    return marks_in(lines), {mark for mark, n in found.items() if n > 1}
