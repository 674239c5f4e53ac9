"""A model in plain Python and a memory shard on Milvus Lite are given the same calls, with crashes in between."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
import uuid
from collections.abc import Coroutine
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from actors.memory.shard import MemoryShard
from actors.memory.wire import Batch
from actors.milvus.open import ShardConfig
from personaagent.errors import ConflictError, NotFoundError
from personaagent.memory.changes import embed_interactions, option_texts, same_question
from personaagent.memory.export import parse_export
from personaagent.memory.store import quantised
from personaagent.settings import MemorySettings
from personaagent.types import Fact, Interaction, Origin, Persona, PersonaDraft, Profile, RecallQuery
from tests.support.doubles import HashEmbedder

EXAMPLES = int(os.environ.get("PERSONAAGENT_EXAMPLES", "12"))
START = datetime(2024, 5, 1, tzinfo=UTC)
EMBEDDER = HashEmbedder(8)
T = TypeVar("T")

texts = st.one_of(
    st.sampled_from(['" or 1==1', "\\", "\x00", "🫖", "\u202eabc", "a\nb", "user_key", "", "é" * 40_000]),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=30),
)
user_ids = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12) | st.sampled_from(
    ['ann" or 1==1 or "', "ann\\", "ann\x00", "ann'", "🫖" * 10]
)
options = st.sampled_from(
    [("tea", "coffee"), ("coffee", "tea", "é"), ("1", "2"), tuple(f"option {n}" for n in range(20))]
)
ids = st.sampled_from(["1", "2", 'x" in y', "\x00", "é"])


@dataclass
class Model:
    rows: dict[str, Interaction] = field(default_factory=dict)
    personas: list[Persona] = field(default_factory=list)
    profile: Profile = field(default_factory=Profile)

    @property
    def exists(self) -> bool:
        return bool(self.rows or self.personas or self.profile.version)

    def latest(self) -> list[Interaction]:
        return sorted(self.rows.values(), key=lambda i: i.time)  # rows are in order of arrival, and sorting is stable


class Memory(RuleBasedStateMachine):
    users = Bundle("users")

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="personaagent-model-"))
        self.runner = asyncio.Runner()
        self.shard = self.started()
        self.models: dict[str, Model] = {}

    def started(self) -> MemoryShard:
        async def make() -> MemoryShard:
            return MemoryShard(
                ShardConfig(
                    memory=MemorySettings(shards=1, flush_s=3600, max_active_episodes=100),
                    store_dir=self.folder / "store",
                    audit_dir=self.folder / "audit",
                    embedder="test",
                    dim=8,
                    shard=0,
                )
            )

        return self.runner.run(make())

    def do(self, call: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(call)

    def batch(self, *interactions: Interaction) -> Batch:
        return Batch.of(self.do(embed_interactions(EMBEDDER, interactions)))

    @initialize(target=users, one=user_ids)
    def first(self, one: str) -> str:
        self.models[one] = Model()
        return one

    @initialize(target=users, other=user_ids)
    def second(self, other: str) -> str:
        self.models.setdefault(other, Model())
        return other

    # Changes

    @rule(
        user=users,
        id=ids,
        query=texts,
        response=st.none() | texts,
        truth=st.none() | texts,
        choices=st.none() | options,
        minute=st.integers(0, 3),
        many=st.booleans(),
    )
    def append(
        self,
        user: str,
        id: str,
        query: str,
        response: str | None,
        truth: str | None,
        choices: tuple[str, ...] | None,
        minute: int,
        many: bool,
    ) -> None:
        time = START + timedelta(minutes=minute)
        new = Interaction(id=id, user=user, time=time, query=query, response=response, truth=truth, choices=choices)
        batch = self.batch(new)
        call = self.shard.append_many(batch, "test") if many else self.shard.append(user, batch, "test")
        rows = self.models[user].rows
        if (old := rows.get(id)) is not None and not same_question(old, new):
            if many:
                assert self.do(call).conflicts == ((user, id),)
            else:
                with pytest.raises(ConflictError):
                    self.do(call)
            return
        result = self.do(call)
        if id not in rows:
            rows[id] = new
            assert result.added == 1
            return
        old = rows[id]
        rows[id] = old.model_copy(
            update={
                "truth": truth if old.truth is None else old.truth,
                "response": response if old.response is None else old.response,
            }
        )
        assert (result.added, result.updated) == (0, int(rows[id] != old))

    @rule(user=users, id=ids, truth=texts)
    def feedback(self, user: str, id: str, truth: str) -> None:
        call = self.shard.feedback(user, id, truth, EMBEDDER.encode([truth])[0], "test")
        rows = self.models[user].rows
        if id not in rows:
            with pytest.raises(NotFoundError):
                self.do(call)
            return
        old = rows[id]
        after_all = old.refused and truth == old.response
        rows[id] = old.model_copy(update={"truth": truth, "metadata": {} if after_all else old.metadata})
        assert self.do(call) == rows[id]

    @rule(user=users, id=ids, rating=st.sampled_from([1, -1]), wanted=st.none() | texts)
    def thumb(self, user: str, id: str, rating: int, wanted: str | None) -> None:
        old = self.models[user].rows.get(id)
        if old is None or (rating == 1 and not old.response):
            return
        truth = old.response if rating == 1 else wanted
        vector = None if truth is None else EMBEDDER.encode([truth])[0]
        call = self.shard.feedback(user, id, truth, vector, "test", None, rating)
        if truth is None and old.truth != old.response:
            truth = old.truth
        new = old.model_copy(update={"truth": truth, "metadata": {"thumb": rating}})
        self.models[user].rows[id] = new
        assert self.do(call) == new

    @rule(user=users, text=texts, right=st.booleans())
    def commit_persona(self, user: str, text: str, right: bool) -> None:
        personas = self.models[user].personas
        expected = personas[-1].number if personas else None
        draft = PersonaDraft(text=text, origin=Origin.ALIGNED)
        call = self.shard.commit_persona(user, draft, expected if right else 99, uuid.uuid4().hex, "test")
        if right:
            personas.append(self.do(call))
            assert personas[-1].number == len(personas)
        else:
            with pytest.raises(ConflictError):
                self.do(call)

    @rule(user=users, text=texts, right=st.booleans())
    def commit_profile(self, user: str, text: str, right: bool) -> None:
        model = self.models[user]
        fact = Fact(id="f", text=text[:2_000], evidence=("1",), first_seen=START, last_seen=START)
        expected = model.profile.version if right else model.profile.version + 1
        call = self.shard.commit_profile(user, Profile(facts=(fact,)), expected, uuid.uuid4().hex, "test")
        if right:
            model.profile = self.do(call)
        else:
            with pytest.raises(ConflictError):
                self.do(call)

    @rule(user=users)
    def forget(self, user: str) -> None:
        model = self.models[user]
        call = self.shard.forget(user, "test", uuid.uuid4().hex)
        if not model.exists:
            with pytest.raises(NotFoundError):
                self.do(call)
            return
        receipt = self.do(call)
        assert (receipt.interactions, receipt.personas, receipt.remaining) == (len(model.rows), len(model.personas), 0)
        self.models[user] = Model()

    @rule(user=users)
    def export_forget_restore(self, user: str) -> None:
        if not self.models[user].exists:
            return
        lines = self.do(self.shard.export(user))
        self.do(self.shard.forget(user, "test", uuid.uuid4().hex))
        exported = parse_export(lines)
        self.do(self.shard.restore(exported, self.batch(*exported.interactions), "test"))
        assert self.do(self.shard.export(user)) == lines

    # Things that must change nothing

    @rule()
    def passivate(self) -> None:
        self.do(self.shard.passivate())

    @rule()
    def flush(self) -> None:
        self.do(self.shard.flush())

    @rule()
    def crash(self) -> None:
        """The process ends without a word, and another one takes over."""
        store = self.shard._store
        if store is not None:
            store._milvus._broken = "crashed"  # nothing more is saved
            store.close()
        self.shard._store = None
        self.do(self.shard.close())
        self.shard = self.started()

    @rule()
    def restart(self) -> None:
        self.do(self.shard.close())
        self.shard = self.started()

    # What must hold

    @invariant()
    def the_shard_agrees_with_the_model(self) -> None:
        for user, model in self.models.items():
            assert list(self.do(self.shard.latest(user, 99, False))) == model.latest()
            assert (
                list(
                    self.do(
                        self.shard.personas(
                            user,
                        )
                    )
                )
                == model.personas
            )
            assert self.do(self.shard.profile(user)) == model.profile
            summary = self.do(self.shard.summary(user))
            assert (summary is not None) == model.exists
            if summary is not None:
                truths = sum(1 for i in model.rows.values() if i.truth is not None)
                assert (summary.interactions, summary.truths) == (len(model.rows), truths)
            if self.shard._store is not None:
                for row in self.shard._store.load(user).rows:
                    kept = option_texts(model.rows[row.id])
                    assert (row.option_vectors is not None) == bool(kept)
                    if row.option_vectors is not None:
                        np.testing.assert_array_equal(row.option_vectors, quantised(EMBEDDER.encode(kept)))
            vector = EMBEDDER.encode(["x"])[0]
            (recall,) = self.do(self.shard.recall(user, [(RecallQuery(text="x", k=9), vector, EMBEDDER.encode([]))]))
            found = [e.interaction for e in recall.episodes]
            assert all(i in model.latest() for i in found)
            assert recall.known == len(model.rows)
        listed = {s.user: s for s in self.do(self.shard.users())}
        assert listed == {u: self.do(self.shard.summary(u)) for u, m in self.models.items() if m.exists}

    def teardown(self) -> None:
        self.do(self.shard.close())
        self.runner.close()
        shutil.rmtree(self.folder)


@pytest.mark.slow
def test_the_shard_agrees_with_a_model_through_crashes() -> None:
    run_state_machine_as_test(
        Memory,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=20,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
