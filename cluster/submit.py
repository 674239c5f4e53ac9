"""Runs `personaagent align` in the cluster of a running service, and waits for it.

python -m cluster.submit --address http://personaagent-head-svc:8265 --run-id all-1 -- --all

The work becomes a Ray job of the service's cluster: it shares the engines, and the memory shards stay the only writers of
their users. Calling this again with the same run id, as the retries of a RayJob do, follows the job if it still runs,
starts another one that finishes the rest if it failed, and does nothing if it is done.

It speaks the Ray Jobs REST API itself: Ray's own client, inside a Ray job, takes RAY_ADDRESS for the address whatever it
is told, and so would submit to the cluster it runs in.
"""

from __future__ import annotations

import math
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import httpx
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_fixed

from cluster.command_line import OneLineParser
from personaagent.errors import PersonaAgentError, UnavailableError

__all__ = ["follow", "main", "submit"]

POLL_S = 10.0
PATIENCE_S = 300.0  # a head that restarts is back within this time
RUNNING = ("PENDING", "RUNNING")

Sleep = Callable[[float], None]


def submit(
    client: httpx.Client, run_id: str, arguments: Sequence[str], cpus: float = 1.0, sleep: Sleep = time.sleep
) -> str:
    """Find or start the job of a run.

    Args:
        client: its base URL is that of the cluster's dashboard.
        run_id: names the run; its attempts are the jobs `<run id>.1`, `<run id>.2`, ...
        arguments: of `personaagent align`, besides the run id.
        cpus: set aside for the driver, so that it runs on a worker and not beside the cluster's head processes.
        sleep: waits between attempts to reach the cluster.

    Returns:
        The submission id of the job to follow.

    Raises:
        UnavailableError: the cluster cannot be reached or refuses.
    """
    attempts = {
        str(job["submission_id"]): str(job["status"])
        for job in _request(client, "GET", "/api/jobs/", sleep=sleep)
        if (job.get("submission_id") or "").rpartition(".")[0] == run_id
    }
    for status in (*RUNNING, "SUCCEEDED", "STOPPED"):
        for job, reached in attempts.items():
            if reached == status:
                return job
    job = f"{run_id}.{len(attempts) + 1}"
    body = {
        "submission_id": job,
        "entrypoint": shlex.join(["personaagent", "align", "--run-id", run_id, *arguments]),
        "entrypoint_num_cpus": cpus,
        "metadata": {"personaagent_run": run_id},
    }
    # Sent once: a lost answer would make a second attempt fail for the id that is taken. The caller's retry finds the job.
    _request(client, "POST", "/api/jobs/", json=body, patience_s=0.0, sleep=sleep)
    return job


def follow(client: httpx.Client, job: str, write: Callable[[str], Any], sleep: Sleep = time.sleep) -> str:
    """Pass the job's log on until it ends.

    Args:
        client: as for `submit`.
        job: the submission id.
        write: takes each new piece of the log.
        sleep: waits between polls.

    Returns:
        SUCCEEDED, FAILED or STOPPED.

    Raises:
        UnavailableError: the cluster stays away, or no longer knows the job because another cluster took its place.
    """
    written = 0
    while True:
        status = str(_request(client, "GET", f"/api/jobs/{job}", sleep=sleep)["status"])
        try:
            log = str(_request(client, "GET", f"/api/jobs/{job}/logs", patience_s=0.0, sleep=sleep).get("logs") or "")
        except (
            UnavailableError
        ) as e:  # the log is on the driver's node, which may be gone; the job's end is known anyway
            write(f"[no log: {e.message}]\n")
        else:
            write(log[written:])
            written = max(written, len(log))
        if status not in RUNNING:
            return status
        sleep(POLL_S)


def _request(
    client: httpx.Client,
    method: str,
    path: str,
    *,
    json: Any = None,
    patience_s: float = PATIENCE_S,
    sleep: Sleep,
) -> Any:
    def once() -> Any:
        response = client.request(method, path, json=json)
        response.raise_for_status()
        return response.json()

    retrying = Retrying(
        retry=retry_if_exception(_passing),
        wait=wait_fixed(POLL_S),
        stop=stop_after_attempt(1 + math.ceil(patience_s / POLL_S)),
        sleep=sleep,
        reraise=True,
    )
    try:
        return retrying(once)
    except httpx.HTTPStatusError as e:
        reason = f"HTTP {e.response.status_code} {e.response.text.strip().rpartition(chr(10))[2]}".strip()
    except httpx.TransportError as e:
        reason = str(e) or type(e).__name__
    except ValueError as e:
        reason = f"an answer that is not JSON ({e})"
    raise UnavailableError(f"the Ray cluster at {client.base_url} did not take {method} {path}: {reason}")


def _passing(error: BaseException) -> bool:
    """Whether an error may pass by itself: the head restarts, or something in front of it does."""
    if isinstance(error, httpx.HTTPStatusError):
        return error.response.status_code >= 500
    return isinstance(error, httpx.TransportError)


def main(arguments: Sequence[str] | None = None, transport: httpx.BaseTransport | None = None) -> int:
    """The command line. 0: the run is done, or somebody stopped it; 1: it failed, to be called again; 2: no cluster."""
    parser = OneLineParser(prog="python -m cluster.submit", description="Align users in a running cluster.")
    parser.add_argument("--address", required=True, help="the dashboard of the service's cluster, http://host:8265")
    parser.add_argument("--run-id", required=True, help="a run of this id is resumed, never repeated")
    parser.add_argument("--cpus", type=float, default=1.0, help="for the driver")
    parser.add_argument("rest", nargs="*", metavar="-- ARGUMENT", help="of `personaagent align`")
    given = parser.read(arguments)
    try:
        with httpx.Client(base_url=given.address, timeout=30.0, trust_env=False, transport=transport) as client:
            job = submit(client, given.run_id, given.rest, given.cpus)
            print(f"following {job}", file=sys.stderr)
            status = follow(client, job, _write)
    except (PersonaAgentError, httpx.InvalidURL, httpx.UnsupportedProtocol) as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    print(f"{job}: {status}", file=sys.stderr)
    return 1 if status == "FAILED" else 0


def _write(piece: str) -> None:
    sys.stdout.write(piece)
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
