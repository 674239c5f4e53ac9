"""Every fenced block of the docs is run where it can be, and read by whatever would run it where it cannot."""

from __future__ import annotations

import argparse
import functools
import json
import re
import shlex
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import openai
import pytest
import yaml
from starlette.testclient import TestClient

from cluster import render
from personaagent.settings import Settings
from personaagent.tools.tool import ToolSpec
from tests.simulation import __main__ as simulation
from tests.support.api_world import World
from tests.test_readme import DOCS, ROOT

# Programs of others: their command lines are read by the shell alone.
OTHERS = {".ci/run", "curl", "docker", "export", "grep", "helm", "kind", "kubectl", "make", "personaagent", "python"}
OTHERS |= {"schemathesis", "sed"}
LANGUAGES = {"bash", "javascript", "json", "mermaid", "python", "text", "yaml", ""}
WIDTH = 100


class Block(NamedTuple):
    """A fenced block, and where it stands."""

    doc: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.doc.relative_to(ROOT)}:{self.line}"


def fenced(doc: Path) -> Iterator[Block]:
    language, start, lines = "", 0, list[str]()
    for number, line in enumerate(doc.read_text(encoding="utf-8").splitlines(), 1):
        if not line.startswith("```"):
            lines.append(line)
        elif start:
            yield Block(doc, start, language, "\n".join(lines))
            start = 0
        else:
            language, start, lines = line[3:], number, []
    assert not start, f"{doc}: the block of line {start} does not end"


BLOCKS = [block for doc in DOCS for block in fenced(doc)]


def of(language: str) -> Any:
    """Parametrises a test with all blocks of a language."""
    return pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == language], ids=str)


def commands(block: Block) -> list[list[str]]:
    """The words of every command, those of a pipe one after the other. Quotes and backslashes may go over lines."""
    found, held = list[list[str]](), ""
    for line in block.text.splitlines():
        if line.endswith("\\"):
            held += line[:-1]
            continue
        held += line
        try:
            words = shlex.split(held, comments=True)
        except ValueError:  # a quote is open
            held += "\n"
            continue
        held = ""
        while "|" in words:
            found.append(words[: words.index("|")])
            words = words[words.index("|") + 1 :]
        found.append(words)
    assert not held, f"{block}: a command does not end"
    return [words for words in found if words]


def test_blocks_are_of_known_languages() -> None:
    assert {block.language for block in BLOCKS} <= LANGUAGES


@of("bash")
def test_bash_reads_its_blocks(block: Block) -> None:
    subprocess.run(["bash", "-n"], input=block.text, text=True, check=True, capture_output=True)
    assert {command[0] for command in commands(block)} <= OTHERS


@of("bash")
def test_our_modules_read_their_command_lines(block: Block, monkeypatch: pytest.MonkeyPatch) -> None:
    """They get as far as their parsers, which end the program here."""
    mains = {"cluster.render": render.main, "tests.simulation": simulation.main}
    read = argparse.ArgumentParser.parse_known_args

    class Read(Exception):
        pass

    def parse(self: argparse.ArgumentParser, *given: Any) -> Any:
        read(self, *given)
        raise Read

    monkeypatch.setattr(argparse.ArgumentParser, "parse_known_args", parse)
    for words in commands(block):
        if words[:2] == ["python", "-m"]:
            monkeypatch.setattr(sys, "argv", words[2:])
            with pytest.raises(Read):
                mains[words[2]]()


@of("json")
def test_json_is_json(block: Block) -> None:
    try:
        json.loads(block.text)
    except json.JSONDecodeError:  # a line each
        for line in block.text.splitlines():
            json.loads(line)


@of("yaml")
def test_yaml_is_yaml(block: Block) -> None:
    found = yaml.safe_load(block.text)
    assert isinstance(found, dict)
    if block.doc.name == "configuration.md" or "tools" in found:
        Settings(**found)


@of("python")
def test_python_compiles(block: Block) -> None:
    compile(block.text, str(block), "exec")


@of("javascript")
def test_javascript_is_javascript(block: Block, tmp_path: Path) -> None:
    if (node := shutil.which("node")) is None:
        pytest.skip("no node here")
    file = tmp_path / "block.mjs"
    file.write_text(block.text, encoding="utf-8")
    subprocess.run([node, "--check", file], check=True, capture_output=True)


@of("mermaid")
def test_diagrams_close_what_they_open(block: Block) -> None:
    kind, *lines = block.text.splitlines()
    assert kind.split()[0] in {"flowchart", "sequenceDiagram"}
    assert sum(line.split()[:1] == ["subgraph"] for line in lines) == sum(line.strip() == "end" for line in lines)
    for line in lines:
        assert line.count('"') % 2 == 0, line
        for one, other in ("[]", "()", "{}"):
            assert line.count(one) == line.count(other), line
    if kind == "sequenceDiagram":
        names = {line.split()[1] for line in lines if line.split()[0] == "participant"}
        used = {name for line in lines for name in re.findall(r"^\s*(\w+)-+>>(\w+):", line) for name in name}
        assert used == names


