"""What settings are called, in files, flags and the environment, and which was probably meant where a name is wrong."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from personaagent.errors import InvalidInput
from personaagent.nearest import likely, nearest

__all__ = ["check_environment", "fault", "setting_paths"]

PREFIX = "PERSONAAGENT_"
# Kubernetes puts the addresses of services into the environment of every pod.
ADDRESSES = ("tcp://", "udp://", "sctp://")


def setting_paths(tree: type[BaseModel], above: str = "") -> list[str]:
    """Every setting's path below a section, like `memory.shards`."""
    found = []
    for name, field in tree.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            found += setting_paths(kind, f"{above}{name}.")
        else:
            found.append(above + name)
    return found


def fault(error: ValidationError, tree: type[BaseModel]) -> str:
    """The first thing that is wrong with settings, with the key or value that was probably meant."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"]) or "settings"
    if first["type"] == "extra_forbidden" and (keys := _keys_of_entry(tree, first["loc"][:-1])):
        return f"setting {where}: there is no such setting{likely(str(first['loc'][-1]), keys)}"
    if first["type"] == "extra_forbidden":
        return f"setting {where}: there is no such setting; {_hint(where, setting_paths(tree))}"
    reason = str(first["msg"]).removeprefix("Value error, ")
    if first["type"] == "tuple_type":
        reason = "must be a list, in YAML [a, b] or a line for each item"
    if first["type"] == "literal_error" and isinstance(first["input"], str):
        near = nearest(first["input"], re.findall(r"'([^']*)'", first["ctx"]["expected"]))
        reason += f"; did you mean {near}?" if near is not None else ""
    return f"setting {where}: {reason}"


def _keys_of_entry(tree: type[BaseModel], path: Sequence[int | str]) -> list[str]:
    """The keys that an entry of a list may have; none if the path leads to no such entry."""
    kind: Any = tree
    for part in path:
        if isinstance(part, int):
            kind = next(iter(get_args(kind)), None)
        elif isinstance(kind, type) and issubclass(kind, BaseModel) and part in kind.model_fields:
            kind = kind.model_fields[part].annotation
        else:
            return []
    listed = bool(path) and isinstance(path[-1], int) and isinstance(kind, type) and issubclass(kind, BaseModel)
    return list(kind.model_fields) if listed else []


def _hint(path: str, known: Sequence[str]) -> str:
    """The setting of this name in another section, or the one beside it that is written alike."""
    *above, name = path.split(".")
    if elsewhere := [key for key in known if key.split(".")[-1] == name]:
        return f"did you mean {' or '.join(elsewhere)}?"
    beside = {key.split(".")[len(above)] for key in known if key.split(".")[: len(above)] == above}
    if (near := nearest(name, beside)) is not None:
        return f"did you mean {'.'.join([*above, near])}?"
    near = nearest(path, known)
    return f"did you mean {near}?" if near is not None else "`personaagent settings` prints those there are"


def check_environment(environment: Mapping[str, str], tree: type[BaseModel], others: Sequence[str]) -> None:
    """Refuse variables that are meant for settings but would reach none, and so change nothing without a word.

    Other variables with our prefix are nobody's business: Kubernetes tells the address of a service called `personaagent` in
    PERSONAAGENT_PORT and the like. A variable is taken for a setting if it has the `__` between section and key, lacks only
    that, or is one word that is nearly the name of one that is read.

    Args:
        environment: names and values.
        tree: the settings.
        others: names that are read besides, without the prefix, in lower case.

    Raises:
        InvalidInput: with the nearest right name.
    """
    paths = setting_paths(tree)
    names = {_variable(path): path for path in paths}
    words = {_variable(word) for word in (*tree.model_fields, *others)}
    joined = {name.replace("__", "_"): name for name in names}
    alone = [_variable(word) for word in (*(p for p in paths if "." not in p), *others)]
    for variable, value in environment.items():
        name = variable.upper()
        if not name.startswith(PREFIX) or name in names or name in words or value.startswith(ADDRESSES):
            continue
        path = name.removeprefix(PREFIX).lower().replace("__", ".")
        if "." in path:
            if not any(path.startswith(f"{known}.") for known in paths):  # else a key of a mapping of anything
                near = nearest(name, names)
                hint = f"; did you mean {near}?" if near is not None else ""
                raise InvalidInput(f"environment variable {variable}: there is no such setting{hint}")
        elif name in joined:
            raise InvalidInput(f"environment variable {variable}: two underscores end a section, as in {joined[name]}")
        elif "_" not in path:
            near = nearest(path, [one.removeprefix(PREFIX) for one in alone])
            if near is not None:
                raise InvalidInput(f"environment variable {variable}: did you mean {PREFIX}{near}?")


def _variable(path: str) -> str:
    return PREFIX + path.upper().replace(".", "__")
