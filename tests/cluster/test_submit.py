"""Handing an alignment run to a running cluster, against a stand-in of the Ray Jobs REST API."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from cluster import submit
from personaagent.errors import UnavailableError


class Jobs:
    """The Ray Jobs REST API as far as it is used. A new job goes through `course`, one status per poll."""

    def __init__(self, known: dict[str, str] | None = None, course: tuple[str, ...] = ("RUNNING", "SUCCEEDED")) -> None:
        self.jobs = dict(known or {})
        self.posted: list[dict[str, Any]] = []
        self.down = 0  # requests that find nobody
        self.log_lost = False
        self._course = list(course)
        self._log = ""

    def client(self) -> httpx.Client:
        return httpx.Client(base_url="http://head:8265", transport=self.transport())

    def transport(self) -> httpx.MockTransport:
        return httpx.MockTransport(self._answer)

    def _answer(self, request: httpx.Request) -> httpx.Response:
        if self.down:
            self.down -= 1
            raise httpx.ConnectError("connection refused", request=request)
        match request.method, request.url.path.removeprefix("/api/jobs/").split("/"):
            case "GET", [""]:
                driver = {"submission_id": None, "status": "RUNNING"}
                return httpx.Response(
                    200, json=[driver, *({"submission_id": j, "status": s} for j, s in self.jobs.items())]
                )
            case "POST", [""]:
                body = json.loads(request.content)
                if body["submission_id"] in self.jobs:
                    return httpx.Response(400, text="Traceback\nValueError: already exists")
                self.posted.append(body)
                self.jobs[body["submission_id"]] = "PENDING"
                return httpx.Response(200, json={"submission_id": body["submission_id"]})
            case "GET", [job, "logs"]:
                self._log += "line\n"
                return (
                    httpx.Response(500, text="gone") if self.log_lost else httpx.Response(200, json={"logs": self._log})
                )
            case "GET", [job]:
                if job not in self.jobs:
                    return httpx.Response(404, text=f"Job {job} does not exist")
                if self.jobs[job] in submit.RUNNING and self._course:
                    self.jobs[job] = self._course.pop(0)
                return httpx.Response(200, json={"status": self.jobs[job]})
        return httpx.Response(405)


class Run:
    """Runs a job to its end, in no time."""

    def __init__(self, jobs: Jobs) -> None:
        self.log: list[str] = []
        with jobs.client() as client:
            self.job = submit.submit(client, "r", ["--all"], sleep=self._sleep)
            self.status = submit.follow(client, self.job, self.log.append, sleep=self._sleep)

    def _sleep(self, seconds: float) -> None:
        assert seconds > 0


def test_a_first_attempt_is_submitted_and_followed() -> None:
    known = {"other.1": "RUNNING", "r2.1": "FAILED", "r": "FAILED"}
    jobs = Jobs(known, ("PENDING", "RUNNING", "RUNNING", "SUCCEEDED"))
    run = Run(jobs)
    assert (run.job, run.status) == ("r.1", "SUCCEEDED")
    assert jobs.posted[0]["entrypoint"] == "personaagent align --run-id r --all"
    assert jobs.posted[0]["entrypoint_num_cpus"] == 1
    assert "".join(run.log) == "line\n" * 4  # every line once


def test_a_retry_goes_on_after_a_failure() -> None:
    jobs = Jobs({"r.1": "FAILED"})
    assert Run(jobs).job == "r.2"
    assert jobs.posted[0]["entrypoint"] == "personaagent align --run-id r --all"


@pytest.mark.parametrize(
    ("known", "job"), [({"r.1": "FAILED", "r.2": "RUNNING"}, "r.2"), ({"r.1": "SUCCEEDED"}, "r.1")]
)
def test_no_second_driver_while_one_runs_or_when_all_is_done(known: dict[str, str], job: str) -> None:
    jobs = Jobs(known)
    run = Run(jobs)
    assert (run.job, run.status, jobs.posted) == (job, "SUCCEEDED", [])


def test_a_stopped_run_stays_stopped() -> None:
    jobs = Jobs({"r.1": "STOPPED"})
    assert Run(jobs).status == "STOPPED"
    assert not jobs.posted


def test_a_head_that_restarts_is_waited_for() -> None:
    jobs = Jobs()
    jobs.down = 5
    assert Run(jobs).status == "SUCCEEDED"


def test_a_cluster_that_stays_away_is_an_error() -> None:
    jobs = Jobs()
    jobs.down = 1_000
    with pytest.raises(UnavailableError, match="connection refused"):
        Run(jobs)


def test_how_long_a_cluster_is_waited_for() -> None:
    waits: list[float] = []
    jobs = Jobs()
    jobs.down = 1_000
    with (
        jobs.client() as client,
        pytest.raises(UnavailableError, match="did not take GET /api/jobs/: connection refused"),
    ):
        submit.submit(client, "r", [], sleep=waits.append)
    assert waits == [10.0] * 30
    assert jobs.down == 1_000 - 31


@pytest.mark.parametrize(
    ("answer", "waits", "reason"),
    [
        (httpx.Response(404, text="a page\nno such job"), 0, "HTTP 404 no such job"),
        (httpx.Response(302), 0, "HTTP 302"),
        (httpx.Response(503), 30, "HTTP 503"),
        (httpx.Response(200, text="<html>"), 0, "an answer that is not JSON"),
    ],
)
def test_an_answer_that_will_not_get_better_is_not_waited_for(answer: httpx.Response, waits: int, reason: str) -> None:
    slept: list[float] = []
    transport = httpx.MockTransport(lambda _: httpx.Response(answer.status_code, content=answer.content))
    with (
        httpx.Client(base_url="http://head:8265", transport=transport) as client,
        pytest.raises(UnavailableError, match=reason),
    ):
        submit.follow(client, "r.1", print, sleep=slept.append)
    assert len(slept) == waits


def test_a_job_that_an_upgrade_took_along_is_an_error() -> None:
    with Jobs().client() as client, pytest.raises(UnavailableError, match="does not exist"):
        submit.follow(client, "r.1", print)


def test_a_lost_log_does_not_hide_how_it_ended() -> None:
    jobs = Jobs(course=("RUNNING", "FAILED"))
    jobs.log_lost = True
    run = Run(jobs)
    assert run.status == "FAILED"
    assert "no log" in run.log[0]


@pytest.mark.parametrize(("end", "code"), [("SUCCEEDED", 0), ("STOPPED", 0), ("FAILED", 1)])
def test_submit_command(capsys: pytest.CaptureFixture[str], end: str, code: int) -> None:
    jobs = Jobs(course=(end,))
    command = ["--address", "http://head:8265", "--run-id", "r", "--", "--all", "--since", "2d"]
    assert submit.main(command, jobs.transport()) == code
    assert jobs.posted[0]["entrypoint"] == "personaagent align --run-id r --all --since 2d"
    assert capsys.readouterr().out == "line\n"