# The server's own requests, on an API in this process


@pytest.fixture
def client() -> Iterator[TestClient]:
    handbook = ToolSpec(name="search_handbook", description="The company's handbook.")  # of docs/tools.md
    world = World(specs=(handbook,), default_user="me", allowed_hosts=("127.0.0.1",))
    with TestClient(world.app, base_url="http://127.0.0.1:8000") as http:
        yield http


def curls(doc: Path) -> list[list[str]]:
    return [
        words for block in fenced(doc) if block.language == "bash" for words in commands(block) if words[0] == "curl"
    ]


@pytest.mark.parametrize("doc", [d for d in DOCS if curls(d)], ids=lambda d: str(d.relative_to(ROOT)))
def test_requests_are_answered(doc: Path, client: TestClient) -> None:
    """All of a page, one after the other, each naming the answer before it where it says so."""
    interaction = answer = ""
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("-H", action="append", default=[])
    parser.add_argument("-d")
    parser.add_argument("-X")
    if doc.name == "api.md":  # somebody to forget
        client.post("/v1/users/anna/interactions", json={"query": "tea?", "truth": "yes"}).raise_for_status()
    for words in curls(doc):
        asked = parser.parse_args(words[1:])
        url = asked.url.replace("INTERACTION_ID", interaction).replace("chatcmpl-ID", answer)
        headers = dict(header.split(": ", 1) for header in asked.H)
        method = asked.X or ("GET" if asked.d is None else "POST")
        response = client.request(method, url, headers=headers, content=asked.d)
        assert response.status_code == 200, (words, response.text)
        if url.endswith("/chat/completions"):
            interaction, answer = response.json()["personaagent"]["interaction_id"], response.json()["id"]


def test_a_first_personal_answer_says_what_it_was_learned_from(client: TestClient) -> None:
    """What the README promises of its three requests."""
    parsed = [json.loads(words[words.index("-d") + 1]) for words in curls(ROOT / "README.md")]
    first, feedback, again = parsed[:3]
    told = client.post("/v1/chat/completions", json=first).json()["personaagent"]
    path = f"/v1/users/anna/interactions/{told['interaction_id']}/feedback"
    client.post(path, json=feedback).raise_for_status()
    answer = client.post("/v1/chat/completions", json=again).json()["personaagent"]
    assert max(answer["scores"], key=answer["scores"].get) == feedback["truth"]
    assert {i for reason in answer["why"] for i in reason["interactions"]} == {told["interaction_id"]}


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "python" and "import OpenAI" in b.text], ids=str)
def test_snippets_of_openais_client_run(block: Block, client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai, "OpenAI", functools.partial(openai.OpenAI, http_client=client))
    exec(block.text.replace("smollm2-135m-instruct", "echo"), {})


# Pages


@pytest.mark.parametrize("doc", DOCS, ids=lambda d: str(d.relative_to(ROOT)))
def test_files_that_pages_name_exist(doc: Path) -> None:
    text = re.sub(r"^```(?!bash).*?^```", "", doc.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    packages = "personaagent|alignment|actors|serve|cluster|tests|docs|requirements"
    for path in re.findall(rf"`((?:{packages})/[\w./-]*)`", text):
        assert (ROOT / path).exists(), path


def anchors(doc: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", doc.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


@pytest.mark.parametrize("doc", DOCS, ids=lambda d: str(d.relative_to(ROOT)))
def test_links_into_pages_lead_to_headings(doc: Path) -> None:
    for file, anchor in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", doc.read_text(encoding="utf-8")):
        page = (doc.parent / file).resolve() if file else doc
        assert anchor in anchors(page), f"{file}#{anchor}"


@pytest.mark.parametrize("doc", DOCS, ids=lambda d: str(d.relative_to(ROOT)))
def test_lines_of_prose_are_short(doc: Path) -> None:
    """Tables and code may be longer."""
    inside = False
    for number, line in enumerate(doc.read_text(encoding="utf-8").splitlines(), 1):
        if line.startswith("```"):
            inside = not inside
        if not inside and not line.startswith("|"):
            assert len(line) <= WIDTH, f"{doc.name}:{number}"


@pytest.mark.parametrize("picture", sorted((ROOT / "docs").glob("*.svg")), ids=lambda p: p.name)
def test_pictures_are_well_formed_and_say_what_they_show(picture: Path) -> None:
    root = ET.parse(picture).getroot()
    assert root.find("{http://www.w3.org/2000/svg}title") is not None
    assert root.find("{http://www.w3.org/2000/svg}desc") is not None
