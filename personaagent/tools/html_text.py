"""What a page of HTML says, as plain text.

It reads a page once from front to back, whatever is in it. `html.parser` takes time in the square of what is malformed, and
raises at some of it; pages come from anywhere, and a megabyte of opening brackets must not hold up everybody's turns.
"""

from __future__ import annotations

import html
import re

__all__ = ["html_text"]

# What stands in these is no text of the page.
_SKIPPED = frozenset({"script", "style", "noscript", "template", "svg", "iframe", "object"})
# Tags that part no paragraphs.
_INLINE = frozenset(
    {
        "a",
        "abbr",
        "b",
        "bdi",
        "bdo",
        "big",
        "cite",
        "code",
        "data",
        "del",
        "dfn",
        "em",
        "font",
        "i",
        "ins",
        "kbd",
        "label",
    }
    | {"mark", "q", "s", "samp", "small", "span", "strike", "strong", "sub", "sup", "time", "tt", "u", "var", "wbr"}
)
# What stands for tags that begin no paragraph, or begin one with a mark.
_OPENED = {"br": "\n", "tr": "\n", "td": " ", "th": " ", "li": "\n- "} | {
    f"h{n}": f"\n\n{'#' * n} " for n in range(1, 7)
}
_CLOSED = dict.fromkeys(("li", "tr", "td", "th", *_SKIPPED), "")
_NAME = re.compile(r"[a-zA-Z][^\s/>]{0,30}")
_STOP = re.compile("[>\"']")
_HUGE_NUMBER = re.compile(r"&#[xX]?[0-9a-fA-F]{8,}+;?")  # no character; int() refuses thousands of digits
_SPACE = re.compile(r"[^\S\n]+")
_LINES = re.compile(r" *\n *")
_GAPS = re.compile(r"\n{3,}")


def html_text(page: str) -> str:
    """The text of a page: paragraphs parted by empty lines, headings marked as in Markdown, nothing of scripts and styles."""
    found: list[str] = []
    at, size = 0, len(page)
    lower = page.lower()
    if len(lower) != size:  # a letter that is longer when small; names of tags are ASCII
        lower = "".join(c.lower() if c.isascii() else c for c in page)
    while at < size:
        start = page.find("<", at)
        if start < 0:
            found.append(_plain(page[at:]))
            break
        if start > at:
            found.append(_plain(page[at:start]))
        if page.startswith("<!--", start):
            end = page.find("-->", start + 4)
            at = size if end < 0 else end + 3
            continue
        closing = page.startswith("</", start)
        name = _NAME.match(lower, start + 1 + closing)
        if name is None and page[start + 1 : start + 2] not in ("!", "?", "/"):
            found.append("<")  # a bracket that begins nothing
            at = start + 1
            continue
        at = _end_of_tag(page, start + 1)
        if name is None:
            continue
        tag = name[0]
        if tag in _SKIPPED and not closing:
            end = lower.find(f"</{tag}", at)
            at = size if end < 0 else end
        elif tag not in _INLINE:
            found.append((_CLOSED if closing else _OPENED).get(tag, "\n\n"))
    return _GAPS.sub("\n\n", _LINES.sub("\n", _SPACE.sub(" ", "".join(found)))).strip()


def _end_of_tag(page: str, at: int) -> int:
    """Where a tag ends; a bracket inside of a quoted attribute does not end it."""
    first = page.find(">", at)
    if first < 0:
        return len(page)
    where = at
    while (stop := _STOP.search(page, where)) is not None and stop[0] != ">":
        quoted = page.find(stop[0], stop.end(), stop.end() + 10_000) if page[stop.start() - 1] == "=" else stop.start()
        if quoted < 0:
            return first + 1
        where = quoted + 1
        if where - at > 20_000:  # no tag is so long; each is looked at in so many steps
            return first + 1
    return len(page) if stop is None else stop.end()


def _plain(text: str) -> str:
    return html.unescape(_HUGE_NUMBER.sub("�", text)).replace("\r", " ").replace("\n", " ")
