"""Manifests: valid against KubeRay's schemas, without secrets, in step with the settings. No cluster, no Ray."""

from __future__ import annotations

import ast
import functools
import importlib.metadata
import importlib.util
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

import serve.http.edge
from cluster import render
from cluster.options import ClusterOptions, cluster_options, load_deployment
from cluster.secrets import public_tree, secret_variables
from personaagent import __version__
from personaagent.errors import InvalidInput
from personaagent.settings import Settings, load_settings

REPO = Path(__file__).resolve().parents[2]
MANIFESTS = REPO / "cluster" / "manifests"
MILVUS = {"uri": "http://milvus:19530"}


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in os.environ if n.startswith("PERSONAAGENT_")]:
        if name != "PERSONAAGENT_SCHEMAS":
            monkeypatch.delenv(name)


def settings(**tree: Any) -> Settings:
    return load_settings(**{"memory": MILVUS, "llm": {"model": "org/model"}, **tree})


def options(**values: Any) -> ClusterOptions:
    return cluster_options(**{"image": "registry/personaagent:1", "home_claim": "home", **values})


def documents(text: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(text))


def rendered() -> Iterator[tuple[str, dict[str, Any]]]:
    for name, text in render.examples().items():
        for document in documents(text):
            yield name, document


def one(objects: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    (found,) = [o for o in objects if o["kind"] == kind]
    return found


def cluster_of(ray: dict[str, Any]) -> dict[str, Any]:
    return dict(ray["spec"]["rayClusterConfig"])


def templates(o: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every pod template in an object."""
    for key, value in o.items():
        if key == "template":
            yield value
        elif isinstance(value, dict):
            yield from templates(value)
        elif isinstance(value, list):
            for inner in value:
                if isinstance(inner, dict):
                    yield from templates(inner)


# --- KubeRay's schemas


@functools.cache
def schema(kind: str) -> dict[str, Any]:
    folder = Path(os.environ.get("PERSONAAGENT_SCHEMAS", REPO.parent / "shared" / "schemas"))
    file = folder / "kuberay" / f"{kind}.v1.json"
    if not file.is_file():
        pytest.skip(f"no schema at {file}; set PERSONAAGENT_SCHEMAS")
    closed: dict[str, Any] = strict(json.loads(file.read_text(encoding="utf-8")))
    closed["properties"]["metadata"] = {"type": "object"}  # Kubernetes' own, not part of a CRD
    return closed


def strict(node: Any) -> Any:
    """A CRD's OpenAPI as JSON Schema that refuses unknown fields.

    The API server drops fields that are not in the schema (unless x-kubernetes-preserve-unknown-fields is set), so a
    misspelt one would be lost in silence. Other x-kubernetes-* keys carry no constraint that JSON Schema could express.
    """
    if isinstance(node, list):
        return [strict(n) for n in node]
    if not isinstance(node, dict):
        return node
    out = {key: strict(value) for key, value in node.items()}
    declares_fields = out.get("type") == "object" and isinstance(out.get("properties"), dict)
    if declares_fields and "additionalProperties" not in out and not out.get("x-kubernetes-preserve-unknown-fields"):
        out["additionalProperties"] = False
    return out


def validate(o: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator(schema(o["kind"])).validate(o)


def test_examples_fit_the_schemas() -> None:
    checked = []
    for _, document in rendered():
        if document["apiVersion"] == "ray.io/v1":
            validate(document)
            checked.append(document["kind"])
    assert sorted(checked) == ["RayCronJob", "RayJob", "RayService", "RayService"]


def test_every_option_fits_the_schemas() -> None:
    full = options(pull_secret="pull", redis="redis:6379", redis_secret="redis", ingress_namespace="web")
    validate(render.service(settings(), full))
    validate(render.align_job(full, "run-1"))
    validate(render.nightly_job(full))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("rayClusterConfig", "headGroupSpec", "template", "spec", "containers", 0, "imagePullPolcy"), "Always"),
        (("rayClusterConfig", "workerGroupSpecs", 0, "maxReplicas"), "many"),
        (("rayClusterConfig", "autoscalerOptions", "version"), "v3"),
        (("upgradeStrategie",), {}),
    ],
)
def test_the_schema_check_would_notice(path: tuple[Any, ...], value: Any) -> None:
    ray = render.service(settings(), options())
    spot: Any = ray["spec"]
    for step in path[:-1]:
        spot = spot[step]
    spot[path[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        validate(ray)


# --- what the operator asks beyond its schemas (KubeRay 1.7, ray-operator/controllers/ray/utils/validation.go)


def test_what_the_operator_refuses() -> None:
    for _, o in rendered():
        if o["kind"] == "RayService":
            config = cluster_of(o)
            assert "name" not in config["headGroupSpec"].get("headService", {})
            for group in config["workerGroupSpecs"]:
                assert 0 <= group["minReplicas"] <= group["maxReplicas"]
            # autoscaler v2 refuses any restart policy but Never
            assert all("restartPolicy" not in t["spec"] for t in templates(o))
        job = (
            o["spec"].get("jobTemplate") if o["kind"] == "RayCronJob" else o["spec"] if o["kind"] == "RayJob" else None
        )
        if job:
            assert "clusterSelector" not in job, "it allows no retries"
            assert job["shutdownAfterJobFinishes"], "ttlSecondsAfterFinished needs it"


def test_names_leave_room_for_what_kuberay_appends() -> None:
    longest = options(name="a" * 28)
    assert len(render.nightly_job(longest)["metadata"]["name"]) <= 36
    assert len(render.align_job(longest, "r")["metadata"]["name"]) <= 47
    with pytest.raises(InvalidInput, match=r"cluster\.name"):
        options(name="a" * 29)


# --- no drift


def test_manifests_are_what_render_gives() -> None:
    expected = render.examples()
    found = {file.name: file.read_text(encoding="utf-8") for file in MANIFESTS.glob("*.yaml")}
    assert found == expected, "run: python -m cluster.render examples"


def test_image_tags_are_the_version_of_the_program() -> None:
    for name in ("cluster/deployments/gpu.yaml", "cluster/Dockerfile.gpu", "docs/kubernetes.md"):
        tags = re.findall(r"personaagent:(\d\S*?)-gpu", (REPO / name).read_text(encoding="utf-8"))
        assert set(tags) == {__version__}, name


def test_versions_agree() -> None:
    pyproject = (REPO / "pyproject.toml").read_text(encoding="utf-8")
    assert f"ray[data,serve]=={render.RAY_VERSION}" in pyproject
    assert importlib.metadata.version("ray") == render.RAY_VERSION
    assert f"rayproject/ray-llm:{render.RAY_VERSION}-" in (REPO / "cluster" / "Dockerfile.gpu").read_text(
        encoding="utf-8"
    )


@pytest.mark.parametrize("kind", ["gpu", "cpu"])
def test_images_hold_every_package_and_no_secret(kind: str) -> None:
    text = (REPO / "cluster" / f"Dockerfile.{kind}").read_text(encoding="utf-8")
    for package in ("personaagent", "alignment", "actors", "serve", "cluster"):
        assert re.search(rf"^COPY .*\b{package} ", text, re.MULTILINE)
    assert re.findall(r"^USER (.+)$", text, re.MULTILINE)[-1] == "1000:100"
    assert not re.search(r"(?i)(token|password|api_key|secret)", text)


# --- the application and its settings


def serve_config(ray: dict[str, Any]) -> dict[str, Any]:
    return dict(yaml.safe_load(ray["spec"]["serveConfigV2"]))


def test_serve_takes_its_config() -> None:
    model = pytest.importorskip("ray.serve.schema").ServeDeploySchema
    for _, o in rendered():
        if o["kind"] == "RayService":
            (application,) = model.model_validate(serve_config(o)).applications
            assert application.import_path == "serve.app:build"


def test_the_import_path_exists() -> None:
    file = REPO / "serve" / "app.py"
    tree = ast.parse(file.read_text(encoding="utf-8"))
    assert "build" in {n.name for n in tree.body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_arguments_and_settings_file_are_one_tree_that_loads() -> None:
    given = settings(llm={"model": "org/model", "max_replicas": 3}, alignment={"batch": 5}, serve={"host": "1.2.3.4"})
    objects = render.service_objects(given, options())
    arguments = serve_config(one(objects, "RayService"))["applications"][0]["args"]
    assert arguments == yaml.safe_load(one(objects, "ConfigMap")["data"]["settings.yaml"])
    loaded = load_settings(**arguments)
    assert (loaded.llm.model, loaded.llm.max_replicas, loaded.alignment.batch) == ("org/model", 3, 5)
    assert loaded.memory == given.memory
    assert loaded.llm.accelerator == "gpu"
    assert "serve" not in arguments  # where it listens is KubeRay's to say


def test_secrets_from_the_environment_survive_the_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    given = settings(memory={**MILVUS, "token": "t0p"})
    monkeypatch.setenv("PERSONAAGENT_MEMORY__TOKEN", "from the pod")
    token = load_settings(**render.settings_tree(given)).memory.token
    assert token is not None
    assert token.get_secret_value() == "from the pod"


@pytest.mark.parametrize("uri", [None, "./memory.db", "/data/memory.db", "milvus"])
def test_a_cluster_needs_a_milvus_server(uri: str | None) -> None:
    with pytest.raises(InvalidInput, match="Milvus"):
        render.service_objects(settings(memory={"uri": uri}), options())


def test_memory_settings_alone_take_a_new_cluster() -> None:
    def spec(**tree: Any) -> dict[str, Any]:
        return cluster_of(render.service(settings(**tree), options()))

    assert spec() == spec(alignment={"batch": 9}, agent={"max_tokens": 99})
    assert spec() != spec(memory={**MILVUS, "shards": 7})


# --- secrets


# Lists whose entries may have secrets, each with one.
LISTS: dict[str, list[dict[str, Any]]] = {
    "documents": [{"description": "d", "uri": "http://m", "collection": "c", "token": "k6-very-secret"}],
    "http": [{"name": "h", "description": "d", "url": "http://h", "headers": {"Authorization": "k7-very-secret"}}],
    "mcp": [{"name": "m", "command": ["server"], "env": {"KEY": "k8-very-secret"}}],
}
SECRETS = {
    "llm": {"model": "org/model", "api_key": "k1-very-secret"},
    "memory": {**MILVUS, "token": "k2-very-secret", "encryption_key": "k3-very-secret"},
    "alignment": {"teacher": {"base_url": "https://t", "model": "m", "api_key": "k4-very-secret"}},
    "serve": {"api_key": "k5-very-secret"},
    "tools": LISTS,
}


def test_secrets_are_referenced_and_never_written() -> None:
    given = settings(**SECRETS)
    objects = [
        *render.service_objects(given, options()),
        render.align_job(options(), "r"),
        render.nightly_job(options()),
    ]
    text = render.to_yaml(objects)
    assert "very-secret" not in text
    assert "****" not in text
    for template in templates(one(objects, "RayService")):
        variables = {e["name"]: e["valueFrom"] for e in template["spec"]["containers"][0]["env"] if "valueFrom" in e}
        for name in secret_variables(given):
            assert variables[name] == {"secretKeyRef": {"name": "personaagent", "key": name, "optional": False}}
    for template in templates(one(objects, "RayJob")):
        assert all("valueFrom" not in e for e in template["spec"]["containers"][0]["env"])


def test_every_secret_setting_has_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    names = secret_variables(settings())
    assert {
        "PERSONAAGENT_LLM__API_KEY",
        "PERSONAAGENT_MEMORY__TOKEN",
        "PERSONAAGENT_ALIGNMENT__TEACHER__API_KEY",
    } <= set(names)
    for name in names:
        whole = LISTS.get(name.removeprefix("PERSONAAGENT_TOOLS__").lower())
        monkeypatch.setenv(name, "value" if whole is None else json.dumps(whole))
    assert all(secret_variables(settings()).values()), "each variable sets its setting"


def test_lists_without_a_secret_are_settings_like_others() -> None:
    tools = {"mcp": [{"name": "m", "command": ["server"]}], "http": LISTS["http"]}
    given = settings(tools=tools)
    needed = secret_variables(given)
    assert (needed["PERSONAAGENT_TOOLS__MCP"], needed["PERSONAAGENT_TOOLS__HTTP"]) == (False, True)
    assert public_tree(given)["tools"].keys() == {"mcp"}


def test_the_api_key_is_required_and_others_only_when_used() -> None:
    needed = secret_variables(settings())
    assert [name for name, required in needed.items() if required] == ["PERSONAAGENT_SERVE__API_KEY"]


@given(st.text(st.characters(categories=["L", "N", "P"]), min_size=12))
def test_no_secret_value_gets_into_the_tree(value: str) -> None:
    given_settings = load_settings(memory={"uri": "http://m:1", "token": value}, serve={"api_key": value})
    assert public_tree(given_settings) == {"memory": {"uri": "http://m:1"}}


@pytest.mark.parametrize(
    "tree",
    [
        {"llm": {"model": "org/model", "engine_kwargs": {"hf_token": "hf_abc"}}},
        {"llm": {"model": "org/model", "engine_kwargs": {"x": {"Password": "p"}}}},
        {"llm": {"model": "org/model", "base_url": "https://user:pass@host/v1"}},
        {"memory": {"uri": "http://root:Milvus@milvus:19530"}},
    ],
)
def test_credentials_in_the_wrong_place_are_refused(tree: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match="Secret"):
        render.service_objects(settings(**tree), options())


# --- pods


def groups(ray: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {g["groupName"]: g for g in cluster_of(ray)["workerGroupSpecs"]}


@pytest.mark.parametrize(
    ("llm", "count", "expected"),
    [
        ({"min_replicas": 1, "max_replicas": 4}, 1, (1, 4)),
        ({"min_replicas": 1, "max_replicas": 4, "tensor_parallel": 2}, 4, (1, 2)),
        ({"min_replicas": 3, "max_replicas": 5, "tensor_parallel": 2}, 2, (3, 5)),
        ({"min_replicas": 3}, 1, (3, 3)),
    ],
)
def test_gpu_pods_follow_the_engine(llm: dict[str, Any], count: int, expected: tuple[int, int]) -> None:
    ray = render.service(
        settings(llm={"model": "org/model", **llm}), options(gpu={"count": count, "type": "NVIDIA-L4"})
    )
    gpu = groups(ray)["gpu"]
    assert (gpu["minReplicas"], gpu["maxReplicas"]) == expected
    (container,) = gpu["template"]["spec"]["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == str(count)
    assert gpu["template"]["spec"]["nodeSelector"] == {"nvidia.com/gpu.product": "NVIDIA-L4"}


def test_engine_larger_than_a_pod_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"cluster\.gpu\.count"):
        render.service(settings(llm={"model": "org/model", "tensor_parallel": 4}), options(gpu={"count": 2}))


def test_embedded_model_is_not_for_gpus() -> None:
    with pytest.raises(InvalidInput, match=r"llm\.model"):
        render.service(settings(llm={}), options())


@pytest.mark.parametrize("llm", [{"accelerator": "cpu"}, {"base_url": "http://engine/v1", "model": "m"}])
def test_no_gpu_pods_without_an_engine_on_gpus(llm: dict[str, Any]) -> None:
    assert set(groups(render.service(settings(llm=llm), options()))) == {"cpu"}


def test_pods_are_unprivileged_and_ready_when_the_api_is() -> None:
    for _, o in rendered():
        for template in templates(o):
            spec = template["spec"]
            assert spec["securityContext"]["runAsNonRoot"]
            (container,) = spec["containers"]
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["resources"]["limits"] == container["resources"]["requests"]
            if container["name"] == "ray-worker":
                assert container["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "serve"}
                assert spec["automountServiceAccountToken"] is False


def test_redis_keeps_the_clusters_state() -> None:
    with_password = cluster_of(render.service(settings(), options(redis="redis:6379", redis_secret="redis")))
    assert with_password["gcsFaultToleranceOptions"] == {
        "redisAddress": "redis:6379",
        "redisPassword": {"valueFrom": {"secretKeyRef": {"name": "redis", "key": "password"}}},
    }
    assert "gcsFaultToleranceOptions" not in cluster_of(render.service(settings(), options()))


def test_selectors_select_the_pods() -> None:
    objects = [*render.service_objects(*load_deployment(REPO / "cluster/deployments/gpu.yaml"))]
    pods = [t["metadata"]["labels"] for t in templates(one(objects, "RayService"))]
    ports = {
        port["name"]
        for t in templates(one(objects, "RayService"))
        for container in t["spec"]["containers"]
        for port in container["ports"]
    }

    def selected(wanted: dict[str, str]) -> int:
        return sum(wanted.items() <= labels.items() for labels in pods)

    assert selected(one(objects, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"]) == len(pods)
    monitor = one(objects, "PodMonitor")["spec"]
    assert selected(monitor["selector"]["matchLabels"]) == len(pods)
    assert {e["port"] for e in monitor["podMetricsEndpoints"]} <= ports
    budgets = [o["spec"] for o in objects if o["kind"] == "PodDisruptionBudget"]
    assert len(budgets) == 2
    for budget in budgets:
        assert selected(budget["selector"]["matchLabels"]) == 1
        assert budget["minAvailable"] == 1


def test_a_group_of_one_never_blocks_a_drain() -> None:
    objects = render.service_objects(settings(), options(cpu={"min": 1, "max": 2}))
    assert not [o for o in objects if o["kind"] == "PodDisruptionBudget"]


def test_only_the_operator_reaches_the_dashboard_from_outside() -> None:
    policy = one(render.service_objects(settings(), options(ingress_namespace="web")), "NetworkPolicy")
    outside = [rule for rule in policy["spec"]["ingress"] if "ports" in rule]
    reaching = [rule["from"] for rule in outside if 8265 in [p["port"] for p in rule["ports"]]]
    assert reaching == [[{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kuberay-system"}}}]]


def test_without_monitoring_there_is_no_monitor() -> None:
    objects = render.service_objects(settings(), options(monitoring_namespace=None))
    assert "PodMonitor" not in {o["kind"] for o in objects}


# --- options and the command line


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"colour": "red"}, "cluster.colour"),
        ({"cpu": {"min": 3, "max": 2}}, "max is below min"),
        ({"redis_secret": "x"}, "redis_secret needs redis"),
        ({"schedule": "daily"}, "five cron fields"),
        ({"schedule": "CRON_TZ=UTC 0 3 * * *"}, "time_zone"),
        ({"head_memory": "lots"}, "head_memory"),
    ],
)
def test_bad_options(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=re.escape(message)):
        options(**values)


def test_image_has_no_default() -> None:
    with pytest.raises(InvalidInput, match=r"cluster\.image"):
        cluster_options()


@pytest.mark.parametrize("text", ["[]", "cluster: 3", "cluster: {", "other: {}"])
def test_bad_deployment_files(tmp_path: Path, text: str) -> None:
    file = tmp_path / "deployment.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(InvalidInput):
        load_deployment(file)


def test_command_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    deployment = str(REPO / "cluster/deployments/gpu.yaml")
    change = ["--set", "cluster.namespace=elsewhere", "--set", "settings.memory.shards=3"]
    assert render.main(["service", deployment, *change]) == 0
    objects = documents(capsys.readouterr().out)
    assert {o["metadata"]["namespace"] for o in objects} == {"elsewhere"}
    assert yaml.safe_load(one(objects, "ConfigMap")["data"]["settings.yaml"])["memory"]["shards"] == 3

    assert render.main(["align", deployment, "--run-id", "2026 q1"]) == 2
    assert render.main(["service", str(tmp_path / "absent.yaml")]) == 2
    assert render.main(["service", deployment, "--set", "namespace=x"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.strip().splitlines()) == 3


# --- the jobs


def test_a_run_that_could_not_be_resumed_is_refused() -> None:
    for job in (lambda o: render.align_job(o, "r"), render.nightly_job):
        with pytest.raises(InvalidInput, match=r"cluster\.home_claim"):
            job(options(home_claim=None))


def test_jobs_hand_the_work_to_the_services_cluster() -> None:
    job = render.align_job(options(name="prod"), "run-7")["spec"]
    assert job["entrypoint"] == ("python -m cluster.submit --address http://prod-head-svc:8265 --run-id run-7 -- --all")
    assert job["backoffLimit"] == 3
    nightly = render.nightly_job(options(), 5, since="2026-01-31")["spec"]["jobTemplate"]["entrypoint"]
    assert nightly.endswith('--run-id "${RAY_CLUSTER_NAME%-*}" -- --all --min-new 5 --since 2026-01-31')


# --- the dashboard


def test_dashboard_asks_for_metrics_that_ray_has() -> None:
    found = importlib.util.find_spec("ray")
    assert found is not None
    assert found.submodule_search_locations is not None
    folder = Path(found.submodule_search_locations[0], "dashboard/modules/metrics/dashboards")
    if not folder.is_dir():
        pytest.skip("this Ray ships no dashboards to compare with")
    known = "\n".join(file.read_text(encoding="utf-8") for file in folder.glob("*_dashboard_panels.py"))
    dashboard = json.loads((REPO / "cluster/dashboards/personaagent.json").read_text(encoding="utf-8"))
    expressions = [t["expr"] for p in dashboard["panels"] for t in p.get("targets", [])]
    metrics = {m for e in expressions for m in re.findall(r"\b(?:ray|autoscaler)_[a-z_]+(?=\{)", e)}
    assert len(metrics) > 15
    assert "ray_personaagent_shed_chats_total" in metrics
    assert '"personaagent_shed_chats"' in Path(serve.http.edge.__file__).read_text(encoding="utf-8")
    for metric in metrics - {"ray_personaagent_shed_chats_total"}:
        assert metric.removesuffix("_bucket") in known, metric
    assert len({p["id"] for p in dashboard["panels"]}) == len(dashboard["panels"])
