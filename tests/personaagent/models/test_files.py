"""Finding and converting models. Only tests marked `model` need the packages with the embedded ones."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from personaagent.errors import InvalidInput, StoreError
from personaagent.models import files as models
from personaagent.settings import Settings, load_settings


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PERSONAAGENT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


def folder(path: Path, **config: Any) -> Path:
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(config))
    return path


def tree(**llm: Any) -> Settings:
    return load_settings(llm=llm)


def test_a_local_folder_is_the_model(tmp_path: Path) -> None:
    path = folder(tmp_path / "my-model", max_position_embeddings=512)
    settings = tree(model=str(path))
    models.check_models(settings)
    assert models.resolve_llm(settings) == str(path)
    assert models.model_name(settings) == "my-model"
    assert models.context_length(settings) == 512


@pytest.mark.parametrize(
    ("config", "llm", "expected"),
    [
        ({"max_position_embeddings": 8192}, {}, 4096),
        ({"max_position_embeddings": 8192}, {"max_model_len": 6000}, 6000),
        ({"max_position_embeddings": 1024}, {"max_model_len": 6000}, 1024),
        ({"text_config": {"max_position_embeddings": 300}}, {}, 300),
        ({}, {}, 4096),
        ({"max_position_embeddings": 512}, {"engine_kwargs": {"max_model_len": 777}}, 777),
    ],
)
def test_context_is_what_the_model_can_do(
    tmp_path: Path, config: dict[str, Any], llm: dict[str, Any], expected: int
) -> None:
    path = folder(tmp_path / "m", **config)
    assert models.context_length(tree(model=str(path), **llm)) == expected


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ("/no/such/folder", "is not a folder"),
        ("no spaces/allowed here", "is not a folder"),
        ("justaname", "is not a folder"),
        ("owner/name", "cannot be reached"),
    ],
)
@pytest.mark.parametrize("setting", ["llm", "embedder"])
def test_wrong_models_are_one_line(model: str, reason: str, setting: str) -> None:
    with pytest.raises(InvalidInput, match=reason) as error:
        models.check_models(load_settings(None, **{setting: {"model": model}}))
    assert "\n" not in error.value.message
    assert f"{setting}.model" in error.value.message


def test_a_folder_without_a_config_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"no config\.json"):
        models.check_models(tree(model=str(tmp_path)))


def test_a_server_needs_the_models_name() -> None:
    with pytest.raises(InvalidInput, match=r"llm\.model"):
        models.model_name(tree(base_url="http://127.0.0.1:1/v1"))
    assert models.model_name(tree(base_url="http://127.0.0.1:1/v1", model="gpt")) == "gpt"


@pytest.mark.usefixtures("cache")
def test_a_missing_package_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "GGUF", ("no_such_package", "file"))
    with pytest.raises(InvalidInput, match="make setup"):
        models.check_models(tree())


def fake_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    package = tmp_path / "site" / "fake_gguf"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('must not be imported')")
    (package / "m.gguf").write_bytes(b"weights")
    monkeypatch.syspath_prepend(str(package.parent))
    monkeypatch.setattr(models, "GGUF", ("fake_gguf", "m.gguf"))
    return package / "m.gguf"


def test_a_changed_file_is_refused_and_leaves_nothing(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_package(tmp_path, monkeypatch)
    with pytest.raises(InvalidInput, match="sha256"):
        models.resolve_llm(tree())
    assert [p for p in cache.iterdir() if p.is_dir()] == []


def test_conversion_happens_once_and_clears_what_was_left_behind(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_package(tmp_path, monkeypatch)
    converted = []

    def convert(source: Path, target: Path) -> None:
        converted.append(source)
        (target / "config.json").write_text("{}")

    monkeypatch.setattr(models, "_verify", lambda file, sha256: None)
    monkeypatch.setattr(models, "_convert", convert)
    target = Path(models.llm_source(tree()))
    stale = cache / f"{target.name}.tmp-killed"
    folder(stale)
    assert models.resolve_llm(tree()) == models.resolve_llm(tree()) == str(target)
    assert len(converted) == 1
    assert sorted(p.name for p in cache.iterdir()) == [target.name, f"{target.name}.lock"]


def test_a_failed_conversion_leaves_nothing_half_made(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_package(tmp_path, monkeypatch)

    def convert(source: Path, target: Path) -> None:
        (target / "model.safetensors").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(models, "_verify", lambda file, sha256: None)
    monkeypatch.setattr(models, "_convert", convert)
    with pytest.raises(StoreError, match="No space left"):
        models.resolve_llm(tree())
    assert [p for p in cache.iterdir() if p.is_dir()] == []


def test_the_second_process_waits_for_the_first(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_package(tmp_path, monkeypatch)
    monkeypatch.setattr(models, "_verify", lambda file, sha256: pytest.fail("converted twice"))
    target = Path(models.llm_source(tree()))
    cache.mkdir()
    code = f"import fcntl; f = open({str(cache / (target.name + '.lock'))!r}, 'a'); fcntl.flock(f, fcntl.LOCK_EX)"
    first = subprocess.Popen(
        [sys.executable, "-c", f"{code}; print('held', flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert first.stdout is not None
    assert first.stdout.readline() == "held\n"
    real, waits = time.sleep, []

    def sleep(seconds: float) -> None:
        if not waits:
            folder(target)  # the first has finished meanwhile ...
            first.communicate("\n")  # ... and lets go
        waits.append(seconds)
        real(seconds)

    monkeypatch.setattr("time.sleep", sleep)
    assert models.resolve_llm(tree()) == str(target)
    assert waits


@pytest.mark.model
def test_the_packaged_embedder_is_found_and_checked_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = models.resolve_embedder(load_settings())
    assert (found / "config.json").is_file()
    monkeypatch.setattr(models, "_verify", lambda file, sha256: pytest.fail("checked twice"))
    assert models.resolve_embedder(load_settings()) == found


@pytest.mark.model
async def test_a_conversion_that_is_broken_off_leaves_nothing_half_made(cache: Path) -> None:
    settings = tree()
    task = asyncio.create_task(models.prepare_llm(settings))
    while not list(cache.glob("*.tmp-*")):  # noqa: ASYNC110, ASYNC240
        await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not await asyncio.to_thread(Path(models.llm_source(settings)).exists)


@pytest.mark.model
def test_a_killed_conversion_is_done_again(cache: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", "from personaagent.models.files import main; main()"])
    while not list(cache.glob("*.tmp-*")):
        assert child.poll() is None
    child.send_signal(signal.SIGKILL)
    child.wait()
    target = Path(models.llm_source(tree()))
    assert not target.exists()
    assert models.resolve_llm(tree()) == str(target)
    assert {p.name for p in target.iterdir()} >= {"config.json", "model.safetensors", "tokenizer.json"}
    assert list(cache.glob("*.tmp-*")) == []
