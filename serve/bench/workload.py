"""Load for benchmarks: made-up users, and deterministic stand-ins for model and embedder that only generate load.

Nothing here is a model, and no quality is measured on it: it exists to show what the machinery itself costs.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import random
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta

import numpy as np

from alignment.splits import window
from personaagent.evidence.commons import Population
from personaagent.memory.forwarding import ForwardingMemory
from personaagent.memory.local import LocalMemory
from personaagent.protocols import Embedder, Matrix, Memory
from personaagent.settings import AlignmentSettings
from personaagent.types import (
    ChatRequest,
    ChatResult,
    Interaction,
    Likelihood,
    LikelihoodRequest,
    Usage,
    UserSummary,
    user_key,
)

__all__ = ["MadeUpMemory", "ScriptedEmbedder", "ScriptedEngine", "made_up_length", "made_up_name", "made_up_user"]

_SUBJECTS: dict[str, tuple[str, ...]] = {
    "a drink for the morning": ("black coffee", "green tea", "orange juice", "oat latte", "lemon water"),
    "something to read tonight": (
        "a crime novel",
        "a history of Rome",
        "poems",
        "a travel diary",
        "a science magazine",
    ),
    "dinner for two": ("mushroom risotto", "fish tacos", "lentil curry", "roast chicken", "a green salad"),
    "music while I work": ("slow jazz", "piano sonatas", "electronic beats", "film scores", "silence"),
    "a walk on Sunday": ("along the river", "up the hill", "through the old town", "in the forest", "by the sea"),
    "a gift for a friend": ("a plant", "a cookbook", "concert tickets", "handmade soap", "a board game"),
    "a way to get to town": ("by bike", "by tram", "on foot", "by car", "by train"),
    "a film for the evening": ("a comedy", "a thriller", "a documentary", "an old western", "an animated film"),
}
_FRAMES = (
    "Choose {subject} for me, please.",
    "What would you suggest: {subject}?",
    "I would like {subject}. Which one?",
    "Find {subject} that suits me.",
)
_FREE = (
    "Tell a friend in a line what to bring me when it comes to {subject}.",
    "Write one sentence about me and {subject}.",
)
_MANNERS = (  # of one's own, so that there is something to learn from free texts but what is wanted
    "For {subject} it is {wanted}, as always.",
    "hey, {wanted} for sure!! thx, see you :)",
    "Dear friend, I should be delighted if it were {wanted}. With warm regards",
    "{wanted}. Nothing else, please.",
    "hmm... {wanted}, i think... or whatever you like...",
)
FREE_EVERY = 4  # one request in so many is answered in free text, as alignment meets it beside closed choices
_START = datetime(2024, 1, 1, tzinfo=UTC)


def made_up_name(number: int) -> str:
    """The id of a made-up user."""
    return f"bench-{number:06d}"


def made_up_length(settings: AlignmentSettings) -> int:
    """Interactions that give every part of alignment its full work: closed choices alone fill a split, and a third as many
    free texts (at least two) judge words."""
    closed = window(settings.batch, settings.held_out)
    return max(2 * FREE_EVERY, closed + (closed - 1) // (FREE_EVERY - 1))


def made_up_user(number: int, interactions: int) -> list[Interaction]:
    """The history of one user, three in four times by a lasting taste, else by whim.

    Three in four requests are closed choices among four options, the others free text, in the user's manner of writing.
    """
    rng = random.Random(number)
    user = made_up_name(number)
    manner = _MANNERS[number % len(_MANNERS)]
    taste = {subject: rng.choice(options) for subject, options in _SUBJECTS.items()}
    history = []
    for n in range(interactions):
        subject = rng.choice(list(_SUBJECTS))
        liked = taste[subject]
        options = [liked, *rng.sample([o for o in _SUBJECTS[subject] if o != liked], 3)]
        rng.shuffle(options)
        wanted = liked if rng.random() < 0.75 else rng.choice(options)
        free = n % FREE_EVERY == FREE_EVERY - 1
        history.append(
            Interaction(
                id=f"{user}-{n}",
                user=user,
                time=_START + timedelta(hours=n),
                query=rng.choice(_FREE if free else _FRAMES).format(subject=subject),
                choices=None if free else tuple(options),
                truth=manner.format(subject=subject, wanted=wanted) if free else wanted,
            )
        )
    return history


class ScriptedEngine:
    """A load generator in the place of a model: answers are made from a digest of the request, at once."""

    context_length = 8192

    async def chat(self, request: ChatRequest) -> ChatResult:
        """Made-up log-probabilities for closed choices, a made-up sentence otherwise."""
        await asyncio.sleep(0)  # a call to a model always lets others run
        rng = random.Random(_digest("\n".join(m.text for m in request.messages) + f"{request.seed}"))
        size = sum(len(m.text) for m in request.messages) // 4
        if request.choices:
            first = tuple((c, -3.0 * rng.random()) for c in request.choices)
            return ChatResult(text=request.choices[0], usage=_usage(size, 1), first_logprobs=first)
        liked = [rng.choice(_SUBJECTS[s]) for s in rng.sample(list(_SUBJECTS), 3)]
        text = f"This person is fond of {liked[0]} and {liked[1]}, and settles for {liked[2]} on a weekday."
        return ChatResult(text=text, usage=_usage(size, len(text) // 4), message={"role": "assistant", "content": text})

    async def likelihoods(self, requests: Sequence[LikelihoodRequest]) -> tuple[Likelihood, ...]:
        """Of unigrams: words that the conversation has are likelier than others."""
        await asyncio.sleep(0)
        return tuple(_unigrams(" ".join(m.text for m in r.messages).split(), r.answer.split()) for r in requests)

    async def stream(self, request: ChatRequest) -> AsyncIterator[str | ChatResult]:
        """The answer as one piece."""
        result = await self.chat(request)
        yield result.text
        yield result


class ScriptedEmbedder:
    """Unit vectors drawn from a digest of each text, with the shape of real ones."""

    def __init__(self, dim: int = 384) -> None:
        self._dim = dim

    async def embed(self, texts: Sequence[str]) -> Matrix:
        """See `Embedder`."""
        rows = [np.random.default_rng(_digest(t)).standard_normal(self._dim, dtype=np.float32) for t in texts]
        matrix = np.asarray(rows, dtype=np.float32).reshape(len(rows), self._dim)
        return np.asarray(matrix / np.maximum(np.linalg.norm(matrix, axis=1, keepdims=True), 1e-9), dtype=np.float32)


class MadeUpMemory(ForwardingMemory):
    """Memory of made-up users, each invented when first asked for, and forgotten when many others came since.

    It stands in for the memory shards, so that what is measured is alignment. It can be sent to other processes.
    """

    def __init__(self, interactions: int, embedder: Embedder, keep: int = 512) -> None:
        """`interactions` of each user; `keep`: users held, at least as many as are aligned at a time."""
        super().__init__(LocalMemory(embedder))  # which stays empty: made-up users have nothing in common
        self._interactions = interactions
        self._embedder = embedder
        self._keep = keep
        self._users: OrderedDict[str, LocalMemory] = OrderedDict()

    async def _behind(self, user: str) -> tuple[Memory, str]:
        if user not in self._users:
            memory = LocalMemory(self._embedder)
            await memory.append(user, made_up_user(int(user.removeprefix("bench-")), self._interactions))
            self._users.setdefault(user, memory)
            if len(self._users) > self._keep:
                self._users.popitem(last=False)
        self._users.move_to_end(user)
        return self._users[user], user

    async def users(self, after: str = "", limit: int | None = None) -> tuple[UserSummary, ...]:
        """Of the users held at the moment."""
        held = sorted((user for user in list(self._users) if user_key(user) > after), key=user_key)[:limit]
        found = [await self._users[user].summary(user) for user in held]
        return tuple(s for s in found if s is not None)

    async def commit_population(self, population: Population) -> None:
        """Nothing is kept."""


def _unigrams(before: list[str], answer: list[str]) -> Likelihood:
    """Word counts, and one more for each of ten thousand words there might be; the end is one of these."""
    among = len(before) + 10_000
    logprob = sum(math.log((before.count(word) + 1) / among) for word in [*answer, ""])
    return Likelihood(logprob=logprob, tokens=len(answer) + 1, usage=_usage(len(before) + len(answer) + 1, 0))


def _usage(prompt: int, completion: int) -> Usage:
    return Usage(calls=1, prompt_tokens=prompt, completion_tokens=completion)


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")
