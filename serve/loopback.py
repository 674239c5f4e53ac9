"""On a laptop, everything that listens does so on loopback."""

from __future__ import annotations

from typing import Any

import ray
from ray._common.tls_utils import add_port_to_grpc_server
from ray.serve._private import replica

from serve.http.sites import is_local

__all__ = ["stay_local"]

_ANY = "[::]:"


def stay_local() -> None:
    """Called when a replica is made, before Serve opens the port at which other replicas reach it.

    Serve opens it at every address of the machine, asks nobody for a password, and unpickles what arrives. On a machine whose Ray
    runs on loopback, nobody from elsewhere needs it. Serve has no setting for this. Written for Ray 2.60; a test looks at
    the ports.
    """
    if is_local(ray.util.get_node_ip_address()):
        replica.add_port_to_grpc_server = _add_local_port


def _add_local_port(server: Any, address: str) -> int:
    host = ray.util.get_node_ip_address()
    return int(add_port_to_grpc_server(server, address.replace(_ANY, f"{host}:", 1)))
