"""What stands around the pods: who may reach them, how many may leave at once, and who counts what they do."""

from __future__ import annotations

from cluster.options import ClusterOptions
from cluster.pods import API_PORT, DASHBOARD_PORT, METRICS_PORTS, Object, labels, metadata

__all__ = ["disruption_budgets", "network_policy", "pod_monitor"]


def network_policy(options: ClusterOptions) -> Object:
    """Who may open connections to the pods. What the pods open themselves is not restricted."""

    def peers(namespace: str) -> Object:
        return {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}}}

    def ports(*numbers: int) -> list[Object]:
        return [{"protocol": "TCP", "port": number} for number in numbers]

    clients: list[Object] = [{"podSelector": {}}]
    if options.ingress_namespace:
        clients.append(peers(options.ingress_namespace))
    rules: list[Object] = [
        {"from": [{"podSelector": {"matchLabels": labels(options)}}]},  # Ray's own traffic takes many ports
        {"from": clients, "ports": ports(API_PORT)},
        # Whoever reaches the dashboard's port can run code, so only KubeRay and our own pods do.
        {"from": [peers(options.operator_namespace)], "ports": ports(API_PORT, DASHBOARD_PORT)},
    ]
    if options.monitoring_namespace:
        rules.append({"from": [peers(options.monitoring_namespace)], "ports": ports(*METRICS_PORTS.values())})
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata(options, options.name),
        "spec": {"podSelector": {"matchLabels": labels(options)}, "policyTypes": ["Ingress"], "ingress": rules},
    }


def disruption_budgets(ray: Object, options: ClusterOptions) -> list[Object]:
    """A group shrinks by evictions to one less than its fewest workers, not further.

    A group of one has no budget, which would block every drain. For pods of a custom resource Kubernetes takes nothing
    but a number in minAvailable.
    """
    return [
        {
            "apiVersion": "policy/v1",
            "kind": "PodDisruptionBudget",
            "metadata": metadata(options, f"{options.name}-{group['groupName']}"),
            "spec": {
                "minAvailable": group["minReplicas"] - 1,
                "unhealthyPodEvictionPolicy": "AlwaysAllow",
                "selector": {"matchLabels": labels(options, group["groupName"])},
            },
        }
        for group in ray["spec"]["rayClusterConfig"]["workerGroupSpecs"]
        if group["minReplicas"] > 1
    ]


def pod_monitor(options: ClusterOptions) -> Object:
    """Where Prometheus finds the metrics of Ray, of Serve and of the engine: one endpoint per pod, two more on the head."""
    cluster = {"sourceLabels": ["__meta_kubernetes_pod_label_ray_io_cluster"], "targetLabel": "ray_io_cluster"}
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PodMonitor",
        "metadata": metadata(options, options.name),
        "spec": {
            "selector": {"matchLabels": labels(options)},
            "podMetricsEndpoints": [{"port": port, "relabelings": [cluster]} for port in METRICS_PORTS],
        },
    }
