from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from personaagent.agent.call_arguments import LONGEST, ArgumentWriter, free_schema
from personaagent.agent.view import PromptView
from personaagent.tools.arguments import check_schema
from personaagent.tools.tool import ToolSpec
from personaagent.tools.writable import ITEMS
from personaagent.types import ChatResult, Message, Origin, PersonaDraft, Recall
from tests.support.fake_llm import FakeLLM

TEXT = {"type": "string"}


def tool(**parameters: Any) -> ToolSpec:
    return ToolSpec(name="f", description="Does it.", parameters={"type": "object", **parameters})


def test_nothing_is_left_to_be_written() -> None:
    assert free_schema(tool(), {}, (), False) is None
    assert free_schema(tool(properties={"a": TEXT, "b": TEXT}), {"a": 1}, ("b",), False) is None
    assert free_schema(tool(additionalProperties=True), {}, (), False) is None
    assert free_schema(tool(additionalProperties=False, title="F", **{"$schema": "x"}), {}, (), False) is None


def test_what_is_given_and_what_is_left_out_is_not_written() -> None:
    spec = tool(properties={"a": TEXT, "b": {"enum": [1, 2]}, "c": {"type": "boolean"}}, required=["a", "b", "d"])
    left = free_schema(spec, {"b": 1}, ("b", "c"), True)
    assert left == {
        "type": "object",
        "properties": {"a": TEXT, "d": {}},
        "required": ["a", "d"],
        "additionalProperties": False,
    }


@pytest.mark.parametrize(
    "parameters",
    [
        {"anyOf": [{"required": ["a"]}, {"required": ["c"]}]},
        {"$ref": "#/$defs/x", "$defs": {"x": {"required": ["c"]}}},
        {"dependentRequired": {"a": ["c"]}},
        {"minProperties": 1},
        {"properties": {"a": {"$ref": "#/properties/c"}, "b": {"enum": [1, 2]}, "c": TEXT}},
        {"properties": {"b": {"enum": [1, 2]}, "inner": {"items": {"$ref": "#"}}}},
    ],
)
def test_a_schema_that_says_more_than_its_properties_is_written_whole(parameters: dict[str, Any]) -> None:
    spec = tool(**{"properties": {"a": TEXT, "b": {"enum": [1, 2]}, "c": TEXT}, **parameters})
    left = free_schema(spec, {"b": 2}, ("b",), True)
    assert left is not None
    assert left["properties"] == {**spec.parameters["properties"], "b": {"const": 2}}  # type: ignore[dict-item]
    assert left["required"] == ["b"]
    assert {k: v for k, v in left.items() if k not in ("properties", "required")} == {
        k: v for k, v in spec.parameters.items() if k != "properties"
    }
    check_schema(left, "f")


def test_a_map_of_any_names_is_written() -> None:
    spec = tool(additionalProperties=TEXT)
    assert free_schema(spec, {}, (), True) == {**spec.parameters, "properties": {}, "required": []}


def test_every_text_and_list_has_a_bound_where_the_model_knows_no_end() -> None:
    node = {
        "type": "object",
        "properties": {
            "own": {"type": "string", "maxLength": 3},
            "long": {"type": "string", "minLength": 500},
            "list": {"type": "array", "items": {"anyOf": [{"type": ["string", "null"]}, {"const": "x"}]}},
        },
    }
    left = free_schema(tool(properties={"node": node, "enum": TEXT, "$ref": {"enum": ["type"]}}), {}, (), False)
    assert left is not None
    inner = left["properties"]["node"]["properties"]
    assert inner["own"] == {"type": "string", "maxLength": 3}
    assert inner["long"]["maxLength"] == 500
    assert inner["list"]["maxItems"] == ITEMS
    assert inner["list"]["items"]["anyOf"] == [{"type": ["string", "null"], "maxLength": LONGEST}, {"const": "x"}]
    assert left["properties"]["enum"]["maxLength"] == LONGEST
    assert left["properties"]["$ref"] == {"enum": ["type"]}


def writer(llm: FakeLLM, text: str, **more: Any) -> ArgumentWriter:
    view = PromptView.of(PersonaDraft(text="Likes trains.", origin=Origin.MANUAL), Recall(), None)
    settings = {"native": False, "copying": False, "priority": 0, **more}
    return ArgumentWriter(llm, view, text, (Message(role="user", content=text),), **settings)


@pytest.mark.parametrize("text", ["[]", '[["a", 1]]', '["ab"]', "3", "null", '"a"', "", "{", '{"a": NaN}', "[" * 1_000])
@pytest.mark.parametrize("native", [True, False])
async def test_what_is_no_object_is_told_as_such(text: str, native: bool) -> None:
    calls = [{"function": {"name": "f", "arguments": text}}]
    said = ChatResult(text="" if native else text, message={"tool_calls": calls} if native else {})
    spec = tool(properties={"a": TEXT})
    written = await writer(FakeLLM(lambda _: said), "hello", native=native).write(spec, spec.parameters, (), ())
    assert written.calls == ()
    assert "no JSON object" in written.fault


@given(st.text(max_size=400))
async def test_any_request_can_be_copied_from(text: str) -> None:
    llm = FakeLLM('{"a": "x"}')
    schema = {"type": "object", "properties": {"a": TEXT, "b": {"type": ["integer", "null"]}}, "required": ["a", "b"]}
    written = await writer(llm, text, copying=True).write(tool(**schema), schema, (), ())
    assert written.calls == ({"a": "x"},)
    check_schema(llm.requests[0].extra["structured_outputs"]["json"], "f")


@pytest.mark.parametrize(
    "earlier", ["你好，" * 5, "我昨天去了慕尼黑的一家餐馆，那里的菜很好吃。" * 10, "hello there " * 300, ""]
)
async def test_a_long_conversation_leaves_the_request_to_copy_from(earlier: str) -> None:
    llm = FakeLLM('{"a": "x"}')
    asked = "帮我查一下明天从柏林出发的火车"
    one = replace(
        writer(llm, asked, copying=True), messages=tuple(Message(role="user", content=t) for t in (earlier, asked))
    )
    await one.write(tool(properties={"a": TEXT}), {"properties": {"a": TEXT}}, (), ())
    assert "柏林" in llm.requests[0].extra["structured_outputs"]["json"]["properties"]["a"]["enum"]
