"""Kubernetes manifests from the settings.

python -m cluster.render service FILE             the service and what belongs to it
python -m cluster.render align FILE --run-id ID   one re-alignment of the population, as a RayJob
python -m cluster.render nightly FILE             the same every night, as a RayCronJob
python -m cluster.render examples                 rewrite cluster/manifests from cluster/deployments

FILE is a deployment file (see cluster/options.py). The functions are pure: settings and options in, plain objects out.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from cluster.command_line import OneLineParser
from cluster.guards import disruption_budgets, network_policy, pod_monitor
from cluster.options import ClusterOptions, load_deployment
from cluster.pods import API_PORT, CONTAINER_SECURITY, DASHBOARD_PORT, HOME, Object, head_group, metadata, worker_group
from cluster.secrets import public_tree, secret_variables
from personaagent.errors import InvalidInput, PersonaAgentError
from personaagent.settings import EMBEDDED, Settings

__all__ = [
    "RAY_VERSION",
    "align_job",
    "examples",
    "nightly_job",
    "service",
    "service_objects",
    "settings_tree",
    "to_yaml",
]

RAY_VERSION = "2.60.0"
HERE = Path(__file__).resolve().parent
RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
# KubeRay names a job's cluster <job>-<five random characters>, anew for every attempt. The job's name stays.
JOB_NAME = "${RAY_CLUSTER_NAME%-*}"


def settings_tree(settings: Settings) -> dict[str, Any]:
    """The settings as the cluster gets them: without secrets, and with what a cluster decides otherwise.

    Raises:
        InvalidInput: no Milvus server is set, or a value looks like a credential.
    """
    uri = settings.memory.uri
    if uri is None:
        raise InvalidInput(
            "memory.uri is not set: a cluster needs a Milvus server, because a Milvus Lite file is locked by one process; "
            "set it to http://<host>:19530"
        )
    if urlsplit(uri).scheme not in ("http", "https", "tcp"):
        raise InvalidInput(f"memory.uri {uri!r} is not the address of a Milvus server; set it to http://<host>:19530")
    tree = public_tree(settings)
    tree["home"] = HOME
    if settings.llm.base_url is None:
        # `auto` looks for GPUs that Ray sees now; with all GPU pods scaled down it would find none.
        tree["llm"] = {**tree.get("llm", {}), "accelerator": "cpu" if settings.llm.accelerator == "cpu" else "gpu"}
    if serve := tree.pop("serve", {}):
        kept = {name: value for name, value in serve.items() if name not in ("host", "port", "ray_address")}
        tree.update({"serve": kept} if kept else {})
    return tree


def service(settings: Settings, options: ClusterOptions) -> Object:
    """The RayService: one cluster with a head, CPU workers and, for a local engine on GPUs, GPU workers.

    Raises:
        InvalidInput: these settings cannot run on these pods.
    """
    tree = settings_tree(settings)
    environment = _environment(settings, options)
    # Memory shards are detached actors that outlive the application: what concerns them takes a new cluster, which a
    # changed template brings about. All other settings are replaced in place.
    digest = hashlib.sha256(json.dumps(tree["memory"], sort_keys=True).encode()).hexdigest()[:12]
    annotations = {"personaagent/memory-settings": digest}
    cluster: Object = {
        "rayVersion": RAY_VERSION,
        "enableInTreeAutoscaling": True,
        "autoscalerOptions": {
            "version": "v2",
            "upscalingMode": "Default",
            "idleTimeoutSeconds": 300,
            "resources": {
                "limits": {"cpu": "500m", "memory": "1Gi"},
                "requests": {"cpu": "500m", "memory": "1Gi"},
            },
            "securityContext": CONTAINER_SECURITY,
        },
        "headGroupSpec": head_group(options, environment=environment, annotations=annotations),
        "workerGroupSpecs": _worker_groups(settings, options, environment, annotations),
    }
    if options.redis:
        state: Object = {"redisAddress": options.redis}
        if options.redis_secret:
            state["redisPassword"] = {"valueFrom": {"secretKeyRef": {"name": options.redis_secret, "key": "password"}}}
        cluster["gcsFaultToleranceOptions"] = state
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayService",
        "metadata": metadata(options, options.name),
        "spec": {
            "serveConfigV2": _dump(_serve_config(tree)),
            "excludeHeadPodFromServeSvc": True,
            "upgradeStrategy": {"type": "NewCluster"},
            "rayClusterDeletionDelaySeconds": 120,  # answers that are being streamed come to their end
            "rayClusterConfig": cluster,
        },
    }


def _worker_groups(
    settings: Settings, options: ClusterOptions, environment: list[Object], annotations: dict[str, str]
) -> list[Object]:
    cpu, gpu = options.cpu, options.gpu
    group = partial(worker_group, options, environment=environment, annotations=annotations)
    groups = [group("cpu", replicas=(cpu.min, cpu.max), cpus=cpu.cpus, memory=cpu.memory)]
    if replicas := _gpu_replicas(settings, options):
        groups.append(group("gpu", replicas=replicas, cpus=gpu.cpus, memory=gpu.memory, gpus=gpu.count))
    return groups


def service_objects(settings: Settings, options: ClusterOptions) -> list[Object]:
    """The RayService with its settings file, network policy, disruption budgets and metrics, in order of creation."""
    ray = service(settings, options)
    config_map = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(options, f"{options.name}-settings"),
        "data": {"settings.yaml": _dump(settings_tree(settings))},
    }
    monitor = [pod_monitor(options)] if options.monitoring_namespace else []
    return [config_map, network_policy(options), *disruption_budgets(ray, options), ray, *monitor]


def align_job(options: ClusterOptions, run_id: str) -> Object:
    """A RayJob that aligns every user once; its retries go on with what is left of the run.

    Raises:
        InvalidInput: the run id cannot be one, or there is no home that all pods share.
    """
    if not RUN_ID.fullmatch(run_id):
        raise InvalidInput(f"run id {run_id!r}: up to 100 letters, digits, dots, hyphens and underscores, please")
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": metadata(options, f"{options.name}-align"),
        "spec": _job(options, shlex.quote(run_id), ["--all"]),
    }


def nightly_job(options: ClusterOptions, min_new: int = 1, since: str | None = None) -> Object:
    """A RayCronJob that aligns the users with news; each night's job name is its run id.

    Args:
        options: also the schedule.
        min_new: truths that a user must have since their last alignment. A night that failed is made up for by the next.
        since: passed on as `--since`: only users with an interaction that new.

    Raises:
        InvalidInput: there is no home that all pods share.
    """
    arguments = ["--all", "--min-new", str(min_new), *(["--since", since] if since else [])]
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayCronJob",
        "metadata": metadata(options, f"{options.name}-nightly"),
        "spec": {
            "schedule": options.schedule,
            "timeZone": options.time_zone,
            "jobTemplate": _job(options, f'"{JOB_NAME}"', arguments),
        },
    }


def to_yaml(objects: Sequence[Object]) -> str:
    """Objects as one YAML stream."""
    return "---\n".join(_dump(o) for o in objects)


def examples() -> dict[str, str]:
    """The text of every file in cluster/manifests."""
    gpu, cpu = (load_deployment(HERE / "deployments" / f"{kind}.yaml") for kind in ("gpu", "cpu"))
    rendered = {
        "rayservice-gpu.yaml": ("service cluster/deployments/gpu.yaml", service_objects(*gpu)),
        "rayservice-cpu.yaml": ("service cluster/deployments/cpu.yaml", service_objects(*cpu)),
        "rayjob-align.yaml": ("align cluster/deployments/gpu.yaml --run-id all-1", [align_job(gpu[1], "all-1")]),
        "raycronjob-align.yaml": ("nightly cluster/deployments/gpu.yaml", [nightly_job(gpu[1])]),
    }
    return {
        name: f"# python -m cluster.render {command}\n{to_yaml(objects)}"
        for name, (command, objects) in rendered.items()
    }


def _gpu_replicas(settings: Settings, options: ClusterOptions) -> tuple[int, int] | None:
    """Fewest and most GPU pods that the engine's replicas need; None if the engine runs elsewhere."""
    llm = settings.llm
    if llm.base_url is not None or llm.accelerator == "cpu":
        return None
    if llm.model == EMBEDDED:
        raise InvalidInput(
            "llm.model is the embedded one, which is for CPUs; name a model, or set llm.accelerator to cpu"
        )
    fit = options.gpu.count // llm.tensor_parallel
    if fit == 0:
        raise InvalidInput(
            f"llm.tensor_parallel is {llm.tensor_parallel} but a GPU pod has {options.gpu.count} GPU(s); raise cluster.gpu.count"
        )
    return -(-llm.min_replicas // fit), -(-max(llm.min_replicas, llm.max_replicas) // fit)


def _environment(settings: Settings, options: ClusterOptions) -> list[Object]:
    variables = {**secret_variables(settings), "HF_TOKEN": False}
    return [
        {"name": name, "valueFrom": {"secretKeyRef": {"name": options.secret, "key": name, "optional": not required}}}
        for name, required in variables.items()
    ]


def _serve_config(tree: dict[str, Any]) -> Object:
    return {
        "proxy_location": "EveryNode",
        "http_options": {"host": "0.0.0.0", "port": API_PORT},
        # Paths hold user ids, so no access log.
        "logging_config": {"encoding": "JSON", "log_level": "INFO", "enable_access_log": False},
        "applications": [
            {"name": "personaagent", "route_prefix": "/", "import_path": "serve.app:build", "args": tree},
        ],
    }


def _job(options: ClusterOptions, run: str, arguments: list[str]) -> Object:
    """A job whose small cluster of its own hands the work to the service's cluster and waits.

    KubeRay's clusterSelector takes the exact name of a cluster, which a RayService changes at every upgrade, and allows
    no retries. Aligning in a cluster of its own would need engines of its own, and put second writers on users' memory.
    """
    if options.home_claim is None:
        raise InvalidInput(
            "cluster.home_claim is not set: a run's results are kept in the home, and a retry that lands on another pod "
            "needs them to go on; name a ReadWriteMany claim"
        )
    address = f"http://{options.name}-head-svc:{DASHBOARD_PORT}"  # KubeRay points it at the cluster that serves
    command = ["python", "-m", "cluster.submit", "--address", address, "--run-id"]
    return {
        "entrypoint": f"{shlex.join(command)} {run} -- {shlex.join(arguments)}",
        "submissionMode": "HTTPMode",
        "backoffLimit": options.retries,
        "shutdownAfterJobFinishes": True,
        "ttlSecondsAfterFinished": 3600,
        "rayClusterSpec": {
            "rayVersion": RAY_VERSION,
            "headGroupSpec": head_group(options, component="align", cpus=1, memory="4Gi"),
        },
    }


class _Dumper(yaml.SafeDumper):
    """Block style for texts of several lines, and no anchors for what several pods share."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Dumper.add_representer(str, _text)


def _dump(value: Object) -> str:
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. 0: done; 2: bad input, said in one line."""
    parser = OneLineParser(prog="python -m cluster.render", description="Kubernetes manifests from the settings.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("service", "align", "nightly"):
        command = commands.add_parser(name)
        command.add_argument("file", type=Path, help="deployment file")
        command.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="repeatable")
        if name == "align":
            command.add_argument("--run-id", required=True, help="a run of this id is resumed, never repeated")
        if name == "nightly":
            command.add_argument("--min-new", type=int, default=1, help="truths since a user's last alignment")
            command.add_argument("--since", help="only users with an interaction that new")
    commands.add_parser("examples")
    given = parser.read(arguments)
    try:
        if given.command == "examples":
            for name, text in examples().items():
                (HERE / "manifests" / name).write_text(text, encoding="utf-8")
            return 0
        settings, options = load_deployment(given.file, given.set)
        if given.command == "service":
            objects = service_objects(settings, options)
        elif given.command == "align":
            objects = [align_job(options, given.run_id)]
        else:
            objects = [nightly_job(options, given.min_new, given.since)]
    except PersonaAgentError as e:
        print(f"error: {e.message}", file=sys.stderr)
        return 2
    sys.stdout.write(to_yaml(objects))
    return 0


if __name__ == "__main__":
    sys.exit(main())
