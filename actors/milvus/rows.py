"""How rows, personas and profiles look in Milvus: schemas, primary keys, filters, and texts of any length.

Two collections per tenant. `episodes` holds interactions with the vector of their query; `records` holds everything else
(persona versions, profiles, users' names, what the store is, and the rest of texts too long for one field). A record is
found by its key only; its vector is there because Milvus wants one.

Every primary key begins with the user key, and no filter ever holds text that came from outside: only digests that we
made. That is the whole defence against a user id that is written like a filter.
"""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from pymilvus import DataType, MilvusClient

from personaagent.errors import StoreError
from personaagent.memory.store import Quantised, Row, Vector
from personaagent.memory.stored_row import LESSON_MARK
from personaagent.types import user_key

__all__ = [
    "BODY_BYTES",
    "DUMMY",
    "EPISODE_FIELDS",
    "EPISODE_SCALARS",
    "META",
    "RECORD_FIELDS",
    "SCALARS",
    "WRITE_ROWS",
    "any_of",
    "anything",
    "at_most",
    "batches",
    "both",
    "chunked",
    "compare",
    "differs",
    "either",
    "episode",
    "episodes_schema",
    "equals",
    "greater",
    "join_body",
    "lessons_of",
    "no_lessons_of",
    "part_keys",
    "pk_of",
    "record",
    "records_schema",
    "row_of",
    "row_text",
    "split_body",
]

BODY_BYTES = 60_000  # of one VARCHAR; Milvus allows 65,535 bytes
EPISODE_SCALARS = ["pk", "user_key", "time", "arrived", "truth_arrived"]
EPISODE_FIELDS = [*EPISODE_SCALARS, "parts", "body", "truth_vector", "vector"]
WRITE_ROWS = 1_000  # of one call
WRITE_BYTES = 8 * 2**20  # of one call; servers take 64 MB
SCALARS = 5_000  # rows of one call that reads neither long texts nor vectors
RECORD_FIELDS = ["pk", "user_key", "kind", "number", "parts", "body"]
META = "store"  # stands where a user key would, for what is of nobody
DUMMY = [1.0, 0.0]
_OPTIONS = b'{"choices":"'  # no payload begins so: choices are a list or null

Entity = dict[str, Any]


class Whole(str):
    """A string that yields itself once when iterated over.

    pymilvus checks the text of a row as if it were a list of texts, character by character, which was a third of the time
    of an import.
    """

    __slots__ = ()

    def __iter__(self) -> Iterator[str]:
        yield str(self)


def episodes_schema(dim: int, partitioned: bool) -> Any:
    """Schema of the collection of interactions. `partitioned`: the user key is the partition key (servers)."""
    schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field("pk", DataType.VARCHAR, is_primary=True, max_length=64)
    schema.add_field("user_key", DataType.VARCHAR, max_length=32, is_partition_key=partitioned)
    for name in ("time", "arrived", "truth_arrived", "parts"):
        schema.add_field(name, DataType.INT64)
    schema.add_field("body", DataType.VARCHAR, max_length=65_535)
    # Text, not a second vector field: it is never searched, and a vector field costs four times the bytes and an index.
    schema.add_field("truth_vector", DataType.VARCHAR, max_length=4 * (2 * dim // 3 + 3))
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=dim)
    return schema


def records_schema(partitioned: bool) -> Any:
    """Schema of the collection of everything else."""
    schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field("pk", DataType.VARCHAR, is_primary=True, max_length=160)
    schema.add_field("user_key", DataType.VARCHAR, max_length=32, is_partition_key=partitioned)
    schema.add_field("kind", DataType.VARCHAR, max_length=16)
    schema.add_field("number", DataType.INT64)
    schema.add_field("parts", DataType.INT64)
    schema.add_field("body", DataType.VARCHAR, max_length=65_535)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=len(DUMMY))
    return schema


# Filters. These few functions are the only places that write one.


