"""The one settings tree: defaults, then a YAML file, then PERSONAAGENT_* environment variables, then flags.

Unknown keys are errors. `personaagent settings` prints the tree in force.
"""

from __future__ import annotations

import os
import re
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, SecretStr, ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    YamlConfigSettingsSource,
)

from personaagent.base import Section
from personaagent.errors import InvalidInput
from personaagent.setting_names import check_environment, fault
from personaagent.tool_settings import ToolSettings
from personaagent.types import Decision, UserId

__all__ = ["Settings", "default_home", "load_settings"]

EMBEDDED = "embedded"
# Settings of earlier versions, and why nobody needs them: whoever still has one is told to take it out.
_DROPPED = {
    "embedder.batch_wait_ms": "a batch of texts waits for 3 ms",
    "memory.flush_rows": "Milvus Lite flushes after 2,000 rows, or memory.flush_s seconds",
    "agent.max_steps": "tools.calls says how often tools are called in a turn",
    "agent.tool_tokens": "tools.tokens says how much is shown of a tool's result",
    "alignment.online_capacity": "10,000 users are queued; others stay due and follow later",
}


class TeacherSettings(Section):
    """Another model for the textual loss and gradient, by OpenAI-compatible URL. Without it the served model does both."""

    base_url: str | None = None
    model: str | None = None
    api_key: SecretStr | None = None


class LLMSettings(Section):
    """The served model."""

    model: str = EMBEDDED  # `embedded`, a Hugging Face id or a local path
    base_url: str | None = None  # an OpenAI-compatible server instead of a local engine
    api_key: SecretStr | None = None
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    tensor_parallel: Annotated[int, Field(ge=1)] = 1
    max_model_len: Annotated[int, Field(ge=256)] = 4096  # tokens
    max_num_seqs: Annotated[int, Field(ge=1)] = 64  # sequences decoded together
    kv_cache_gb: Annotated[float, Field(gt=0)] = 2.0  # CPU engine only
    dtype: str = "auto"
    min_replicas: Annotated[int, Field(ge=1)] = 1
    max_replicas: Annotated[int, Field(ge=1)] = 1
    max_ongoing_requests: Annotated[int, Field(ge=1)] = 512  # per replica
    target_ongoing_requests: Annotated[int, Field(ge=1)] = 48  # per replica; drives autoscaling
    max_queued_chats: Annotated[int, Field(ge=0)] = 64  # per replica, beyond max_num_seqs; further ones are refused
    batch_share: Annotated[float, Field(gt=0, le=1)] = 0.875  # of max_num_seqs that alignment may take
    # Tokens of alignment in an engine step while somebody chats; None: 32 on a CPU, no bound on a GPU.
    chat_step_tokens: Annotated[int, Field(ge=1)] | None = None
    timeout_s: Annotated[float, Field(gt=0)] = 300.0
    engine_kwargs: dict[str, Any] = Field(default_factory=dict)  # passed to vLLM unchanged


class EmbedderSettings(Section):
    """The sentence-embedding model."""

    model: str = EMBEDDED  # `embedded`, a Hugging Face id or a local path
    max_batch: Annotated[int, Field(ge=1)] = 64  # texts
    cache_texts: Annotated[int, Field(ge=0)] = 50_000  # recently embedded texts kept
    num_replicas: Annotated[int, Field(ge=1)] = 1


class LimitsSettings(Section):
    """How much may be stored, in bytes of UTF-8: a kB is 1,000 of them, a MB 1,000,000. What is stored beyond stays readable."""

    # Of a query, response, truth or option. Types allow 60,000 characters, which take 240 kB at most.
    text_kb: Annotated[float, Field(gt=0, le=240)] = 240.0
    metadata_kb: Annotated[float, Field(gt=0)] = 64.0  # of an interaction, as JSON
    choices_kb: Annotated[float, Field(gt=0)] = 256.0  # of all options of a request
    interaction_kb: Annotated[float, Field(gt=0)] = 512.0  # all of it, as JSON
    persona_kb: Annotated[float, Field(gt=0)] = 512.0  # a persona version with claims and exemplars, as JSON
    persona_chain_mb: Annotated[float, Field(gt=0)] = (
        8.0  # all versions of a user; beyond it the oldest lose their texts
    )
    user_mb: Annotated[float, Field(gt=0)] = 1_000.0  # all interactions of a user, as JSON


