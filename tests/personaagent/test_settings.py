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
