"""A deployment file: the settings of the system (`settings:`) and where and how large it runs (`cluster:`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from personaagent.errors import InvalidInput
from personaagent.settings import Settings, load_settings

__all__ = ["ClusterOptions", "CpuWorkers", "GpuWorkers", "cluster_options", "load_deployment"]

Quantity = Annotated[str, Field(pattern=r"^[1-9][0-9]*(Mi|Gi)$")]
# RFC 1035, and short enough for what KubeRay appends: a RayCronJob's name has at most 36 characters.
Name = Annotated[str, Field(pattern=r"^[a-z]([a-z0-9-]{0,26}[a-z0-9])?$")]
ObjectName = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]


class Part(BaseModel):
    """A branch of the options."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class CpuWorkers(Part):
    """Pods for the router, the embedder, the memory shards and alignment; also for a CPU engine."""

    min: Annotated[int, Field(ge=1)] = 2
    max: Annotated[int, Field(ge=1)] = 8
    cpus: Annotated[int, Field(ge=1)] = 4  # per pod
    memory: Quantity = "16Gi"  # per pod

    @model_validator(mode="after")
    def _ordered(self) -> CpuWorkers:
        if self.max < self.min:
            raise ValueError("max is below min")
        return self


class GpuWorkers(Part):
    """Pods for the engine. Their number follows from llm.min_replicas, llm.max_replicas and llm.tensor_parallel."""

    type: str | None = None  # value of the node label nvidia.com/gpu.product; None: any GPU node
    count: Annotated[int, Field(ge=1)] = 1  # GPUs per pod
    cpus: Annotated[int, Field(ge=1)] = 8  # per pod
    memory: Quantity = "32Gi"  # per pod


class ClusterOptions(Part):
    """Where and how large the system runs."""

    name: Name = "personaagent"
    namespace: ObjectName = "personaagent"
    image: str  # of every pod
    pull_secret: ObjectName | None = None
    secret: ObjectName = "personaagent"  # its keys are names of environment variables
    home_claim: ObjectName | None = (
        None  # a claim that all pods mount; None: every pod has a home of its own, lost with it
    )
    head_cpus: Annotated[int, Field(ge=1)] = 2
    head_memory: Quantity = "8Gi"
    cpu: CpuWorkers = CpuWorkers()
    gpu: GpuWorkers = GpuWorkers()
    redis: str | None = None  # host:port that keeps the cluster's state, so that the service outlives its head
    redis_secret: ObjectName | None = None  # holds the key `password`
    operator_namespace: ObjectName = "kuberay-system"
    monitoring_namespace: ObjectName | None = "monitoring"  # where Prometheus runs; None: no PodMonitor
    ingress_namespace: ObjectName | None = None  # may reach the API besides the service's own namespace
    schedule: str = "0 3 * * *"  # of the nightly re-alignment
    time_zone: str = "Etc/UTC"
    retries: Annotated[int, Field(ge=0, le=10)] = 3  # of an alignment run

    @model_validator(mode="after")
    def _whole(self) -> ClusterOptions:
        if self.redis_secret and not self.redis:
            raise ValueError("redis_secret needs redis")
        if len(self.schedule.split()) != 5 or "TZ" in self.schedule:
            raise ValueError("schedule takes five cron fields; the time zone goes into time_zone")
        return self


def cluster_options(**values: Any) -> ClusterOptions:
    """Options from plain values.

    Raises:
        InvalidInput: a key is unknown or missing, or a value does not fit.
    """
    try:
        return ClusterOptions(**values)
    except ValidationError as e:
        first = e.errors()[0]
        where = ".".join(["cluster", *map(str, first["loc"])])
        raise InvalidInput(f"{where}: {first['msg'].removeprefix('Value error, ')}") from e


def load_deployment(file: Path, assignments: Sequence[str] = ()) -> tuple[Settings, ClusterOptions]:
    """A deployment file with `section.key=value` assignments on top.

    PERSONAAGENT_* of the environment fill in settings that the file leaves out.

    Raises:
        InvalidInput: the file cannot be read, is not such a file, or a value does not fit.
    """
    try:
        tree = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as e:
        raise InvalidInput(f"deployment file {file}: {e}".replace("\n", " ")) from e
    if not isinstance(tree, dict) or not all(isinstance(part, dict) for part in tree.values()):
        raise InvalidInput(f"deployment file {file} needs the mappings `cluster:` and `settings:`")
    for assignment in assignments:
        _assign(tree, assignment)
    if unknown := set(tree) - {"cluster", "settings"}:
        raise InvalidInput(f"unknown section {sorted(unknown)[0]!r}; there are `cluster` and `settings`")
    return load_settings(**tree.get("settings", {})), cluster_options(**tree.get("cluster", {}))


def _assign(tree: dict[str, Any], assignment: str) -> None:
    path, equals, raw = assignment.partition("=")
    *branches, leaf = path.split(".")
    if not equals or not branches or not leaf:
        raise InvalidInput(
            f"--set takes section.key=value, as in cluster.image=registry/personaagent:1, not {assignment!r}"
        )
    for branch in branches:
        tree = tree.setdefault(branch, {})
        if not isinstance(tree, dict):
            raise InvalidInput(f"--set {path}: {branch} is a value, not a section")
    try:
        tree[leaf] = yaml.safe_load(raw)
    except yaml.YAMLError as e:
        raise InvalidInput(f"--set {path}: {raw!r} is not YAML") from e
