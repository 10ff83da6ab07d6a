"""Our API over a real PostgreSQL, with people of every role and submissions in several states.

    stage = Stage(database, folder)
    stage.client("innovator").get("/api/v1/submissions")

The application is the real one without MLflow behind it: `create_api`.
"""

import contextlib
import datetime as dt
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from registry.api import examples
from registry.api.app import create_api
from registry.audit.drafted import certified_log
from registry.audit.log_key import make_log_key
from registry.database.migrate import mark_done, mlflow_name
from registry.database.record import Record
from registry.facility import Facility
from registry.identity import enrolment, sign_in
from registry.identity.accounts import authenticate
from registry.identity.rate import Limits, Throttle
from registry.mlflow_gate.artifacts import open_artifacts
from registry.settings import Databases, Settings
from registry.storage.local import LocalStore
from registry.submissions import places
from registry.trust.canonical import canonical, sha256_bytes
from registry.trust.enrolment import EnrolledRole, founded, person_of
from registry.trust.keys import Identity, issue, key_id, new_root, pem_of, save_identity
from registry.trust.sign_in import new_sign_in
from serving.bundle.layout import REQUIRED
from tests.registry.made_manifest import made_manifest
from tests.registry.registered import register
from tests.registry.role import Role, acting, token_of
from tests.serving.certified import quoting
from tests.validators import evidence_made
from validators.cohort.manifest import manifest_bytes, manifest_path
from validators.protocol.read import parse_protocol
from validators.protocol.schema import CohortRequirement, Protocol

OFTEN = Limits(*["1000000/minute"] * 4)  # limits have tests of their own
ORGANISATIONS = {"tef": "facility", "sme-a": "sme", "sme-b": "sme", "clinic": "hospital"}
PEOPLE = {
    "innovator": ("sme-a", "Eva"),
    "steward": ("tef", "Sam"),
    "assessor": ("tef", "Ada"),
    "clinician": ("clinic", "Clara"),
    "auditor": ("tef", "Aud"),
    "admin": ("tef", "Ann"),
}
FIRST: dict[str, EnrolledRole] = {
    "Ben": "assessor", "Ada": "assessor", "Uma": "steward", "Sam": "steward"
}  # fmt: skip
EXAMPLE = parse_protocol(examples.PROTOCOL)
CONTRACT = EXAMPLE.contract
assert CONTRACT is not None
PROTOCOL: Protocol = evidence_made.protocol(
    contract=CONTRACT, cohort=CohortRequirement(id="lidc-nodules"), attempts=10
)


