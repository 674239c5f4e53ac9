"""Shared fixtures."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from tests.support.milvus_servers import LiteServer, StandaloneServer, standalone_reason

# No test says how fast a machine is.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

MILVUS_FIXTURES = {"milvus", "milvus_lite", "own_server", "killed"}  # a test with one of them starts or uses a server


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real data sets (MovieLens, PAHF); tests that need it skip where it is absent."""
    default = Path(__file__).resolve().parent.parent.parent / "shared" / "data"
    folder = Path(os.environ.get("PERSONAAGENT_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no data folder at {folder}; set PERSONAAGENT_DATA")
    return folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Pure tests run first, then those with the real models, then those with a cluster: what fails fast comes early."""

    def tier(item: pytest.Item) -> int:
        return 2 if item.get_closest_marker("cluster") else 1 if item.get_closest_marker("model") else 0

    items.sort(key=tier)
    for item in items:
        if set(getattr(item, "fixturenames", ())) & MILVUS_FIXTURES:
            item.add_marker(pytest.mark.milvus)


def pytest_collection_finish() -> None:
    """What all modules brought along stays for good, so the garbage collector need not look through it again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def milvus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandaloneServer]:
    """A real Milvus server, one for all tests of a process that do not kill it."""
    if (reason := standalone_reason()) is not None:
        pytest.skip(reason)
    server = StandaloneServer(tmp_path_factory.mktemp("standalone"))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def milvus_lite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiteServer]:
    """A `milvus-lite server` for the tests of one module."""
    server = LiteServer(tmp_path_factory.mktemp("milvus") / "data")
    yield server
    server.stop()


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[None]:
    """A real local Ray with 2 CPUs, for the tests of one module."""
    import ray

    ray.init(
        num_cpus=2,
        include_dashboard=False,
        _node_ip_address="127.0.0.1",
        log_to_driver=False,
        configure_logging=False,
    )
    yield
    ray.shutdown()
