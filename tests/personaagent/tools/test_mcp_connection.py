"""What is made of what servers answer."""

from __future__ import annotations

from typing import Any

import pytest
from mcp.shared.exceptions import MCPError
from mcp_types import CallToolResult, EmbeddedResource, ImageContent, ResourceLink, TextContent, TextResourceContents

from personaagent.errors import UnavailableError
from personaagent.tools.mcp_connection import reason, shown


def said(*texts: str, structured: Any = None, limit: int = 1000) -> str:
    content: list[Any] = [TextContent(text=text) for text in texts]
    return shown(CallToolResult(content=content, structured_content=structured), limit).text


@pytest.mark.parametrize(
    ("texts", "structured", "expected"),
    [
        (("21 degrees",), None, "21 degrees"),
        ((), {"degrees": 21, "city": "Köln"}, '{"degrees": 21, "city": "Köln"}'),
        (('{"degrees": 21}',), {"degrees": 21}, '{"degrees": 21}'),
        (("3",), {"result": 3}, "3"),
        (("5",), {"result": "5"}, "5"),
        (('{"a": 1}', '{"a": 2}'), {"result": [{"a": 1}, {"a": 2}]}, '{"a": 1}\n{"a": 2}'),
        (("Found one.",), {"id": 7}, 'Found one.\n{"id": 7}'),
        (("a\ud800b",), None, "a�b"),
        ((), None, ""),
    ],
)
def test_a_result_is_text_and_a_structured_one_is_said_once(
    texts: tuple[str, ...], structured: Any, expected: str
) -> None:
    assert said(*texts, structured=structured) == expected


def test_what_is_no_text_is_named_and_not_shown() -> None:
    inside = TextResourceContents(uri="file:///a.txt", text="secret")
    result = CallToolResult(
        content=[
            ImageContent(data="x" * 10_000, mime_type="image/png"),
            TextContent(text="a square"),
            EmbeddedResource(resource=inside),
            ResourceLink(name="b", uri="file:///" + "b" * 1000),
        ],
        is_error=True,
    )
    output = shown(result, 1000)
    assert output.error
    lines = output.text.splitlines()
    assert lines[:3] == ["a square", "[image, image/png, is not shown]", "[a resource, file:///a.txt, is not shown]"]
    assert len(lines[3]) == 200


def test_a_long_result_is_cut_between_characters() -> None:
    assert said("é" * 2000, limit=1001) == "é" * 500 + " … (cut after 1 kB)"


def test_the_reason_of_an_end_is_one_line_without_secrets() -> None:
    inner = ExceptionGroup("many", [MCPError(1, "Connection closed"), UnavailableError("its program ended")])
    assert reason(ExceptionGroup("all", [inner])) == "its program ended"
    assert reason(MCPError(1, "no\nentry " * 100)).startswith("it says: no entry no")
    assert reason(ValueError("token=abc")) == "it failed with ValueError"