class Stage:
    """A facility at work, as its API sees it."""

    def __init__(self, database: Databases, folder: Path) -> None:
        self.database = database
        self.root: Identity = new_root("tef", demo=True)
        self.hospital = issue(new_root("clinic", demo=False), "pilot", organisation="clinic")
        self.settings = Settings(
            home=folder, server="http://127.0.0.1:1", token=None, keys=folder / "keys",
            databases=database,
        )  # fmt: skip
        self.facility = Facility(
            settings=self.settings,
            databases=database,
            record=Record(database.app),
            gate=Record(database.gate, size=2),
            login=Record(database.login, size=2),
            store=LocalStore(folder / "objects"),
            artifacts=open_artifacts(self.settings),
            root=self.root.certificate,
        )
        self.app = create_api(self.facility, throttle=Throttle(OFTEN))
        self.answered: set[tuple[str, str, int]] = set()
        self.owner, self.worker = Role(database.owner), Role(database.worker)
        for name, kind in ORGANISATIONS.items():
            self.owner.execute(
                "INSERT INTO touchstone.organisation VALUES (%s, %s, %s)", (name, kind, name)
            )
        self.secrets = {
            role: token_of(database, organisation, role, person)
            for role, (organisation, person) in PEOPLE.items()
            if role not in FIRST.values()
        }
        self._found()
        for person, role in FIRST.items():
            self.secrets[role] = self.sign_in(person)
        self.secrets["leaver"] = token_of(database, "tef", "auditor", "Lea")
        self.secrets["stranger"] = token_of(database, "sme-b", "innovator", "Bob")
        self._lock_things()

    def with_mlflow(self) -> "Stage":
        """With MLflow's tables, which a server and the command line wait for."""
        from registry.mlflow_gate.schema import prepare_schema

        assert self.database.owner is not None
        prepare_schema(self.database.owner)
        mark_done(self.database.owner, mlflow_name(), "sha256:" + "0" * 64)
        return self.with_log()

    def with_log(self) -> "Stage":
        """With the log's own key, which signs checkpoints."""
        self.settings.root_certificate.write_bytes(pem_of(self.root.certificate))
        save_identity(self.root, self.settings.keys, "root")
        make_log_key(self.settings)
        return self

    def close(self) -> None:
        self.facility.close()

    def _found(self) -> None:
        """The founding statement, handed in by the administrator."""
        now = dt.datetime.now(dt.UTC)
        self.identities = {person: issue(self.root, person, organisation="tef") for person in FIRST}
        leaves = [identity.certificate for identity in self.identities.values()]
        people = [
            person_of(leaf, role, now) for leaf, role in zip(leaves, FIRST.values(), strict=True)
        ]
        enrolment.load_founding(
            self.facility.record,
            self.root.certificate,
            authenticate(self.facility.record, self.secrets["admin"]),
            enrolment.NewFounding(
                envelope=founded(self.root, "tef", people, now),
                certificates=[pem_of(leaf).decode() for leaf in leaves],
            ),
        )

    def sign_in(self, person: str) -> str:
        """The token of somebody who signs in with their key."""
        key, own = self.identities[person], self.settings.own_address
        challenge = sign_in.begin(
            self.facility.login,
            own,
            sign_in.NewSignIn(person=person, organisation="tef", key=key_id(key.certificate)),
        )
        envelope = new_sign_in(
            key, nonce=challenge.nonce, server=challenge.server, date=dt.datetime.now(dt.UTC)
        )
        return sign_in.finish(
            self.facility.login, self.root.certificate, own, sign_in.Signed(envelope=envelope)
        ).secret

    def _lock_things(self) -> None:
        groups = {"site": {"head": 300, "trunk": 300}, "sex": {"female": 300, "male": 300}}
        for version in ("1", "2"):
            manifest = made_manifest("lidc-nodules", version, CONTRACT.digest, groups)
            data, path = manifest_bytes(manifest), manifest_path("lidc-nodules", version)
            self.facility.store.put(path, data)
            self.owner.execute(
                "INSERT INTO touchstone.cohort (id, version, root, manifest_digest,"
                " manifest_path, title, positives, negatives, patients, contract_digest,"
                " locked_by) VALUES ('lidc-nodules', %s, %s, %s, %s, 'Nodules', 200, 400, 300,"
                " %s, 'Sam')",
                (version, manifest.root, sha256_bytes(data), path, CONTRACT.digest),
            )
        self.owner.execute(
            "INSERT INTO touchstone.protocol (digest, id, version, body, attempts, locked_by)"
            " VALUES (%s, %s, '1', %s, %s, 'Sam')",
            (PROTOCOL.digest, PROTOCOL.id, canonical(PROTOCOL.model_dump(mode="json")).decode(),
             PROTOCOL.attempts),
        )  # fmt: skip

    def register(self, model: str = "nodule-net", version: int = 1, sme: str = "sme-a") -> None:
        """What MLflow's trigger writes when a version is registered."""
        register(self.owner, sme, model, version)

    def submission(
        self, state: str = "in_review", verdict: str = "pass", model: str | None = None
    ) -> str:
        """A submission of SME A, moved along the arrows as worker, assessors and gate would."""
        name = str(uuid.uuid4())
        self.register(model or f"m-{name[:8]}")
        acting(self.database, "sme-a", "innovator", "Eva").execute(
            "INSERT INTO touchstone.submission (id, organisation, model_name, model_version,"
            " protocol_digest, cohort_id, cohort_version, submitted_by)"
            " VALUES (%s, 'sme-a', %s, 1, %s, 'lidc-nodules', '1', 'Eva')",
            (name, model or f"m-{name[:8]}", PROTOCOL.digest),
        )
        report = canonical(evidence_made.report(rules=PROTOCOL).model_dump(mode="json"))
        for target in ("intake", "queued", "running", "assessed", "in_review"):
            if state == "registered":
                return name
            self.worker.execute(
                "UPDATE touchstone.submission SET state = %(state)s,"
                " verdict = CASE WHEN %(state)s = 'assessed' THEN %(verdict)s ELSE verdict END,"
                " report_digest = CASE WHEN %(state)s = 'assessed' THEN %(digest)s"
                " ELSE report_digest END WHERE id = %(id)s",
                {"state": target, "verdict": verdict, "digest": sha256_bytes(report), "id": name},
            )
            if target == state:
                break
        store = self.facility.store
        store.put(places.report(name), report)
        store.put(places.report_page(name), b"<!doctype html><title>Report</title>")
        return name

    def certified(self, model: str | None = None, subjects: Mapping[str, str] | None = None) -> str:
        """A certified submission, with a bundle of the files that every bundle has.

        The certificate's statement quotes the log, names `subjects`, and nobody signed it.
        """
        name = self.submission(model=model)
        row = self.worker.execute(
            "SELECT report_digest, model_name FROM touchstone.submission WHERE id = %s", (name,)
        ).fetchone()
        for person in ("Ada", "Ben"):
            acting(self.database, "tef", "assessor", person).execute(
                "INSERT INTO touchstone.decision (submission, key_id, person, outcome, reason,"
                " report_digest, envelope, statement_signature)"
                " VALUES (%s, %s, %s, 'certify', 'because', %s, '{}', '{}')",
                (name, key_id(self.identities[person].certificate), person, row[0]),
            )
        envelope = quoting(certified_log(self.facility), name, subjects)
        gate = Role(self.database.gate, token_of(self.database, "tef", "assessor", "Ada"))
        gate.execute(
            "INSERT INTO touchstone.certificate (submission, organisation, model_name,"
            " model_version, envelope, signers, not_after)"
            " VALUES (%s, 'sme-a', %s, 1, %s::jsonb, 'pem', now() + interval '1 day')",
            (name, row[1], canonical(envelope).decode()),
        )
        gate.execute("UPDATE touchstone.submission SET state='certified' WHERE id = %s", (name,))
        files = dict.fromkeys(REQUIRED, b"{}") | {"model/model.onnx": bytes(range(256)) * 16}
        for path, data in files.items():
            self.facility.store.put(places.bundle(name) + path, data)
        return name

    def envelope_of(self, submission: str) -> dict[str, Any]:
        """What was certified."""
        [(envelope,)] = self.owner.execute(
            "SELECT envelope FROM touchstone.certificate WHERE submission = %s", (submission,)
        ).fetchall()
        return dict(envelope)

    def model_of(self, submission: str) -> str:
        """The name of the model that was submitted."""
        return str(
            self.worker.execute(
                "SELECT model_name FROM touchstone.submission WHERE id = %s", (submission,)
            ).fetchone()[0]
        )

    @contextlib.contextmanager
    def listening(self) -> Iterator[str]:
        """The address of a real server over this application."""
        with listening(self._watched) as address:
            yield address

    async def _watched(self, scope: Any, receive: Any, send: Any) -> None:
        """The application; remembers which route answered with which status."""

        async def watch(message: Any) -> None:
            route = getattr(scope.get("route"), "path", None)
            if message["type"] == "http.response.start" and route is not None:
                self.answered.add((scope["method"], route, message["status"]))
            await send(message)

        await self.app(scope, receive, watch)

    def headers(self, role: str = "innovator", **more: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.secrets[role]}"} | {
            key.replace("_", "-"): value for key, value in more.items()
        }


@contextlib.contextmanager
def listening(app: Any) -> Iterator[str]:
    """The address of a real server over `app`."""
    config = uvicorn.Config(app, interface="asgi3", host="127.0.0.1", port=0, log_level="warning")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(10)


def client(server: str, **more: Any) -> httpx.Client:
    """A client of a server on this machine, without proxies."""
    return httpx.Client(base_url=f"{server}/api/v1", trust_env=False, timeout=30, **more)
