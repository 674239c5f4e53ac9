"""A real Milvus server that is killed without warning, and started again, while users' memories are written to it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from actors.milvus.milvus_store import MilvusStore
from personaagent.errors import ConflictError, UnavailableError
from tests.actors.milvus.test_milvus_store import IDENTITY
from tests.support.milvus_servers import StandaloneServer, standalone_reason
from tests.support.store_contract import make_persona, make_row

USERS = 3
PATIENCE_S = 120.0  # for a server to come back, on a machine that does other work


@pytest.fixture
def killed(tmp_path: Path) -> Iterator[StandaloneServer]:
    if (reason := standalone_reason()) is not None:
        pytest.skip(reason)
    server = StandaloneServer(tmp_path / "data")
    yield server
    server.stop()


class Writer(threading.Thread):
    """Writes one user's rows and personas, one after the other, until told to stop; tries again while the server is away."""

    def __init__(self, store: MilvusStore, user: str) -> None:
        super().__init__()
        self.store, self.user = store, user
        self.done = threading.Event()
        self.rows = self.personas = 0  # acknowledged
        self.refused = 0
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            while not self.done.is_set():
                self.write()
        except Exception as e:  # noqa: BLE001 - told to the test, whose thread this is not
            self.error = e

    def write(self) -> None:
        try:
            self.store.put(
                [make_row(self.user, str(self.rows), truth="x" if self.rows % 2 else None, arrived=self.rows)]
            )
            self.rows += 1
            if self.rows % 6 == 0:
                number = self.personas + 1
                try:
                    self.store.put_persona(self.user, make_persona(number), f"token {number}")
                except ConflictError:
                    raise AssertionError("a repeated attempt was refused") from None
                self.personas = number
        except UnavailableError:
            self.refused += 1
            time.sleep(0.2)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_what_was_acknowledged_survives_a_server_that_is_killed(killed: StandaloneServer) -> None:
    store = MilvusStore(killed.uri, IDENTITY, timeout=10)
    writers = [Writer(store, f"user {n}") for n in range(USERS)]
    for writer in writers:
        writer.start()
    try:
        wait_for(lambda: all(w.rows >= 12 for w in writers), writers)
        killed.stop()
        wait_for(lambda: any(w.refused for w in writers), writers)
        killed.start()
        before = [w.rows for w in writers]
        wait_for(lambda: all(w.rows >= b + 6 for w, b in zip(writers, before, strict=True)), writers)
    finally:
        for writer in writers:
            writer.done.set()
        for writer in writers:
            writer.join()
    assert [w.error for w in writers] == [None] * USERS
    again = MilvusStore(killed.uri, IDENTITY, timeout=30)
    for seen in (store, again):
        listed = {s.user: s for s in seen.users()}
        for writer in writers:
            stored = seen.load(writer.user)
            # An attempt that failed may have been carried out, but then it is the next one's.
            assert [int(r.id) for r in stored.rows][: writer.rows] == list(range(writer.rows))
            assert len(stored.rows) - writer.rows in (0, 1)
            assert [p.number for p in stored.personas] == list(range(1, len(stored.personas) + 1))
            assert len(stored.personas) - writer.personas in (0, 1)
            summary = listed[writer.user]
            assert summary.interactions == len(stored.rows)
            assert summary.truths == sum(r.truth_arrived > 0 or r.interaction.truth is not None for r in stored.rows)
            assert summary.persona == (stored.personas[-1].number if stored.personas else None)
    print(
        f"\nacknowledged {sum(w.rows for w in writers)} rows and {sum(w.personas for w in writers)} personas, lost 0;"
        f" refused while the server was away {sum(w.refused for w in writers)}"
    )
    again.close()
    store.close()


def wait_for(condition: object, writers: list[Writer]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "too slow"
        assert all(w.error is None for w in writers), [w.error for w in writers]
        time.sleep(0.05)