def equals(field: str, value: str | int) -> str:
    """field == value."""
    return f"{field} == {json.dumps(value)}"


def compare(field: str, operator: str, value: int) -> str:
    """field < value and the like."""
    return f"{field} {operator} {value:d}"


def differs(field: str, value: str) -> str:
    """field != value."""
    return f"{field} != {json.dumps(value)}"


def greater(field: str, value: str) -> str:
    """field > value, for text."""
    return f"{field} > {json.dumps(value)}"


def at_most(field: str, value: str) -> str:
    """field <= value, for text."""
    return f"{field} <= {json.dumps(value)}"


def anything(field: str) -> str:
    """Any text at all."""
    return f'{field} != ""'


def any_of(field: str, values: Iterable[str]) -> str:
    """field in [...]; Milvus Lite answers it for primary keys without looking at other rows."""
    return f"{field} in [{', '.join(json.dumps(v) for v in values)}]"


def both(*filters: str) -> str:
    """All of them."""
    return " and ".join(f"({f})" for f in filters)


def either(*filters: str) -> str:
    """Any of them."""
    return " or ".join(f"({f})" for f in filters)


def lessons_of(user: str) -> str:
    """A user's lessons: their primary keys lie side by side, see `row_key`."""
    before, last = _lesson_keys(user)
    return both(greater("pk", before), at_most("pk", last))


def no_lessons_of(user: str) -> str:
    """What of a user is no lesson."""
    before, last = _lesson_keys(user)
    return either(at_most("pk", before), greater("pk", last))


def _lesson_keys(user: str) -> tuple[str, str]:
    begin = user_key(user) + LESSON_MARK.hex()  # shorter than any key, so before all that begin with it
    return begin, begin.ljust(64, "f")


# Texts of any length


def split_body(key: str, text: bytes) -> tuple[str, int, list[tuple[str, str]]]:
    """A text as the body of an entity, how many further parts it has plus one, and these parts by primary key.

    A text that fits stays readable JSON with `parts` 0. A longer one is compressed and cut; parts are named by the
    content, so that replacing a long text never mixes the old and the new.
    """
    if len(text) <= BODY_BYTES:
        return text.decode("utf-8"), 0, []
    packed = base64.b64encode(zlib.compress(text, 6)).decode("ascii")
    digest = hashlib.blake2b(text, digest_size=16).hexdigest()
    size = BODY_BYTES - len(digest)
    pieces = [packed[i : i + size] for i in range(0, len(packed), size)]
    keys = part_keys(key, digest + pieces[0], len(pieces))
    return digest + pieces[0], len(pieces), list(zip(keys, pieces[1:], strict=True))


def part_keys(key: str, body: str, parts: int) -> list[str]:
    """Primary keys of the further parts of an entity."""
    return [f"{key}/{body[:32]}/{number}" for number in range(1, parts)]


def join_body(entity: Mapping[str, Any], part: Callable[[str], str | None]) -> bytes:
    """The text of an entity, given a way to look up bodies of parts.

    Raises:
        StoreError: a part is missing.
    """
    body, parts = entity["body"], entity["parts"]
    if not parts:
        return str(body).encode("utf-8")
    pieces = [body[32:]]
    for key in part_keys(entity["pk"], body, parts):
        piece = part(key)
        if piece is None:
            raise StoreError("a part of a long text is missing in the store; run `personaagent doctor`")
        pieces.append(piece)
    return zlib.decompress(base64.b64decode("".join(pieces)))


# Entities


def pk_of(user: str, digest: bytes) -> str:
    """Primary key of an interaction: its user's key, then the digest of its id."""
    return user_key(user) + digest.hex()


def row_text(row: Row) -> bytes:
    """The text of a row: its payload and, if it has any, the vectors of its options in base64.

    They stand before everything else, as a value of `choices` that the real one behind it takes the place of. So a version
    that knows nothing of them, which may use the same server for a while, reads the interaction as it is.
    """
    if row.option_vectors is None:
        return row.payload
    return _OPTIONS + base64.b64encode(row.option_vectors.tobytes()) + b'",' + row.payload[1:]