class MemorySettings(Section):
    """Where and how users' memories are kept."""

    uri: str | None = None  # a Milvus server; None: one Milvus Lite file per shard below `home`
    token: SecretStr | None = None
    collection: str = "personaagent"
    shards: Annotated[int, Field(ge=1, le=4096)] = 2
    tenant: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")] = "default"
    idle_s: Annotated[float, Field(gt=0)] = 900.0  # passivate a user after so long without a call
    max_ram_mb: Annotated[float, Field(gt=0)] = 512.0  # per shard, over all active users
    # One user's share of `max_ram_mb`. A user who needs more is searched in the store, and takes no RAM from others.
    user_ram_share: Annotated[float, Field(gt=0, le=1)] = 0.25
    max_active_episodes: Annotated[int, Field(ge=100)] = 50_000  # so is a user with more episodes than that
    flush_s: Annotated[float, Field(gt=0)] = 5.0  # flush after so long, in the background, or after 2,000 rows
    # On a Milvus server: how long a shard serves from RAM before it asks the store again whether it still owns its users, and
    # how long whoever takes over from one that died waits for it.
    lease_s: Annotated[float, Field(gt=0)] = 10.0
    retention_days: Annotated[float, Field(gt=0)] | None = None  # interactions older than that are deleted
    redact: bool = False  # needs the `privacy` extra
    encryption_key: SecretStr | None = None  # needs the `privacy` extra
    audit_reads: bool = False  # log who read whose memory too, not only changes
    bm25_weight: Annotated[float, Field(ge=0)] = 0.75  # of words in recall, meaning being 1
    recency_weight: Annotated[float, Field(ge=0)] = 0.1
    limits: LimitsSettings = LimitsSettings()

    @property
    def user_ram_bytes(self) -> int:
        """How much RAM one user may take in a shard."""
        return int(self.max_ram_mb * 2**20 * self.user_ram_share)


class AgentSettings(Section):
    """The action loop."""

    max_tokens: Annotated[int, Field(ge=1)] = 256  # of an answer, unless the request says
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.3  # of free text; small models repeat themselves
    samples: Annotated[int, Field(ge=1, le=16)] = 1  # answers that a free text is chosen from; 1: the only one
    tools: bool = True  # offer tools
    recall_tokens: Annotated[int, Field(ge=0)] = 1_200  # budget of recalled episodes
    persona_tokens: Annotated[int, Field(ge=50)] = 300  # length budget of a persona
    decision: Decision = Decision()  # of a user's first persona


class AlignmentSettings(Section):
    """Test-time alignment of personas."""

    paper: bool = False  # the paper's loop: no gate, no candidates
    iterations: Annotated[int, Field(ge=1, le=20)] = 1  # E
    batch: Annotated[int, Field(ge=1, le=64)] = 3  # n, interactions replayed per iteration
    held_out: Annotated[int, Field(ge=1, le=200)] = 8  # interactions the gate scores on
    cohort: Annotated[int, Field(ge=1, le=1024)] = 64  # users who pool their interactions; 1: each on their own
    candidates: Annotated[int, Field(ge=1, le=16)] = 2  # rewritten personas, or edits of claims, per iteration
    # Who proposes edits of claims: the teacher where one is set, also the served model itself, or nobody. The smallest models'
    # edits cost as much as the rest of an alignment and are seldom kept.
    edits: Literal["teacher", "always", "never"] = "teacher"
    min_gain: Annotated[float, Field(ge=0)] = 0.0  # a candidate must score better by more than this ...
    caution: Annotated[float, Field(ge=0)] = 1.0  # ... and by so many standard errors of the paired differences
    # Share of users who ever get new words by luck, however often they are aligned, if feedback says nothing about them.
    text_luck: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    max_calls: Annotated[int, Field(ge=1)] = 400  # LLM calls per user
    max_tokens: Annotated[int, Field(ge=1)] = 400_000  # tokens per user
    run_calls: Annotated[int, Field(ge=1)] | None = None  # LLM calls per run; None: no bound
    run_tokens: Annotated[int, Field(ge=1)] | None = None  # tokens per run
    population: bool = True  # learn what users have in common at the start of a run over all users
    profile: bool = True  # bring the semantic profile up to date first
    profile_tokens: Annotated[int, Field(ge=50)] = 400  # budget of its current facts
    judge: Literal["embedding", "llm"] = "embedding"  # how free text is scored
    retry_s: Annotated[float, Field(ge=0)] = 120.0  # wait so long for a part of the system that is down
    actors: Annotated[int, Field(ge=1)] = 1
    max_actors: Annotated[int, Field(ge=1)] = 1  # the population job's pool grows to so many
    actor_cpus: Annotated[float, Field(ge=0)] = 0.0  # logical CPUs an actor asks for; they mostly wait for the model
    users_per_batch: Annotated[int, Field(ge=1)] = 32
    in_flight: Annotated[int, Field(ge=1)] = 112  # LLM calls per actor: twice what the engine takes, so it never waits
    online_every: Annotated[int, Field(ge=0)] = 0  # align after so many new truths; 0: only on request
    online_poll_s: Annotated[float, Field(gt=0)] = 15.0  # look for due users at least so often
    online_stalled_s: Annotated[float, Field(gt=0)] = 600.0  # unhealthy if work waits and none is finished for so long
    seed: int = 0
    teacher: TeacherSettings = TeacherSettings()


