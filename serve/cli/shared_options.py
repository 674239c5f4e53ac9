"""Options that every command has, before or after its name, and how they become settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from personaagent.errors import InvalidInput

if TYPE_CHECKING:
    from personaagent.settings import Settings

__all__ = ["Options", "parse_assignment"]


@dataclass
class Options:
    """What the shared options said. Options after the command's name win over those before it."""

    config: Path | None = None
    home: Path | None = None
    model: str | None = None
    assignments: list[str] = field(default_factory=list)  # of --set, in order
    verbose: bool = False

    def merged(self, later: Options) -> Options:
        """These options with `later` ones on top."""
        return Options(
            config=later.config or self.config,
            home=later.home or self.home,
            model=later.model or self.model,
            assignments=[*self.assignments, *later.assignments],
            verbose=self.verbose or later.verbose,
        )

    def settings(self, **flags: Any) -> Settings:
        """The settings in force.

        Args:
            flags: nested settings from a command's own options; they win over --set.

        Raises:
            InvalidInput: a --set without `=`, an unknown key, or a value that does not fit.
        """
        from personaagent.settings import load_settings

        tree: dict[str, Any] = {}
        for assignment in self.assignments:
            _merge(tree, parse_assignment(assignment))
        if self.home is not None:
            tree["home"] = self.home
        if self.model is not None:
            _merge(tree, {"llm": {"model": self.model}})
        _merge(tree, flags)
        settings = load_settings(self.config, **tree)
        # Processes of the cluster have working directories of their own.
        return settings.model_copy(update={"home": settings.home.expanduser().resolve()})


def parse_assignment(assignment: str) -> dict[str, Any]:
    """`alignment.batch=5` as {"alignment": {"batch": "5"}}.

    Values of known settings stay text, which the settings convert to their type, except `null`, and lists and mappings in
    YAML. Values below a free mapping (`llm.engine_kwargs.enforce_eager=true`) are read as YAML, having no declared type.

    Raises:
        InvalidInput: there is no `=`, or the path or the YAML is broken.
    """
    import yaml

    path, equals, raw = assignment.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise InvalidInput(f"--set takes key.path=value, not {assignment!r}")
    value: Any = raw
    if raw.strip() in ("null", "~") or raw.lstrip()[:1] in ("[", "{") or _is_free(keys):
        try:
            value = yaml.safe_load(raw)
        except yaml.YAMLError as e:
            raise InvalidInput(f"--set {path}: {raw!r} is not YAML") from e
    for key in reversed(keys):
        value = {key: value}
    return dict(value)


def _is_free(keys: list[str]) -> bool:
    """Whether the path goes below a setting that is a mapping of anything."""
    from pydantic import BaseModel

    from personaagent.settings import Settings

    section: type[BaseModel] | None = Settings
    for position, key in enumerate(keys):
        if section is None:
            return True
        if key not in section.model_fields:
            return False  # unknown: the settings refuse it by name
        annotation = section.model_fields[key].annotation
        branches = [t for t in (annotation, *get_args(annotation)) if isinstance(t, type) and issubclass(t, BaseModel)]
        section = branches[0] if branches else None
        if section is None and position < len(keys) - 1 and "dict" not in str(annotation):
            return False
    return False


def _merge(tree: dict[str, Any], other: Mapping[str, Any]) -> None:
    for key, value in other.items():
        if isinstance(value, Mapping) and isinstance(tree.get(key), dict):
            _merge(tree[key], value)
        else:
            tree[key] = dict(value) if isinstance(value, Mapping) else value
