"""`touchstone serve DIR --status-from PLACE`: a real status, fetched from a web server, looked at
again and again; what the facility stops there stops answering here, and comes back when lifted."""

import datetime as dt
import functools
import json
import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from registry.trust.canonical import sha256_bytes
from registry.trust.dsse import payload_of
from registry.trust.status import Listed, Stop, moment_of
from serving.bundle.memory import seen_checkpoint
from serving.bundle.status_copy import export, kept
from tests.serving import certified
from tests.serving.hospital_made import REPOSITORY, write
from tests.serving.server_process import ServerProcess
from tests.serving.status_made import AUTHORITY, PEOPLE, Made
from tests.serving.test_serve_standing import until
from tests.serving.test_server import inputs, problem

ADDRESS = re.compile(r"on (http://127\.0\.0\.1:\d+)")
REASON = "the outputs drifted at two sites"


@dataclass
class Hospital:
    """A bundle, the pinned root beside it, and the web server that the status comes from."""

    bundle: Path
    source: str
    files: Path
    certificate: tuple[str, int]
    version: int = 0

    def publish(self, stop: Stop | None = None, lifts: str | None = None) -> None:
        """The facility's next status."""
        self.version += 1
        digest, length = self.certificate
        made = Made(
            at=dt.datetime.now(dt.UTC),
            listed={digest: Listed(length, lifts)},
            stops={} if stop is None else {digest: stop},
            versions=dict.fromkeys(("timestamp", "snapshot", "targets", "downgrade"), self.version),
        )
        export(made.files(), self.files)

    def command(self, what: str, *more: str) -> list[str]:
        folder = self.bundle.parent
        return [
            sys.executable, "-P", "-m", "registry.cli.main", what, str(self.bundle), "--allow-demo",
            "--root", str(folder / "root.pem"), "--state", str(folder / "state"), *more,
        ]  # fmt: skip


class _Files(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Says nothing."""


ENVIRONMENT = os.environ | {"PYTHONPATH": str(REPOSITORY)}


@pytest.fixture
def hospital(tmp_path: Path) -> Iterator[Hospital]:
    ada, ben = PEOPLE["Ada"], PEOPLE["Ben"]
    tef = certified.Facility(AUTHORITY, ada, ben, certified.log_of(AUTHORITY))
    certified.enrol(tef, ada, ben)
    bundle = write(tef, certified.model(), tmp_path / "nodule-3")
    payload = payload_of(json.loads((bundle / "certificate.json").read_bytes()))
    certificate = (sha256_bytes(payload), len(payload))
    files = tmp_path / "published"
    files.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Files, directory=str(files)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield Hospital(bundle, f"http://127.0.0.1:{server.server_port}", files, certificate)
    server.shutdown()
    server.server_close()
    thread.join()


def test_what_the_facility_stops_stops_here_and_comes_back_when_two_assessors_lift_it(
    hospital: Hospital,
) -> None:
    hospital.publish()
    known = ("--status-from", hospital.source, "--every", "1", "--port", "0")
    serving = ServerProcess(hospital.command("serve", *known), ADDRESS, cwd="/", env=ENVIRONMENT)
    assert serving.url, serving.lines

    with httpx.Client(base_url=serving.url, timeout=30) as client:

        def predict() -> httpx.Response:
            return client.post("/v1/predict", json={"inputs": inputs()})

        def standing() -> dict[str, Any]:
            found: dict[str, Any] = client.get("/v1/model").json()["standing"]
            return found

        assert predict().status_code == 200
        log = json.loads((hospital.bundle / "log.json").read_bytes())
        seen = seen_checkpoint(hospital.bundle.parent / "state", AUTHORITY.certificate)
        assert seen == log["checkpoint"].encode(), "kept, as by verify"
        first = standing()["signed_at"]
        hospital.publish()
        until(lambda: standing()["signed_at"] != first)
        assert predict().status_code == 200, "renewed, and nothing else"

        suspended = Stop("suspended", moment_of(dt.datetime.now(dt.UTC)), REASON)
        hospital.publish(suspended)
        until(lambda: predict().status_code != 200)
        refused = predict()
        assert problem(refused, 403) == "suspended"
        assert REASON in refused.json()["detail"]
        assert "ask the facility what to do" in refused.json()["detail"]
        assert client.get("/health/live").status_code == 200

        hospital.publish(suspended, lifts=suspended.since)
        until(lambda: predict().status_code == 200)

        revoked = Stop("revoked", moment_of(dt.datetime.now(dt.UTC)), "unsafe")
        hospital.publish(revoked, lifts=suspended.since)
        until(lambda: predict().status_code != 200)
        assert problem(predict(), 403) == "revoked"
        hospital.publish(suspended, lifts=suspended.since)  # as if it had never been
        time.sleep(3)  # some looks go by: the false source hides nothing
        assert problem(predict(), 403) == "revoked"
    assert serving.stop() == 0

    status, _ = kept(hospital.bundle.parent / "state", AUTHORITY.certificate,
                     dt.datetime.now(dt.UTC))  # fmt: skip
    assert status.standing(hospital.certificate[0]).state == "revoked", "it stays known here"
