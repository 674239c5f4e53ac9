"""Every type that crosses a boundary between processes, packages or the network.

They are imported from here, whichever module they are defined in. None knows anything of Ray, Milvus, HTTP or any model. All
are immutable; collections are tuples.
"""

from personaagent.base import Frozen
from personaagent.types.action import ACTION, ANSWER, LESSON, OF, TOOL_LESSON, Action, ToolCall
from personaagent.types.aligned import AlignmentResult, Outcome
from personaagent.types.interaction import NOTE, Interaction, Kind, choice_kind
from personaagent.types.model_call import (
    ChatRequest,
    ChatResult,
    Likelihood,
    LikelihoodRequest,
    Message,
    Usage,
    last_of_user,
)
from personaagent.types.persona_draft import Decision, Fact, Origin, Persona, PersonaDraft, Profile
from personaagent.types.recalled import Episode, Reason, Recall, RecallQuery, Truths
from personaagent.types.scalars import (
    AHEAD,
    LARGEST_GRADE,
    MAX_CHOICES,
    MAX_TEXT,
    MAX_USER_ID,
    THUMB,
    Choices,
    Moment,
    Text,
    UserId,
    future_fault,
    interaction_id,
    moment,
    user_key,
    utc_now,
)
from personaagent.types.stored import (
    AppendResult,
    ExportCursor,
    ExportPage,
    ForgetReceipt,
    Oversized,
    PersonaPage,
    UserPage,
    UserSummary,
)

__all__ = [
    "ACTION",
    "AHEAD",
    "ANSWER",
    "LARGEST_GRADE",
    "LESSON",
    "MAX_CHOICES",
    "MAX_TEXT",
    "MAX_USER_ID",
    "NOTE",
    "OF",
    "THUMB",
    "TOOL_LESSON",
    "Action",
    "AlignmentResult",
    "AppendResult",
    "ChatRequest",
    "ChatResult",
    "Choices",
    "Decision",
    "Episode",
    "ExportCursor",
    "ExportPage",
    "Fact",
    "ForgetReceipt",
    "Frozen",
    "Interaction",
    "Kind",
    "Likelihood",
    "LikelihoodRequest",
    "Message",
    "Moment",
    "Origin",
    "Outcome",
    "Oversized",
    "Persona",
    "PersonaDraft",
    "PersonaPage",
    "Profile",
    "Reason",
    "Recall",
    "RecallQuery",
    "Text",
    "ToolCall",
    "Truths",
    "Usage",
    "UserId",
    "UserPage",
    "UserSummary",
    "choice_kind",
    "future_fault",
    "interaction_id",
    "last_of_user",
    "moment",
    "user_key",
    "utc_now",
]
