"""Templates of the pods of a Ray cluster."""

from __future__ import annotations

from typing import Any

from cluster.options import ClusterOptions

__all__ = [
    "API_PORT",
    "DASHBOARD_PORT",
    "HOME",
    "METRICS_PORTS",
    "Object",
    "head_group",
    "labels",
    "metadata",
    "worker_group",
]

API_PORT = 8000
DASHBOARD_PORT = 8265
METRICS_PORTS = {"metrics": 8080, "as-metrics": 44217, "dash-metrics": 44227}  # Ray, autoscaler, dashboard
HOME = "/home/ray/personaagent"
SETTINGS = "/etc/personaagent"

Object = dict[str, Any]

# The user of Ray's images and of ours. Numeric, since Kubernetes cannot tell that a name is not root.
POD_SECURITY: Object = {
    "runAsNonRoot": True,
    "runAsUser": 1000,
    "runAsGroup": 100,
    "fsGroup": 100,
    "seccompProfile": {"type": "RuntimeDefault"},
}
CONTAINER_SECURITY: Object = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def labels(options: ClusterOptions, component: str | None = None) -> dict[str, str]:
    """Labels that select pods. KubeRay keeps `app.kubernetes.io/name` for itself."""
    found = {"app.kubernetes.io/part-of": "personaagent", "app.kubernetes.io/instance": options.name}
    return {**found, "app.kubernetes.io/component": component} if component else found


def metadata(options: ClusterOptions, name: str) -> Object:
    """Metadata of an object of the service."""
    return {"name": name, "namespace": options.namespace, "labels": labels(options)}


def head_group(
    options: ClusterOptions,
    *,
    component: str = "head",
    cpus: int | None = None,
    memory: str | None = None,
    environment: list[Object] | None = None,
    annotations: dict[str, str] | None = None,
) -> Object:
    """The head. It runs no replicas and no actors of ours: losing it must not lose a part of the service."""
    container = _container(options, "ray-head", cpus or options.head_cpus, memory or options.head_memory)
    container["ports"] = [
        *_ports({"gcs-server": 6379, "dashboard": DASHBOARD_PORT, "client": 10001, "serve": API_PORT}),
        *_ports(METRICS_PORTS),
    ]
    if environment is not None:
        _configure(container, environment)
    template = _template(options, component, container, configured=environment is not None, annotations=annotations)
    return {"rayStartParams": {"num-cpus": "0"}, "template": template}


def worker_group(
    options: ClusterOptions,
    name: str,
    *,
    replicas: tuple[int, int],
    cpus: int,
    memory: str,
    environment: list[Object],
    annotations: dict[str, str],
    gpus: int = 0,
) -> Object:
    """A group of workers that the autoscaler keeps between `replicas`' two numbers."""
    container = _container(options, "ray-worker", cpus, memory, gpus)
    container["ports"] = _ports({"serve": API_PORT, "metrics": METRICS_PORTS["metrics"]})
    # Traffic goes where a proxy reaches a router; what is behind that decides nothing (docs/operations.md). Liveness stays
    # KubeRay's own (the raylet).
    container["readinessProbe"] = {
        "httpGet": {"path": "/readyz", "port": "serve"},
        "initialDelaySeconds": 10,
        "periodSeconds": 10,
        "timeoutSeconds": 5,
        "failureThreshold": 3,
    }
    _configure(container, environment)
    template = _template(options, name, container, configured=True, annotations=annotations)
    spec = template["spec"]
    spec["automountServiceAccountToken"] = False  # only the autoscaler, beside the head, talks to Kubernetes
    spec["terminationGracePeriodSeconds"] = 60
    if gpus:
        spec["tolerations"] = [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
        if options.gpu.type:
            spec["nodeSelector"] = {"nvidia.com/gpu.product": options.gpu.type}
    else:
        spread = {"topologyKey": "kubernetes.io/hostname", "maxSkew": 1, "whenUnsatisfiable": "ScheduleAnyway"}
        spec["topologySpreadConstraints"] = [{**spread, "labelSelector": {"matchLabels": labels(options, name)}}]
    minimum, maximum = replicas
    return {
        "groupName": name,
        "replicas": minimum,
        "minReplicas": minimum,
        "maxReplicas": maximum,
        "rayStartParams": {},
        "template": template,
    }


def _container(options: ClusterOptions, name: str, cpus: int, memory: str, gpus: int = 0) -> Object:
    # Ray sizes itself by the limits, so requests are the same.
    amounts = {"cpu": str(cpus), "memory": memory, **({"nvidia.com/gpu": str(gpus)} if gpus else {})}
    return {
        "name": name,
        "image": options.image,
        "imagePullPolicy": "IfNotPresent",
        "securityContext": CONTAINER_SECURITY,
        "resources": {"limits": amounts, "requests": amounts},
        "env": [{"name": "RAY_USAGE_STATS_ENABLED", "value": "0"}],
    }


def _configure(container: Object, environment: list[Object]) -> None:
    """Settings, secrets and a home for a container that runs our code in the service's cluster."""
    container["env"] = [
        *container["env"],
        {"name": "PERSONAAGENT_CONFIG", "value": f"{SETTINGS}/settings.yaml"},
        {"name": "HF_HOME", "value": f"{HOME}/huggingface"},
        # The proxy's own errors in the shape of ours: see serve/http/edge.py.
        {"name": "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH", "value": "serve.http.edge.middlewares"},
        *environment,
    ]
    container["volumeMounts"] = [
        {"name": "settings", "mountPath": SETTINGS, "readOnly": True},
        {"name": "home", "mountPath": HOME},
    ]


def _template(
    options: ClusterOptions,
    component: str,
    container: Object,
    *,
    configured: bool,
    annotations: dict[str, str] | None,
) -> Object:
    spec: Object = {"securityContext": POD_SECURITY, "containers": [container]}
    if options.pull_secret:
        spec["imagePullSecrets"] = [{"name": options.pull_secret}]
    if configured:
        claim = options.home_claim
        spec["volumes"] = [
            {"name": "settings", "configMap": {"name": f"{options.name}-settings"}},
            {"name": "home", **({"persistentVolumeClaim": {"claimName": claim}} if claim else {"emptyDir": {}})},
        ]
    described: Object = {"labels": labels(options, component)}
    if annotations:
        described["annotations"] = annotations
    return {"metadata": described, "spec": spec}


def _ports(named: dict[str, int]) -> list[Object]:
    return [{"name": name, "containerPort": port, "protocol": "TCP"} for name, port in named.items()]
