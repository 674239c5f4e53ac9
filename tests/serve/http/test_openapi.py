"""The document that describes the API says what clients get: bodies, answers, errors in our shape, and the key."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi.routing import APIRoute
from pydantic import SecretStr

from personaagent import __version__
from serve.http.interaction_bodies import InteractionsBody
from serve.http.middleware import JsonRoute
from tests.support.api_world import World


async def described(**serve: Any) -> dict[str, Any]:
    headers = {"Authorization": "Bearer k"} if "api_key" in serve else {}
    document: dict[str, Any] = (await World(**serve).http.get("/openapi.json", headers=headers)).json()
    return document


def operations(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [(path, method, o) for path, methods in document["paths"].items() for method, o in methods.items()]


def references(node: Any) -> set[str]:
    if isinstance(node, list):
        return set().union(*(references(n) for n in node))
    if isinstance(node, dict):
        own = {node["$ref"]} if isinstance(node.get("$ref"), str) else set()
        return own.union(*(references(n) for n in node.values()))
    return set()


@pytest.mark.slow
async def test_every_operation_names_its_errors_in_our_shape_and_what_it_takes_and_gives() -> None:
    document = await described()
    text = str(document)
    assert "HTTPValidationError" not in text
    for path, method, operation in operations(document):
        for status in ("400", "403", "404", "408", "415", "422", "429", "500", "504"):
            name = operation["responses"][status]["$ref"].rpartition("/")[2]
            content = document["components"]["responses"][name]["content"]
            assert content == {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorBody"}}}
        for answer in operation["responses"]["200"]["content"].values():
            assert answer["schema"], (path, method)
        body = operation.get("requestBody", {}).get("content", {}).get("application/json", {"schema": {"$ref": ""}})
        assert {"$ref", "anyOf"} & body["schema"].keys(), (path, method)
        named = [p["name"] for p in operation.get("parameters", [])]
        changes_without_body = method not in ("get", "head") and "requestBody" not in operation
        assert ("X-PersonaAgent" in named) == changes_without_body
    for reference in references(document):
        section, name = reference.removeprefix("#/components/").split("/")
        assert name in document["components"][section]


async def test_streams_exports_and_headers_are_described() -> None:
    paths = (await described())["paths"]
    chat = paths["/v1/chat/completions"]["post"]["responses"]["200"]
    assert set(chat["content"]) == {"application/json", "text/event-stream"}
    assert "X-Interaction-Id" in chat["headers"]
    export = paths["/v1/users/{user}/export"]["get"]["responses"]["200"]["content"]
    assert list(export) == ["application/x-ndjson"]
    (user,) = [p for p in paths["/v1/users/{user}"]["get"]["parameters"] if p["in"] == "path"]
    assert "ercent-encoded" in user["description"]


async def test_a_key_is_part_of_the_description_where_one_is_asked_for() -> None:
    assert "security" not in await described()
    document = await described(api_key=SecretStr("k"))
    assert document["security"] == [{"key": []}]
    assert document["components"]["securitySchemes"]["key"] == {"type": "http", "scheme": "bearer"}
    assert document["paths"]["/healthz"]["get"]["security"] == []
    assert "401" in document["paths"]["/v1/models"]["get"]["responses"]
    assert "401" not in document["paths"]["/readyz"]["get"]["responses"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "body",
    [
        {"query": "q"},
        [{"query": "q", "time": 5}, {"query": "r"}],
        {"interactions": [{"query": "q", "choices": ["a", "b"]}]},
    ],
)
async def test_the_three_forms_of_interactions_are_described_and_taken(body: Any) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    document = await described()
    schema = document["paths"]["/v1/users/{user}/interactions"]["post"]["requestBody"]["content"]["application/json"][
        "schema"
    ]
    validator = jsonschema.Draft202012Validator({**schema, "components": document["components"]})
    assert validator.is_valid(body)
    assert not validator.is_valid([])
    assert not validator.is_valid({"question": "q"})
    InteractionsBody.model_validate(body)
    assert (await World().post("anna", "/interactions", body)).status_code == 200


@pytest.mark.slow
async def test_what_validators_refuse_the_document_refuses_and_null_is_as_good_as_absent() -> None:
    document = await described()
    schemas = document["components"]["schemas"]
    assert schemas["RollbackBody"]["properties"]["number"]["minimum"] == 1
    assert schemas["Question"]["properties"]["choices"]["items"]["pattern"] == r"\S"
    assert {"type": "null"} in schemas["ClaimBody"]["properties"]["kind"]["anyOf"]
    for _, _, operation in operations(document):
        assert not any("null" in str(p["schema"].get("type", p["schema"])) for p in operation.get("parameters", []))


async def test_operations_keep_their_names_and_their_order() -> None:
    """Generated clients name their functions after these."""
    ids = [o["operationId"] for _, _, o in operations(await described())]
    assert ids == [
        "list_models_v1_models_get",
        "get_model_v1_models__model__get",
        "chat_v1_chat_completions_post",
        "list_users_v1_users_get",
        "summary_v1_users__user__get",
        "forget_v1_users__user__delete",
        "export_v1_users__user__export_get",
        "profile_v1_users__user__profile_get",
        "recall_v1_users__user__memory_get",
        "explain_choice_v1_users__user__explain_post",
        "append_v1_users__user__interactions_post",
        "feedback_v1_users__user__interactions__interaction__feedback_post",
        "delete_v1_users__user__interactions__interaction__delete",
        "align_v1_users__user__align_post",
        "get_persona_v1_users__user__persona_get",
        "put_persona_v1_users__user__persona_put",
        "versions_v1_users__user__persona_versions_get",
        "rollback_v1_users__user__persona_rollback_post",
        "pin_v1_users__user__persona_pin_post",
        "add_claim_v1_users__user__persona_claims_post",
        "strike_claim_v1_users__user__persona_claims__number__delete",
        "pin_one_v1_users__user__persona_claims__number__pin_post",
        "healthz_healthz_get",
        "alignment_v1_alignment_get",
        "readyz_readyz_get",
    ]


async def test_every_endpoint_reads_json_strictly() -> None:
    routes = [route for route in World().app.routes if isinstance(route, APIRoute)]
    assert routes
    assert [route.path for route in routes if not isinstance(route, JsonRoute)] == []


async def test_the_version_is_the_programs() -> None:
    assert (await described())["info"]["version"] == __version__