# Names of request headers: tokens by RFC 9110, and none of those that carry something secret or the request itself.
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_NO_NAMES = frozenset({"authorization", "cookie", "host", "content-type", "content-length", "origin", "user-agent"})


def _header_name(name: str) -> str:
    if not _HEADER.fullmatch(name) or name.lower() in _NO_NAMES:
        raise ValueError(f"{name!r} is no header that could name a user")
    return name


def _expression(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as e:
        raise ValueError(f"{pattern!r} is no regular expression: {e}") from e
    return pattern


_DOMAIN = re.compile(r"[A-Za-z0-9_.-]+")
_DEFAULT_PORTS = {"http": "80", "https": "443"}


def _domain(name: str) -> str:
    """A host as browsers send it: an address in its shortest form, a name in ASCII. Raises ValueError if it is neither."""
    plain = name[1:-1] if name.startswith("[") and name.endswith("]") else name
    try:
        return ip_address(plain).compressed
    except ValueError:
        pass
    try:
        plain = name if name.isascii() else name.encode("idna").decode("ascii")
    except UnicodeError as e:
        raise ValueError(f"{name!r} is no host name") from e
    plain = plain.lower().removesuffix(".")
    if not _DOMAIN.fullmatch(plain):
        raise ValueError(f"{name!r} is no host name; write it without scheme, port and wildcards, like box.example.org")
    return plain


def _origin(origin: str) -> str:
    """A site as browsers name it in `Origin`. Raises ValueError if that never is one, or could be anybody's."""
    scheme, found, rest = origin.strip().lower().rstrip("/").partition("://")
    match = re.fullmatch(r"(\[[0-9a-f:.]+\]|[^/:\s@?#\[\]]+)(?::([0-9]{1,5}))?", rest)
    if not found or match is None or not re.fullmatch(r"[a-z][a-z0-9+.-]*", scheme):
        raise ValueError(
            f"{origin!r} is no origin; write each site as scheme, host and port, like https://chat.example.org"
        )
    host, port = _domain(match[1]), match[2]
    host = f"[{host}]" if ":" in host else host
    return f"{scheme}://{host}" + (f":{port}" if port and port != _DEFAULT_PORTS.get(scheme) else "")


class ServeSettings(Section):
    """The HTTP server."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65_535)] = 8000
    api_key: SecretStr | None = None  # if set, requests must carry it as a bearer token
    # Listen elsewhere than on loopback without a key: everybody who reaches the port reads and changes every user's memory.
    allow_no_key: bool = False
    # Names that `Host` may have besides this machine's own. None: any name where a key is set and `host` is not loopback.
    allowed_hosts: tuple[Annotated[str, AfterValidator(_domain)], ...] | None = None
    # Web sites whose pages may use the API, like https://chat.example.org.
    allowed_origins: tuple[Annotated[str, AfterValidator(_origin)], ...] = ()
    router_replicas: Annotated[int, Field(ge=1)] = 1
    max_router_replicas: Annotated[int, Field(ge=1)] = 2
    max_body_mb: Annotated[float, Field(gt=0)] = 32.0  # of a request
    # Who is asking, where a chat request says it neither as user, metadata.user_id nor safety_identifier: the first of these
    # headers that is there. A client can send any header itself, so name those alone that a proxy in front sets or removes.
    user_headers: tuple[Annotated[str, AfterValidator(_header_name)], ...] = ()
    default_user: UserId | None = None  # whose requests are those that name nobody; for a server of one person
    # Prompts by which chat programs ask for titles, tags, follow-up questions and the like are answered and then so treated.
    housekeeping_prompts: Literal["forget", "remember"] = "forget"
    housekeeping_patterns: tuple[Annotated[str, AfterValidator(_expression)], ...] = ()  # of further programs
    max_bodies_mb: Annotated[float, Field(gt=0)] = 256.0  # of all requests of a router replica that are under way
    body_timeout_s: Annotated[float, Field(gt=0)] = 60.0  # for a request's body to arrive
    request_timeout_s: Annotated[float, Field(gt=0)] = 300.0  # for a request, with everything that is done for it
    # The same for what may take long: aligning, adding interactions, exporting, forgetting.
    long_request_timeout_s: Annotated[float, Field(gt=0)] = 3600.0
    # Chats of a router replica that are under way. None: what the engine decodes together, a quarter of that on a CPU.
    max_concurrent_chats: Annotated[int, Field(ge=1)] | None = None
    max_concurrent_requests: Annotated[int, Field(ge=1)] = 128  # other requests of a router replica, without probes
    max_concurrent_alignments: Annotated[int, Field(ge=1)] = 4  # over HTTP, per router replica
    ray_address: str | None = None  # join this cluster instead of starting one; RAY_ADDRESS works too


def default_home() -> Path:
    """The folder of stores and converted models unless `home` says otherwise."""
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "personaagent"


class Settings(BaseSettings):
    """Everything that can be set."""

    model_config = SettingsConfigDict(
        env_prefix="PERSONAAGENT_", env_nested_delimiter="__", extra="forbid", frozen=True
    )

    home: Path = Field(default_factory=default_home)
    llm: LLMSettings = LLMSettings()
    embedder: EmbedderSettings = EmbedderSettings()
    memory: MemorySettings = MemorySettings()
    agent: AgentSettings = AgentSettings()
    tools: ToolSettings = ToolSettings()
    alignment: AlignmentSettings = AlignmentSettings()
    serve: ServeSettings = ServeSettings()

    @property
    def store_dir(self) -> Path:
        """The folder of the embedded store."""
        return self.home / "store"

    @property
    def cache_dir(self) -> Path:
        """The folder of converted models; shared by all homes unless PERSONAAGENT_CACHE says otherwise."""
        return Path(os.environ.get("PERSONAAGENT_CACHE") or default_home() / "models")


def load_settings(file: Path | None = None, **flags: Any) -> Settings:
    """Settings from defaults, `file` (YAML), the environment and `flags`, later ones winning.

    Nested flags are dictionaries: `load_settings(llm={"model": "..."})`.

    Raises:
        InvalidInput: the file is missing or not YAML, a key is unknown or a value does not fit.
    """
    path = file or (Path(p) if (p := os.environ.get("PERSONAAGENT_CONFIG")) else None)
    if path is not None and not path.is_file():
        raise InvalidInput(f"settings file {path} does not exist")

    class _Layered(Settings):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            layers = [init_settings, env_settings]
            if path is not None:
                layers.append(YamlConfigSettingsSource(settings_cls, yaml_file=path))
            return tuple(layers)

    check_environment(os.environ, Settings, ("config", "cache", "data"))
    try:
        layered = _Layered(**flags)
    except ValidationError as e:
        where = ".".join(str(part) for part in e.errors()[0]["loc"])
        if where in _DROPPED:
            raise InvalidInput(f"setting {where}: is no setting any more, take it out: {_DROPPED[where]}") from e
        raise InvalidInput(fault(e, Settings)) from e
    except Exception as e:  # YAML and file errors come as several unrelated types
        raise InvalidInput(f"settings file {path}: {e}".replace("\n", " ")) from e
    return Settings.model_construct(**{name: getattr(layered, name) for name in Settings.model_fields})
