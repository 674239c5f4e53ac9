"""Files that are no JSON Lines, named as what they are: one line that says what to do, instead of one error per line."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from types import MappingProxyType

from personaagent.errors import InvalidInput
from personaagent.readers.read_result import existing

__all__ = ["refuse_other_kinds"]

HEAD = 64 << 10  # bytes looked at
SAMPLE = 50  # lines of them
PLAIN = 10  # lines none of which can be read: then the file is of another kind, and not one with a few bad lines
TABLE = 0.8  # of a table's rows have as many fields as its first one; the others hold line breaks, or lack some
ARRAY = "one JSON array; write every item of it as a line of its own (jq -c '.[]')"
MAGIC = MappingProxyType(
    {
        b"\x1f\x8b": "compressed with gzip; unpack it first (gunzip)",
        b"PK\x03\x04": "a zip archive or an office document; unpack it, or save it in the other form",
        b"PK\x05\x06": "an empty zip archive",
        b"BZh": "compressed with bzip2; unpack it first (bunzip2)",
        b"\xfd7zXZ\0": "compressed with xz; unpack it first (unxz)",
        b"\x28\xb5\x2f\xfd": "compressed with zstd; unpack it first (unzstd)",
        b"7z\xbc\xaf\x27\x1c": "a 7z archive; unpack it first",
        b"PAR1": "a Parquet file; write its rows in the other form",
        b"ARROW1": "an Arrow file; write its rows in the other form",
        b"SQLite format 3\0": "an SQLite database; write its rows in the other form",
        b"%PDF": "a PDF document",
        b"\xff\xfe\0\0": "text in UTF-32; save it as UTF-8 (iconv -f UTF-32 -t UTF-8)",
        b"\0\0\xfe\xff": "text in UTF-32; save it as UTF-8 (iconv -f UTF-32 -t UTF-8)",
        b"\xff\xfe": "text in UTF-16; save it as UTF-8 (iconv -f UTF-16 -t UTF-8)",
        b"\xfe\xff": "text in UTF-16; save it as UTF-8 (iconv -f UTF-16 -t UTF-8)",
    }
)


def refuse_other_kinds(path: Path, wanted: str) -> None:
    """Raises InvalidInput if a file is plainly of another kind, or cannot be opened; `wanted` says what belongs there."""
    try:
        with existing(path, wanted).open("rb") as file:
            head = file.read(HEAD)
    except OSError as e:
        raise InvalidInput(f"cannot read {path}: {e.strerror}") from e
    if kind := _kind(head):
        raise InvalidInput(f"{path} is {kind}; give {wanted}")


def _kind(head: bytes) -> str | None:
    for magic, kind in MAGIC.items():
        if head.startswith(magic):
            return kind
    if encoding := _wide(head):
        return f"text in {encoding}; save it as UTF-8 (iconv -f {encoding} -t UTF-8)"
    if b"\0" in head[:4096]:
        return "not a text file"
    whole = len(head) < HEAD
    raw = [line for line in head.removeprefix(b"\xef\xbb\xbf").split(b"\n") if line.strip()]
    if len(raw) > 1 and not whole:
        raw.pop()  # may be cut off
    if not raw:
        return "empty" if whole else None
    text = head.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "replace").lstrip()
    lines = [line.decode("utf-8", "replace") for line in raw[:SAMPLE]]
    begins = "".join(lines[0].split())
    if begins == "[" or (begins.startswith("[{") and (len(lines) == 1 or not _is_json(lines[0]))):
        return ARRAY
    commas = sum(line.rstrip().endswith(",") and _is_json(line.rstrip()[:-1]) for line in lines)
    if commas > len(lines) / 2:
        return "JSON with a comma behind every line; take the commas away (sed 's/,$//')"
    readable = [line for line in lines if _is_json(line)]
    if readable and _of_another_encoding(raw):
        return "text in another encoding than UTF-8; save it as UTF-8 (iconv -f LATIN1 -t UTF-8, if it is Latin-1)"
    if readable:  # what is wrong with the others is said line by line
        return None
    if begins.startswith("{") and (layout := _layout(text)):
        return layout
    if table := _table(lines):
        return table
    return "not JSON Lines: none of its first lines is JSON" if len(lines) >= PLAIN else None


def _of_another_encoding(raw: list[bytes]) -> bool:
    """Whether no line with other letters than ASCII has them in UTF-8."""
    other = [line for line in raw if not line.isascii()]
    return len(other) >= PLAIN and not any(map(_is_utf8, other))


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _layout(text: str) -> str | None:
    """How objects are laid out that do not stand in lines of their own."""
    try:
        _, end = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        return (
            "one JSON document over several lines; write every interaction in one line (jq -c)"
            if ("".join(text.split("\n", 1)[0].split()) == "{")
            else None
        )
    if "\n" in text[:end]:
        return "one JSON document over several lines; write every interaction in one line (jq -c)"
    if text[end:].lstrip().startswith("{"):
        return "JSON with several objects in a line; write every interaction in one line (jq -c)"
    return None


def _wide(head: bytes) -> str | None:
    """UTF-16 or UTF-32 without a mark: most characters of JSON are ASCII, so that zeros stand in between."""
    some = head[:4096]
    if len(some) < 4 or b"\0" not in some:
        return None
    at = [some[n::4].count(0) / max(1, len(some[n::4])) for n in range(4)]
    full, empty = 0.9, 0.5
    if min(at[1:]) > full and at[0] < empty:
        return "UTF-32LE"
    if min(at[:3]) > full and at[3] < empty:
        return "UTF-32BE"
    if min(at[1], at[3]) > empty and max(at[0], at[2]) < 0.2:
        return "UTF-16LE"
    if min(at[0], at[2]) > empty and max(at[1], at[3]) < 0.2:
        return "UTF-16BE"
    return None


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _table(lines: list[str]) -> str | None:
    """CSV or another table of text: the first lines have one number of fields, and more than one."""
    for separator, name in (
        (",", "CSV"),
        ("\t", "tab-separated values"),
        (";", "CSV with semicolons"),
        ("|", "a table"),
    ):
        try:
            rows = list(csv.reader(lines, delimiter=separator))
        except csv.Error:
            continue
        fields = len(rows[0])
        alike = sum(len(row) == fields for row in rows)
        if fields > 1 and alike >= TABLE * len(rows) and not any(c in lines[0] for c in "{}"):
            return f"{name}; write its rows in the other form"
    if lines[0].lstrip().startswith("<"):
        return "XML or HTML"
    return None
