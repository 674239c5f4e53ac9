"""Which settings are secret, and how the rest is written down.

Secrets reach the pods as environment variables out of a Kubernetes Secret. Nothing here ever returns their values.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, get_args, get_origin
from urllib.parse import urlsplit

from pydantic import BaseModel, SecretStr

from personaagent.errors import InvalidInput
from personaagent.settings import Settings

__all__ = ["public_tree", "secret_variables"]

SUSPICIOUS = re.compile(r"(token|secret|password|api_?key)$", re.IGNORECASE)
API_KEY = "PERSONAAGENT_SERVE__API_KEY"


def secret_variables(settings: Settings) -> dict[str, bool]:
    """The environment variable of every secret setting, and whether the Secret must hold it.

    It must hold those that the given settings set, and the API key always: an API that answers for any user must not be
    open by oversight. A list whose entries may have secrets is one variable, which holds all of it as JSON.
    """
    variables = {}
    for path in _secret_paths(Settings):
        variable = "PERSONAAGENT_" + "__".join(path).upper()
        variables[variable] = _holds_secret(_at(settings, path)) or variable == API_KEY
    return variables


def public_tree(settings: Settings) -> dict[str, Any]:
    """What the settings set differently from their defaults, without secrets.

    Secrets are absent, not null: a null would win over the environment.

    Raises:
        InvalidInput: a free-form value or a URL carries what looks like a credential.
    """
    tree: dict[str, Any] = settings.model_dump(mode="json", exclude_defaults=True)
    for path in _secret_paths(Settings):
        branch: Any = tree
        for name in path[:-1]:
            branch = branch.get(name, {})
        if _holds_secret(_at(settings, path)):
            branch.pop(path[-1], None)
    tree = _pruned(tree)
    _refuse_credentials(tree, ())
    return tree


def _secret_paths(section: type[BaseModel]) -> Iterator[tuple[str, ...]]:
    """Settings that are secret, and lists with entries that may have secrets."""
    for name, field in section.model_fields.items():
        for kind in (field.annotation, *get_args(field.annotation)):
            if kind is SecretStr:
                yield (name,)
            elif isinstance(kind, type) and issubclass(kind, BaseModel):
                inner = list(_secret_paths(kind))
                if get_origin(field.annotation) is tuple:
                    inner = [()] if inner else []
                yield from ((name, *rest) for rest in inner)


def _at(settings: Settings, path: Sequence[str]) -> Any:
    value: Any = settings
    for name in path:
        value = getattr(value, name)
    return value


def _holds_secret(value: Any) -> bool:
    if isinstance(value, BaseModel):
        return any(_holds_secret(inner) for _, inner in value)
    if isinstance(value, dict):
        return any(_holds_secret(inner) for inner in value.values())
    if isinstance(value, tuple):
        return any(_holds_secret(inner) for inner in value)
    return isinstance(value, SecretStr)


def _pruned(tree: dict[str, Any]) -> dict[str, Any]:
    pruned = {key: _pruned(value) if isinstance(value, dict) else value for key, value in tree.items()}
    return {key: value for key, value in pruned.items() if value != {}}


def _refuse_credentials(value: Any, path: tuple[str, ...]) -> None:
    where = ".".join(path)
    if isinstance(value, dict):
        for key, inner in value.items():
            _refuse_credentials(inner, (*path, str(key)))
    elif isinstance(value, list):
        for inner in value:
            _refuse_credentials(inner, path)
    elif isinstance(value, str) and path:
        if SUSPICIOUS.search(path[-1]):
            raise InvalidInput(
                f"{where} looks like a secret; give it to the pods through the Secret, not in the settings"
            )
        if "://" in value and "@" in urlsplit(value).netloc:
            raise InvalidInput(f"{where} carries a credential in its URL; take it out and put it into the Secret")
