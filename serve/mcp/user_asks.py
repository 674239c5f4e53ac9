"""What the tools of the MCP server are asked. None of it can name a user: whose memory it is, the connection says."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from serve.http.bodies import Body, Said, Whole

__all__ = ["AddMemory", "DeleteMemory", "GetMemories", "GetPersona", "RecordTruth", "SearchMemories"]

MAX_PAGE = 100

MemoryId = Annotated[
    str, Field(min_length=1, max_length=128, description="The id of a memory, as other tools give it.")
]
Limit = Annotated[Whole, Field(ge=1, le=MAX_PAGE, description="How many at most.")]


class AddMemory(Body):
    """`add_memory`."""

    text: Said = Field(description="What the user states, in their own words, such as 'I do not eat fish'.")


class SearchMemories(Body):
    """`search_memories`."""

    query: Said = Field(description="What to look for: a question, a request, or a few words.")
    limit: Limit = 5


class GetMemories(Body):
    """`get_memories`."""

    limit: Limit = 20
    cursor: MemoryId | None = Field(default=None, description="`next` of the page before; without it, the newest.")


class DeleteMemory(Body):
    """`delete_memory`."""

    memory_id: MemoryId


class GetPersona(Body):
    """`get_persona`, which is asked nothing."""


class RecordTruth(Body):
    """`record_truth`: of something asked before, or of a request that is new."""

    truth: Said = Field(description="What the user really answered, wanted or chose.")
    query: Said | None = Field(default=None, description="What was asked, if it is no memory yet.")
    choices: tuple[Said, ...] | None = Field(default=None, description="The options there were, beside `query`.")
    interaction_id: MemoryId | None = Field(default=None, description="The memory that it is the truth of.")

    @model_validator(mode="after")
    def _of_something(self) -> RecordTruth:
        if (self.query is None) == (self.interaction_id is None):
            raise ValueError("say either query, what was asked, or interaction_id, the memory that it is the truth of")
        if self.choices is not None and self.query is None:
            raise ValueError("choices belong to a query; the memory of interaction_id has its own")
        return self
