"""Interactions and requests with the vectors of their texts, before memory sees either."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from personaagent.memory.store import Quantised, Vector, quantised
from personaagent.protocols import Embedder, Matrix
from personaagent.types import Interaction, Kind, RecallQuery, choice_kind

__all__ = ["MAX_OPTIONS", "Incoming", "embed_interactions", "embed_recalls", "incoming", "kept_options", "option_texts"]

MAX_OPTIONS = 12  # of one interaction whose vectors are kept; what else was refused adds little


@dataclass(frozen=True, slots=True)
class Incoming:
    """An interaction about to be appended, with its vectors; a restored one brings its arrival times too."""

    interaction: Interaction
    query_vector: Vector
    truth_vector: Vector | None
    arrived: int | None = None
    truth_arrived: int | None = None
    option_vectors: Quantised | None = None  # of `option_texts`; None if there are none


def kept_options(choices: Sequence[str]) -> tuple[int, ...]:
    """Positions of the options whose vectors are kept, ascending: all, or `MAX_OPTIONS` of a longer list.

    Which ones follows from the texts alone, not from the truth, which may come later and has a vector of its own.
    """
    if len(choices) <= MAX_OPTIONS:
        return tuple(range(len(choices)))
    digests = [hashlib.blake2b(choice.encode("utf-8"), digest_size=8).digest() for choice in choices]
    return tuple(sorted(sorted(range(len(choices)), key=digests.__getitem__)[:MAX_OPTIONS]))


def option_texts(interaction: Interaction) -> tuple[str, ...]:
    """The options whose vectors are kept with an interaction; none for ratings and free text."""
    choices = interaction.choices
    if choices is None or choice_kind(choices) is not Kind.CHOICE:
        return ()
    return tuple(choices[position] for position in kept_options(choices))


async def embed_interactions(embedder: Embedder, interactions: Sequence[Interaction]) -> list[Incoming]:
    """Interactions with the vectors of their queries, truths and options; equal texts are embedded once."""
    texts = {i.query for i in interactions} | {i.truth for i in interactions if i.truth is not None}
    texts.update(option for i in interactions for option in option_texts(i))
    vectors = await _vectors(embedder, sorted(texts))
    return incoming(interactions, vectors)


def incoming(interactions: Sequence[Interaction], vectors: Mapping[str, Vector]) -> list[Incoming]:
    """Interactions with vectors that are known already, by text."""
    matrices: dict[tuple[str, ...], Quantised] = {}  # the same options are often on offer again
    items = []
    for interaction in interactions:
        options = option_texts(interaction)
        if options and options not in matrices:
            matrices[options] = quantised(np.stack([vectors[option] for option in options]))
        items.append(
            Incoming(
                interaction=interaction,
                query_vector=vectors[interaction.query],
                truth_vector=None if interaction.truth is None else vectors[interaction.truth],
                option_vectors=matrices.get(options),
            )
        )
    return items


async def embed_recalls(embedder: Embedder, queries: Sequence[RecallQuery]) -> list[tuple[Vector, Matrix]]:
    """The vectors each recall needs: (dim,) of its text and (m, dim) of its choices, (0, dim) where these are not read.

    Equal texts are embedded once.
    """
    texts = [[query.text, *_compared(query)] for query in queries]
    vectors = await _vectors(embedder, list(dict.fromkeys(text for wanted in texts for text in wanted)))
    rows = [np.stack([vectors[text] for text in wanted]) for wanted in texts]
    return [(row[0], row[1:]) for row in rows]


def _compared(query: RecallQuery) -> tuple[str, ...]:
    """The choices whose vectors are compared with past truths; grades are compared by their numbers."""
    choices = query.choices if query.choices and query.decisions else ()
    return () if choice_kind(choices) is Kind.RATING else tuple(choices)


async def _vectors(embedder: Embedder, texts: Sequence[str]) -> dict[str, npt.NDArray[np.float32]]:
    if not texts:
        return {}
    matrix = np.asarray(await embedder.embed(texts), dtype=np.float32)
    return dict(zip(texts, matrix, strict=True))