def _split(text: bytes, dim: int) -> tuple[bytes, Quantised | None]:
    """Payload and option vectors of a text from `row_text`. Raises ValueError if it is damaged."""
    if not text.startswith(_OPTIONS):
        return text, None
    packed, payload = text[len(_OPTIONS) :].split(b'",', 1)
    numbers = np.frombuffer(base64.b64decode(packed, validate=True), dtype=np.int8)
    return b"{" + payload, numbers.reshape(-1, dim)


def episode(row: Row, text: bytes) -> tuple[Entity, list[Entity]]:
    """The entity of a row and the records that hold the rest of a long text; `text` is its `row_text`, perhaps sealed."""
    user, digest = row.key
    pk, key = pk_of(user, digest), user_key(user)
    body, parts, rest = split_body(pk, text)
    entity = {
        "pk": pk,
        "user_key": key,
        "time": row.time,
        "arrived": row.arrived,
        "truth_arrived": row.truth_arrived,
        "parts": parts,
        "body": Whole(body),
        "truth_vector": Whole("" if row.truth_vector is None else _encode(row.truth_vector)),
        "vector": row.query_vector,
    }
    return entity, [_entity(pk, key, "part", 0, 0, text) for pk, text in rest]


def row_of(entity: Mapping[str, Any], text: bytes) -> Row:
    """The row of an entity with this text, from `row_text`. Raises ValueError, KeyError or TypeError if it is none."""
    payload, options = _split(text, len(entity["vector"]))
    content = json.loads(payload)
    packed = entity["truth_vector"]
    return Row(
        user=content["user"],
        id=content["id"],
        time=int(entity["time"]),
        arrived=int(entity["arrived"]),
        truth_arrived=int(entity["truth_arrived"]),
        payload=payload,
        query_vector=np.asarray(entity["vector"], dtype=np.float32),
        truth_vector=_decode(packed) if packed else None,
        option_vectors=options,
    )


def record(key: str, name: str, kind: str, number: int, text: str) -> tuple[Entity, list[Entity]]:
    """The entity of a record of the user `key`, and the records that hold the rest of a long text."""
    pk = f"{key}/{name}"
    body, parts, rest = split_body(pk, text.encode("utf-8"))
    return _entity(pk, key, kind, number, parts, body), [_entity(p, key, "part", 0, 0, t) for p, t in rest]


def _entity(pk: str, key: str, kind: str, number: int, parts: int, body: str) -> Entity:
    return {
        "pk": pk,
        "user_key": key,
        "kind": kind,
        "number": number,
        "parts": parts,
        "body": Whole(body),
        "vector": DUMMY,
    }


def _encode(vector: Vector) -> str:
    return base64.b64encode(vector.astype("<f2").tobytes()).decode("ascii")


def _decode(text: str) -> Vector:
    return np.frombuffer(base64.b64decode(text), dtype="<f2").astype(np.float32)


def chunked(items: Sequence[Any], size: int) -> Iterable[Sequence[Any]]:
    """Slices of at most `size` items."""
    return (items[i : i + size] for i in range(0, len(items), size))


def batches(entities: Sequence[Entity]) -> Iterator[tuple[list[Entity], int]]:
    """Slices of what is to be written that fit one call, and their estimated bytes."""
    batch: list[Entity] = []
    size = 0
    for entity in entities:
        more = _bytes(entity)
        if batch and (len(batch) == WRITE_ROWS or size + more > WRITE_BYTES):
            yield batch, size
            batch, size = [], 0
        batch.append(entity)
        size += more
    if batch:
        yield batch, size


def _bytes(entity: Entity) -> int:
    return 300 + 3 * len(entity["body"]) + len(entity.get("truth_vector", "")) + 4 * len(entity["vector"])
