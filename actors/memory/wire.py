"""Interactions with their vectors, in the form in which they travel between processes: a few large buffers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from personaagent.errors import UnavailableError
from personaagent.memory.changes import Incoming
from personaagent.memory.store import Quantised, pack, unpack
from personaagent.protocols import Matrix

__all__ = ["Batch"]


@dataclass(frozen=True)
class Batch:
    """n interactions. `vectors` holds each different vector once; the index arrays say which is whose, -1 for none.

    `options` holds each different option once; `offered` says which an interaction has, None for no closed choice.
    """

    payloads: list[bytes]
    vectors: Matrix
    query: list[int]
    truth: list[int]
    options: Quantised
    offered: list[list[int] | None]
    arrived: list[int | None]
    truth_arrived: list[int | None]

    @classmethod
    def of(cls, items: Sequence[Incoming]) -> Batch:
        """Pack items; vectors that are the same object are sent once."""
        places: dict[int, int] = {}
        rows: list[Matrix] = []

        def place(vector: Matrix | None) -> int:
            if vector is None:
                return -1
            if id(vector) not in places:
                places[id(vector)] = len(rows)
                rows.append(vector)
            return places[id(vector)]

        query = [place(i.query_vector) for i in items]
        truth = [place(i.truth_vector) for i in items]
        options: dict[bytes, int] = {}
        offered = [
            None
            if i.option_vectors is None
            else [options.setdefault(row.tobytes(), len(options)) for row in i.option_vectors]
            for i in items
        ]
        return cls(
            payloads=[pack(i.interaction) for i in items],
            vectors=np.stack(rows) if rows else np.zeros((0, 0), dtype=np.float32),
            query=query,
            truth=truth,
            options=np.frombuffer(b"".join(options), dtype=np.int8).reshape(len(options), -1 if options else 0),
            offered=offered,
            arrived=[i.arrived for i in items],
            truth_arrived=[i.truth_arrived for i in items],
        )

    def items(self) -> list[Incoming]:
        """The items again.

        Raises:
            UnavailableError: the embedder gave numbers that are none; nobody is similar to such a vector, nor to themselves.
        """
        if not np.isfinite(self.vectors).all():
            raise UnavailableError("the embedder gave vectors that are not finite numbers; nothing is stored")
        return [
            Incoming(
                interaction=unpack(payload),
                query_vector=self.vectors[query],
                truth_vector=self.vectors[truth] if truth >= 0 else None,
                arrived=arrived,
                truth_arrived=known,
                option_vectors=None if offered is None else self.options[offered],
            )
            for payload, query, truth, offered, arrived, known in zip(
                self.payloads, self.query, self.truth, self.offered, self.arrived, self.truth_arrived, strict=True
            )
        ]
