from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from personaagent import settings as module
from personaagent.errors import InvalidInput
from personaagent.settings import Settings, load_settings


@pytest.mark.parametrize("name", module._DROPPED)
def test_an_old_file_that_names_a_dropped_setting_is_told_to_take_it_out(tmp_path: Path, name: str) -> None:
    section, key = name.split(".")
    assert key not in type(getattr(Settings.model_construct(), section)).model_fields
    file = tmp_path / "settings.yaml"
    file.write_text(f"{section}:\n  {key}: 7\n")
    with pytest.raises(InvalidInput, match=rf"^setting {name}: is no setting any more, take it out: "):
        load_settings(file)


@pytest.mark.parametrize("wrong", [{"embedder": {"batch_wait": 1}}, {"nothing": 1}])
def test_an_unknown_setting_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match="there is no such setting"):
        load_settings(**wrong)


def test_what_does_not_fit_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERSONAAGENT_MEMORY__SHARDS", "0")
    with pytest.raises(InvalidInput, match=r"^setting memory\.shards: .*greater than or equal to 1"):
        load_settings()


@pytest.mark.parametrize(
    ("tools", "reason"),
    [
        ({"mcp": [{"name": "a", "comand": ["npx"]}]}, r"tools\.mcp\.0\.comand: .*; did you mean command\?"),
        (
            {"http": [{"name": "a", "description": "d", "url": "u", "key": "k"}]},
            r"tools\.http\.0\.key: .*; there are name, description, url, ",
        ),
        ({"mcp": {"name": "a"}}, r"tools\.mcp: must be a list"),
        ({"mcp": [{"name": "a", "command": "npx -y server"}]}, r"tools\.mcp\.0\.command: must be a list"),
    ],
)
def test_a_mistake_in_a_list_of_tools_is_told(tools: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidInput, match=f"^setting {reason}"):
        load_settings(tools=tools)


def test_a_folder_of_documents_is_known_by_its_whole_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/anna")
    entries = [{"description": "d", "folder": "handbook"}, {"name": "b", "description": "d", "folder": "~/handbook"}]
    found = load_settings(tools={"documents": entries}).tools.documents
    assert [d.folder for d in found] == [tmp_path / "handbook", Path("/home/anna/handbook")]
