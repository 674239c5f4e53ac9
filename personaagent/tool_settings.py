"""The branch `tools` of the settings: what the agent may act with, and the bounds of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, field_validator, model_validator

from personaagent.base import Section

__all__ = ["NAME", "DocumentsSettings", "HttpToolSettings", "McpServerSettings", "ToolSettings"]

NAME = r"^[A-Za-z0-9_-]{1,64}$"  # of a tool, as models take it


class DocumentsSettings(Section):
    """A search over documents: a folder of text files, or a Milvus collection that somebody else fills."""

    name: Annotated[str, Field(pattern=NAME)] = "search_documents"
    description: str  # what stands in there, for the model that decides whether to look
    folder: Path | None = None  # .md, .txt, .rst and .html files below it
    uri: str | None = None  # of a Milvus server or Lite file, for `collection`
    token: SecretStr | None = None
    collection: str | None = None
    text_field: str = "text"
    vector_field: str = "vector"  # its texts embedded with the embedder of this system
    title_field: str | None = None
    k: Annotated[int, Field(ge=1, le=50)] = 4  # passages of a result

    @field_validator("folder")
    @classmethod
    def _whole_path(cls, folder: Path | None) -> Path | None:
        """Processes that read it may stand elsewhere."""
        return None if folder is None else folder.expanduser().absolute()

    @model_validator(mode="after")
    def _one_place(self) -> DocumentsSettings:
        if (self.folder is None) == (self.collection is None):
            raise ValueError("set either folder, or uri and collection")
        if self.collection is not None and self.uri is None:
            raise ValueError("collection needs the uri of its Milvus")
        return self


class HttpToolSettings(Section):
    """A tool that is one HTTP request. Arguments named in the URL as {name} go there, others into the query or the body."""

    name: Annotated[str, Field(pattern=NAME)]
    description: str
    url: str
    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE"] = "GET"
    parameters: dict[str, Any] = Field(default_factory=lambda: {"type": "object", "properties": {}})
    headers: dict[str, SecretStr] = Field(default_factory=dict)
    effect: Literal["reads", "changes"] | None = None  # None: GET reads, everything else changes
    timeout_s: Annotated[float, Field(gt=0)] | None = None
    tokens: Annotated[int, Field(ge=16)] | None = None


class McpServerSettings(Section):
    """An MCP server whose tools are offered: a program spoken to over its standard input and output, or a URL."""

    name: Annotated[str, Field(pattern=NAME)]  # for logs and health; and of its tools where `prefix` is on
    command: tuple[str, ...] = ()
    env: dict[str, SecretStr] = Field(default_factory=dict)  # of the program, besides PATH, HOME, LANG and the like
    url: str | None = None  # streamable HTTP
    headers: dict[str, SecretStr] = Field(default_factory=dict)
    allow: tuple[str, ...] | None = None  # its tools that are offered; None: all
    rename: dict[str, Annotated[str, Field(pattern=NAME)]] = Field(default_factory=dict)  # its name -> ours
    prefix: bool = False  # name its tools <server>_<tool>
    # Tools that only read. None: what the server's own hints say, and a tool without a hint is taken to change something.
    reads: tuple[str, ...] | None = None
    timeout_s: Annotated[float, Field(gt=0)] | None = None
    tokens: Annotated[int, Field(ge=16)] | None = None

    @model_validator(mode="after")
    def _one_way(self) -> McpServerSettings:
        if bool(self.command) == (self.url is not None):
            raise ValueError("set either command or url")
        return self


class ToolSettings(Section):
    """What the agent may act with, and the bounds of it."""

    memory: tuple[Literal["search_episodes", "read_profile", "note_fact", "last_wanted"], ...] = (
        "search_episodes",
        "read_profile",
        "note_fact",
        "last_wanted",
    )
    documents: tuple[DocumentsSettings, ...] = ()
    http: tuple[HttpToolSettings, ...] = ()
    mcp: tuple[McpServerSettings, ...] = ()
    # How calls are written: by the model's own parser for tool calls (`native`), constrained to their schema, or to the user's
    # own words besides (`copied`). `auto`: natively with another server's model, and where llm.engine_kwargs names a
    # tool_call_parser; copied with the embedded model, which writes nothing better.
    calling: Literal["auto", "native", "constrained", "copied"] = "auto"
    model_weight: Annotated[float, Field(ge=0, le=1)] | None = (
        None  # in choosing tools; None: 1 if native, else the persona's
    )
    calls: Annotated[int, Field(ge=0, le=32)] = 4  # of a turn
    timeout_s: Annotated[float, Field(gt=0)] = 20.0  # of a call
    tokens: Annotated[int, Field(ge=50)] = 600  # of what is shown of a result
    result_kb: Annotated[float, Field(gt=0)] = 1_000.0  # that are read of a result
    turn_timeout_s: Annotated[float, Field(gt=0)] = 60.0  # of all calls of a turn, from the first choice of a tool
    turn_tokens: Annotated[int, Field(ge=50)] = 2_400  # of what is shown of all results of a turn
