"""Pages in a browser, and strangers on the network, do not get into a server that was not opened to them."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from pydantic import SecretStr, ValidationError

from personaagent.errors import InvalidInput
from personaagent.settings import ServeSettings
from serve.http.sites import Sites, check_exposure
from tests.support.api_world import JSON, World, assert_error

PAGE = "https://evil.example"


def laptop(**more: Any) -> World:
    world = World(**{"allowed_hosts": None, **more})
    del world.http.headers["X-PersonaAgent"]
    return world


async def sent(world: World, method: str, path: str, host: str = "127.0.0.1:8000", **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await world.http.request(method, path, headers={"Host": host, **named})


OURS = """127.0.0.1 127.0.0.1:8000 127.9.8.7 localhost LOCALHOST:1 localhost. [::1] [::1]:8000 [::ffff:127.0.0.1]:80
    chat.localhost:8000"""
FOREIGN_HOSTS = """evil.example evil.example:8000 localhost.evil.example 127.0.0.1.evil.example 127.0.0.1@evil.example
    192.168.1.7:8000 10.0.0.1 0.0.0.0:8000 [2001:db8::1] notlocalhost localhost:8000/x 127.1 [::1]evil localhost:99999999
    localhost\\evil 2130706433 localhost:8000:8000"""


async def test_a_laptop_answers_as_itself() -> None:
    world = laptop()
    for host in OURS.split():
        assert (await sent(world, "GET", "/v1/models", host)).status_code == 200, host


@pytest.mark.parametrize("path", ["/v1/models", "/v1/users/anna/export", "/readyz", "/openapi.json", "/nowhere"])
async def test_a_name_pointed_here_from_outside_gets_nothing(path: str) -> None:
    world = laptop()
    for host in ["", *FOREIGN_HOSTS.split()]:
        assert_error(await sent(world, "GET", path, host), 403, "host_not_allowed")


async def test_further_hosts_are_a_setting() -> None:
    world = laptop(allowed_hosts=("Box.lan",))
    assert (await sent(world, "GET", "/v1/models", "box.lan:8000")).status_code == 200
    assert_error(await sent(world, "GET", "/v1/models", "evil.example"), 403, "host_not_allowed")


def test_a_server_with_a_key_answers_under_any_name_and_one_without_only_under_what_nobody_can_point_at_it() -> None:
    keyed = Sites(ServeSettings(host="0.0.0.0", api_key=SecretStr("k")))
    assert keyed.host_fault(b"persona.example.org") is None
    assert keyed.host_fault(b"10.1.2.3:8000") is None
    given = Sites(ServeSettings(host="0.0.0.0", api_key=SecretStr("k"), allowed_hosts=("persona.example.org",)))
    assert given.host_fault(b"persona.example.org") is None
    assert given.host_fault(b"other.example.org") is not None
    assert given.host_fault(b"10.1.2.3:8000") is None  # probes call a pod by its address
    trusting = Sites(ServeSettings(host="0.0.0.0", allow_no_key=True))
    assert trusting.host_fault(b"192.168.1.7:8000") is None
    assert trusting.host_fault(b"evil.example") is not None


@pytest.mark.parametrize(
    ("allowed", "host"),
    [
        ("[fd00::1]", "[fd00::1]:80"),
        ("fd00:0::1", "[fd00::1]"),
        ("fd00::1", "[fd00:0:0::1]:8000"),
        ("büro.lan", "xn--bro-hoa.lan"),
        ("BOX_1.Lan.", "box_1.lan:8000"),
    ],
)
async def test_an_allowed_host_is_known_however_it_is_written(allowed: str, host: str) -> None:
    assert (await sent(laptop(allowed_hosts=(allowed,)), "GET", "/v1/models", host)).status_code == 200


@pytest.mark.parametrize("allowed", ["", " ", "*", "*.lan", "box.lan:8000", "http://box.lan", "box.lan/x", "a b"])
def test_what_never_is_a_host_is_no_setting(allowed: str) -> None:
    with pytest.raises(ValidationError, match="is no host name"):
        ServeSettings(allowed_hosts=(allowed,))


@pytest.mark.parametrize(
    ("allowed", "origin"),
    [
        ("https://chat.example.org:443/", "https://chat.example.org"),
        ("HTTP://Chat.example.org:3000", "http://chat.example.org:3000"),
        ("https://bücher.example", "https://xn--bcher-kva.example"),
        ("http://[FD00:0::1]:3000", "http://[fd00::1]:3000"),
        ("chrome-extension://abcdef", "chrome-extension://abcdef"),
    ],
)
def test_an_allowed_origin_is_known_however_it_is_written(allowed: str, origin: str) -> None:
    assert Sites(ServeSettings(allowed_origins=(allowed,))).allowed_origin(origin.encode()) == origin


@pytest.mark.parametrize(
    "allowed",
    ["", "*", "null", "chat.example.org", "https://", "https://*", "https://a.b/path", "https://u@a.b", "://a"],
)
def test_what_never_is_an_origin_or_could_be_anybodys_is_no_setting(allowed: str) -> None:
    with pytest.raises(ValidationError, match="is no"):
        ServeSettings(allowed_origins=(allowed,))


FOREIGN = [
    {"Origin": PAGE},
    {"Origin": "null"},
    {"Origin": "http://127.0.0.1:3000"},
    {"Origin": "http://localhost:8000"},
    {"Origin": "https://127.0.0.1.evil.example:8000"},
    {"Origin": "chrome-extension://abcdef"},
    {"Origin": ""},
    {"Sec_Fetch_Site": "cross-site"},
    {"Sec_Fetch_Site": "same-site"},
    {"Sec_Fetch_Site": "Cross-Site", "Sec_Fetch_Mode": "no-cors"},
]


@pytest.mark.slow
@pytest.mark.parametrize("headers", FOREIGN)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/users/anna/align"),
        ("DELETE", "/v1/users/anna"),
        ("PUT", "/v1/users/anna/persona"),
        ("GET", "/v1/users/anna/export"),
        ("HEAD", "/v1/users/anna/export"),
        ("OPTIONS", "/v1/users/anna"),
    ],
)
async def test_requests_of_other_sites_pages_are_refused(method: str, path: str, headers: dict[str, str]) -> None:
    world = laptop()
    await world.memory.append("anna", [])
    response = await sent(world, method, path, X_PersonaAgent="1", **headers)
    assert response.status_code == 403
    assert "access-control-allow-origin" not in response.headers


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://127.0.0.1:8000"},
        {"Origin": "http://127.0.0.1:8000", "Sec_Fetch_Site": "same-origin"},
        {"Sec_Fetch_Site": "none"},
        {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate"},  # a link that somebody followed
    ],
)
async def test_our_own_pages_and_links_to_us_are_not(headers: dict[str, str]) -> None:
    assert (await sent(laptop(), "GET", "/v1/models", **headers)).status_code == 200


async def test_the_default_port_of_a_page_is_that_of_its_scheme() -> None:
    world = laptop(api_key=SecretStr("k"), host="0.0.0.0")
    for origin, host, status in (
        ("https://p.example.org", "p.example.org", 200),
        ("https://p.example.org:443", "p.example.org", 200),
        ("http://p.example.org:8080", "p.example.org", 403),
    ):
        response = await sent(world, "GET", "/v1/models", host, Origin=origin, Authorization="Bearer k")
        assert response.status_code == status


async def test_a_followed_link_changes_nothing() -> None:
    response = await sent(
        laptop(),
        "POST",
        "/v1/users/anna/align",
        Content_Type="application/json",
        Sec_Fetch_Site="cross-site",
        Sec_Fetch_Mode="navigate",
    )
    assert_error(response, 403, "origin_not_allowed")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 403),
        ({"Content_Type": "text/plain"}, 403),
        ({"Content_Type": "application/x-www-form-urlencoded"}, 403),
        ({"Authorization": "Basic YTpi"}, 403),  # browsers add these by themselves
        ({"Content_Type": "application/json"}, 404),
        ({"Content_Type": "Application/JSON; charset=utf-8"}, 404),
        ({"X_PersonaAgent": "1"}, 404),
        ({"Authorization": "Bearer none"}, 404),
    ],
)
@pytest.mark.parametrize(
    ("method", "path"),
    [("DELETE", "/v1/users/anna"), ("POST", "/v1/users/anna/align"), ("DELETE", "/v1/users/anna/persona/claims/1")],
)
async def test_a_change_without_a_body_says_that_it_is_meant(
    method: str, path: str, headers: dict[str, str], status: int
) -> None:
    assert (await sent(laptop(), method, path, **headers)).status_code == status


async def test_pages_of_an_allowed_origin_get_in_and_read_the_answer() -> None:
    origin = "https://chat.example.org"
    world = laptop(allowed_origins=(origin,), api_key=SecretStr("k"))
    asked = {"Access_Control_Request_Method": "POST", "Access_Control_Request_Headers": "authorization,content-type"}
    preflight = await sent(world, "OPTIONS", "/v1/chat/completions", Origin=origin, **asked)
    assert preflight.status_code == 204
    assert preflight.headers["access-control-allow-origin"] == origin
    assert "POST" in preflight.headers["access-control-allow-methods"]
    assert "authorization" in preflight.headers["access-control-allow-headers"].lower()
    assert_error(await sent(world, "OPTIONS", "/v1/chat/completions", Origin=PAGE, **asked), 403, "origin_not_allowed")
    answer = await sent(
        world, "GET", "/v1/models", Origin=origin, Sec_Fetch_Site="cross-site", Authorization="Bearer k"
    )
    assert answer.status_code == 200
    assert (answer.headers["access-control-allow-origin"], answer.headers["vary"]) == (origin, "Origin")
    refused = await sent(world, "GET", "/v1/models", Origin=origin)
    assert_error(refused, 401, "invalid_api_key")
    assert refused.headers["access-control-allow-origin"] == origin  # the page learns why


async def test_head_is_get_without_the_body() -> None:
    world = laptop()
    got, head = await sent(world, "GET", "/v1/models"), await sent(world, "HEAD", "/v1/models")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == got.headers["content-length"]
    assert (await sent(world, "HEAD", "/v1/nothing")).status_code == 404


async def test_a_wrong_method_is_told_the_right_ones() -> None:
    response = await sent(laptop(), "PATCH", "/v1/users/anna", Content_Type="application/json")
    assert_error(response, 405, "method_not_allowed")
    assert response.headers["allow"] == "DELETE, GET, HEAD"
    assert_error(await sent(laptop(), "OPTIONS", "/v1/models"), 405, "method_not_allowed")


async def test_an_address_that_is_no_text_is_refused() -> None:
    for path in ("/v1/users/%FF", "/v1/users/anna/memory?query=%FF", "/v1/users?after=%ED%A0%80"):
        assert_error(await sent(laptop(), "GET", path), 422, "invalid_input")
    huge = await world_post(laptop(), {"Content-Length": "9" * 5000})
    assert_error(huge, 413, "request_too_large")


async def world_post(world: World, headers: dict[str, str]) -> httpx.Response:
    return await world.http.post("/v1/chat/completions", content=b"{}", headers={"Host": "[::1]", **JSON, **headers})


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "box.lan", "", "0", "10.0.0.1"])
def test_without_a_key_nothing_listens_on_a_network(host: str) -> None:
    for key in (None, SecretStr("")):
        with pytest.raises(InvalidInput, match="api_key"):
            check_exposure(ServeSettings(host=host, api_key=key))
    check_exposure(ServeSettings(host=host, api_key=SecretStr("k")))
    check_exposure(ServeSettings(host=host, allow_no_key=True))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
def test_on_loopback_a_key_is_the_users_choice(host: str) -> None:
    check_exposure(ServeSettings(host=host))
