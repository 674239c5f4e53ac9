from __future__ import annotations

from typing import Any

import pytest

from personaagent.errors import InvalidInput
from personaagent.tools.client_tools import OFFERED, ClientTools, asking_for, made_before, offered, offered_specs
from personaagent.tools.lessons import lessons
from personaagent.tools.tool import ToolSpec
from personaagent.types import Action, Interaction, Message, utc_now

TRAIN = {
    "name": "find_train",
    "description": "Trains between two places.",
    "parameters": {
        "type": "object",
        "properties": {"to": {"type": "string"}, "fare": {"type": "string", "enum": ["first", "second"]}},
        "required": ["to"],
    },
}


def extra(*functions: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"tools": [{"type": "function", "function": f} for f in functions], **more}


def interaction(**metadata: Any) -> Interaction:
    return Interaction(id="i", user="anna", time=utc_now(), query="To Rome, please.", metadata=metadata)


def test_what_a_request_asks_of_its_tools() -> None:
    plain = ClientTools.of(extra(TRAIN))
    assert plain is not None
    assert plain.must is None
    assert not plain.required
    assert plain.parallel
    assert [s.name for s in plain.specs] == ["find_train"]
    named = ClientTools.of(extra(TRAIN, tool_choice={"type": "function", "function": {"name": "find_train"}}))
    assert named is not None
    assert named.must == "find_train"
    required = ClientTools.of(extra(TRAIN, tool_choice="required", parallel_tool_calls=False))
    assert required is not None
    assert required.required
    assert not required.parallel
    assert ClientTools.of(extra(TRAIN, tool_choice="none")) is None
    assert ClientTools.of({}) is None


@pytest.mark.parametrize(
    ("functions", "says"),
    [
        ([{"name": "answer"}], "tools.0.function.name"),
        ([{"name": "a b"}], "tools.0.function.name"),
        ([{"name": "x" * 65}], "tools.0.function.name"),
        ([TRAIN, TRAIN], "rename one"),
        ([{"name": "f", "parameters": {"type": "array"}}], "tools.0.function.parameters"),
        ([{"name": "f", "parameters": {"properties": {"a": {"$ref": "http://x/y"}}}}], "write it out"),
        ([{"name": "f", "parameters": {"properties": 3}}], "JSON Schema"),
        ([{"name": "größe"}], "tools.0.function.name"),
        ([{"name": "f\n"}], "tools.0.function.name"),
        ([{"name": f"f{n}"} for n in range(10_000)], "at most 128"),
        ([{"name": f"f{n}", "parameters": {"description": "x" * 50_000}} for n in range(9)], "kB together"),
        ([{"name": "f", "parameters": {"properties": {"a": {"$ref": "#/$defs/a"}}}}], "not there"),
    ],
)
def test_what_no_tool_can_be_is_told(functions: list[dict[str, Any]], says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        ClientTools.of(extra(*functions))


@pytest.mark.parametrize("parameters", [None, {}, {"type": ["object", "null"]}, {"properties": {}}])
def test_a_tool_without_arguments_in_every_form(parameters: Any) -> None:
    tools = ClientTools.of(extra({"name": "f", "strict": True, "description": None, "parameters": parameters}))
    assert tools is not None
    assert tools.specs[0].parameters["type"] == "object"


def test_calls_that_the_application_answered_are_known() -> None:
    seen = ClientTools.of(extra(TRAIN))
    assert seen is not None
    messages = [
        Message(role="user", content="To Rome, please."),
        Message.model_validate(
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {"id": "1", "type": "function", "function": {"name": "find_train", "arguments": '{"to": "Rome"}'}},
                    {"id": "2", "type": "function", "function": {"name": "find_train", "arguments": "no JSON"}},
                    {"id": "3", "type": "function", "function": {"name": "find_train", "arguments": "{}"}},
                ],
            }
        ),
        Message.model_validate({"role": "tool", "tool_call_id": "1", "content": "at nine"}),
    ]
    known = made_before(messages, 50)
    assert [(o.call.arguments, o.text, o.client, o.recorded) for o in known] == [
        ({"to": "Rome"}, "at nine", True, True)
    ]
    assert made_before([*messages, Message(role="user", content="Thanks.")], 50) == []


def test_the_message_that_asks_for_calls_can_be_sent_back() -> None:
    asked = asking_for(made_before([], 50))
    assert asked == {"role": "assistant", "content": None, "tool_calls": []}


def test_what_was_right_among_the_applications_tools_is_learned_with_the_lists_of_their_arguments() -> None:
    tools = ClientTools.of(extra(TRAIN))
    assert tools is not None
    about = interaction(**{OFFERED: offered(tools)})
    own = ToolSpec(name="weather", description="The weather.")
    made = lessons(about, Action(tool="find_train", arguments={"fare": "first", "to": "Rome"}), [own])
    assert made[0].choices == ("answer", "find_train", "weather")
    assert made[0].truth == "find_train"
    assert made[1].choices == ("first", "second")
    assert made[1].truth == "first"
    with pytest.raises(InvalidInput, match="no argument 'from'"):
        lessons(about, Action(tool="find_train", arguments={"from": "Bern"}), [own])


def test_of_very_many_tools_the_names_are_kept() -> None:
    many = [{"name": f"tool_{n}", "parameters": {"properties": {"x" * 60: {}}}} for n in range(128)]
    tools = ClientTools.of(extra(*many))
    assert tools is not None
    about = interaction(**{OFFERED: offered(tools)})
    assert lessons(about, Action(tool="tool_7"), [])[0].truth == "tool_7"


@pytest.mark.parametrize("kept", [None, 3, [], {"a b": {}}, {"f": 3}, {"f": {"a": 3}}, {"f": {"a": []}}])
def test_metadata_may_be_anybodys(kept: Any) -> None:
    for spec in offered_specs(interaction(**{OFFERED: kept})):
        assert spec.name == "f"
