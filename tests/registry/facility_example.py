"""A facility with people, a small locked cohort and a protocol, on a database of the tests."""

import contextlib
import dataclasses
import datetime as dt
import hashlib
import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import psycopg
import yaml
from onnx import TensorProto, helper, numpy_helper

from registry.database.record import Record
from registry.facility import Facility
from registry.identity.caller import Caller, Role
from registry.mlflow_gate.artifacts import open_artifacts
from registry.pipeline.turns import next_turn
from registry.settings import Databases, Settings
from registry.storage.local import LocalStore
from registry.submissions import places
from registry.submissions.families import note_weights
from registry.submissions.lock import lock_protocol
from registry.submissions.submit import submit
from registry.trust.keys import Identity, load_identity, new_root, save_identity
from registry.trust.model_files import model_digest
from serving.sandbox.weights import weights_of
from tests.registry.locked import found_stewards, lock_cohort, no_restriction
from tests.registry.role import Role as DatabaseRole
from tests.registry.role import token_of
from tests.validators.cohort_example import sealed_example
from validators.cohort.manifest import manifest_bytes
from validators.contract.description import Weights

KINDS = {"innovator": "sme", "clinician": "hospital"}
PEOPLE: tuple[tuple[str, str, Role], ...] = (
    ("Eva", "sme-a", "innovator"),
    ("Finn", "sme-b", "innovator"),
    ("Sam", "tef", "steward"),
    ("Uma", "tef", "steward"),
    ("Ada", "tef", "assessor"),
    ("Ben", "tef", "assessor"),
    ("Aud", "tef", "auditor"),
    ("Ann", "tef", "admin"),
    ("Clara", "clinic", "clinician"),
)


@dataclass
class Example:
    """`api` acts for people, `worker` carries submissions; both on the same store."""

    api: Facility
    worker: Facility
    people: dict[str, Caller]
    owner: str
    keys: dict[str, Identity]
    body: dict[str, Any] = field(default_factory=dict)
    protocol: str = ""

    def sql(self, statement: str, *values: Any) -> list[Any]:
        """What the owner's role reads."""
        with psycopg.connect(self.owner, autocommit=True) as connection:
            answer = connection.execute(statement, values)  # type: ignore[call-overload]
            return answer.fetchall() if answer.description else []

    def state(self, submission: str) -> str:
        """Where it is."""
        return str(self.row(submission)["state"])

    def row(self, submission: str) -> dict[str, Any]:
        """The submission as the worker sees it."""
        with self.worker.record.transaction() as now:
            return now.one("submission_by_id", id=submission)

    def submitted(
        self, who: str = "Eva", name: str | None = None, *, version: int = 1,
        cohort: str = "nodules", **more: Any,
    ) -> str:  # fmt: skip
        """A submission as `submit` leaves it."""
        caller = self.people[who]
        name = name or f"net-{uuid.uuid4().hex[:8]}"
        self.sql(
            "INSERT INTO touchstone.registration (organisation, model_name, version, source)"
            " VALUES (%s, %s, %s, 'models:/m-x') ON CONFLICT DO NOTHING",
            caller.organisation, name, version,
        )  # fmt: skip
        return submit(self.api, caller, model=name, version=version, protocol=self.protocol,
                      cohort_name=cohort, **more)  # fmt: skip

    def queued(self, model: bytes, who: str = "Eva", **more: Any) -> str:
        """A submission whose file passed intake."""
        submission = self.submitted(who, **more)
        self.pass_intake(submission, model)
        return submission

    def pass_intake(self, submission: str, model: bytes) -> None:
        """What intake does with a file that it takes."""
        digest = model_digest({"model.onnx": model})
        self.worker.store.put(places.model(digest) + "model.onnx", model)
        row = self.row(submission)
        with self.worker.record.transaction() as now:
            note_weights(now, row, weights_in(model))  # first: its lock comes before the log's
            until = dt.datetime.now(dt.UTC) + dt.timedelta(hours=1)
            now.do("submission_move", id=submission, state="intake", deadline=until)
            now.do("submission_model", id=submission, model_digest=digest)
            now.do("submission_move", id=submission, state="queued", deadline=until)

    def attempt(self, submission: str) -> str | None:
        """`spent`, `returned`, or None where no shard was decrypted."""
        rows = self.sql(
            "SELECT returned_at FROM touchstone.attempt WHERE submission = %s", submission
        )
        return None if not rows else "spent" if rows[0][0] is None else "returned"

    def fresh(self) -> None:
        """End whatever an earlier test left in the pipeline; attempts begin at none."""
        self.sql(
            "UPDATE touchstone.submission SET state = 'technical_failure', deadline = NULL"
            " WHERE state IN ('registered', 'intake', 'queued', 'running', 'assessed')"
        )
        self.fresh_protocol()

    def fresh_protocol(self, **more: Any) -> None:
        """A protocol whose attempts nobody has spent."""
        self.protocol = f"p-{uuid.uuid4().hex[:8]}"
        lock_protocol(self.api, self.people["Sam"], self.body | {"id": self.protocol} | more)

    @contextlib.contextmanager
    def turn(self) -> Iterator[Any]:
        """The next turn, as a worker takes it."""
        with next_turn(self.worker, "tests") as turn:
            yield turn


@contextlib.contextmanager
def facility_example(
    databases: Databases, home: Path, *, attempts: int = 6, add: Any = None
) -> Iterator[Example]:
    """Build it in `home`; the cohort is six scans of LIDC-IDRI, `add` gives further attributes."""
    sealed = sealed_example(home, add)
    settings = Settings(
        home=home,
        server="http://127.0.0.1:1",
        token=None,
        keys=home / "people",
        databases=databases,
    )
    keys = settings.cohort_keys
    if not keys.exists():
        keys.symlink_to(home / "keys")
    root = new_root("tef", demo=True)
    save_identity(root, home, "root")
    with facilities(databases, settings, LocalStore(home / "objects"), root) as (api, worker):
        stewards = found_stewards(databases, root)
        example = Example(api, worker, enrol(databases), str(databases.owner), stewards)
        path = "cohorts/nodules/1/manifest.json"
        api.store.put(path, manifest_bytes(sealed.manifest))
        lock_cohort(api, example.people, stewards, path)
        no_restriction(api, example.people, "nodules")
        body = yaml.safe_load((Path(__file__).parents[2] / "demo" / "protocol.yaml").read_text())
        for name in ("robustness", "leakage"):
            del body[name]
        counts = sealed.manifest.counts
        example.body = body | {
            "cohort": {"id": "nodules", "positives": counts.positives,
                       "negatives": counts.negatives},
            "subgroups": [],
            "endpoints": [{"metric": "sensitivity", "goal": 0.1},
                          {"metric": "specificity", "goal": 0.1}],
            "attempts": attempts,
        }  # fmt: skip
        yield example


@contextlib.contextmanager
def facilities(
    databases: Databases, settings: Settings, store: LocalStore, root: Identity | None = None
) -> Iterator[tuple[Facility, Facility]]:
    """The same facility as the registry's process has it, and as a worker's."""
    root = root or new_root("tef", demo=True)
    settings.artifacts.mkdir(parents=True, exist_ok=True)
    own = {"settings": settings, "store": store, "artifacts": open_artifacts(settings),
           "root": root.certificate}  # fmt: skip
    as_worker = dataclasses.replace(databases, app=str(databases.worker))
    with contextlib.ExitStack() as stack:
        made = []
        for dsns in (databases, as_worker):
            facility = Facility(
                databases=dsns,
                record=Record(dsns.app),
                gate=Record(dsns.gate, size=4),
                login=Record(dsns.login, size=1),
                **own,  # type: ignore[arg-type]
            )
            stack.callback(facility.close)
            made.append(facility)
        yield made[0], made[1]


def described(example: Example) -> str:
    """The worker's facility in words, for another process."""
    facility = example.worker
    return json.dumps(
        {"home": str(facility.settings.home), "databases": dataclasses.asdict(facility.databases)}
    )


@contextlib.contextmanager
def opened(words: dict[str, Any]) -> Iterator[Facility]:
    """The facility that `described` put into words."""
    home, databases = Path(words["home"]), Databases(**words["databases"])
    settings = Settings(
        home=home,
        server="http://127.0.0.1:1",
        token=None,
        keys=home / "people",
        databases=databases,
    )
    root = load_identity(home / "root.key")
    with facilities(databases, settings, LocalStore(home / "objects"), root) as (facility, _):
        yield facility


def settings_of(home: Path, databases: Databases) -> Settings:
    server = "http://127.0.0.1:1"
    return Settings(home=home, server=server, token=None, keys=home / "people", databases=databases)


def enrol(databases: Databases) -> dict[str, Caller]:
    """Organisations and people, with tokens, written by the owner."""
    people = {}
    for person, organisation, role in PEOPLE:
        kind = KINDS.get(role, "facility")
        DatabaseRole(databases.owner).execute(
            "INSERT INTO touchstone.organisation VALUES (%s, %s, %s) ON CONFLICT DO NOTHING",
            (organisation, kind, organisation),
        )
        secret = token_of(databases, organisation, role, person)
        proof = hashlib.sha256(secret.encode()).digest()
        people[person] = Caller(organisation, kind, role, person, "t", proof)  # type: ignore[arg-type]
    return people


def model(nodes: list[Any], constants: list[Any]) -> bytes:
    """An ONNX model of the example's contract."""
    graph = helper.make_graph(
        nodes,
        "model",
        [
            helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 1, 64, 64]),
            helper.make_tensor_value_info("descriptors", TensorProto.FLOAT, ["N", 8]),
        ],
        [helper.make_tensor_value_info("probability", TensorProto.FLOAT, ["N", 1])],
        constants,
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(made)
    return bytes(made.SerializeToString())


def weights_in(made: bytes) -> Weights:
    """What intake's inspection tells of a model's weights."""
    return Weights.model_validate(weights_of(onnx.load_from_string(made)))


def honest(weight: float = 0.1) -> bytes:
    """Logistic regression on the descriptors."""
    return model(scores("probability"), weights(weight))


def endless(rounds: int = 2**40) -> bytes:
    """Gives the same scores, after a loop that takes longer than anybody waits."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go_in"], ["go_out"]),
            helper.make_node("Identity", ["state_in"], ["state_out"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go_in", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state_in", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("go_out", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state_out", TensorProto.FLOAT, None),
        ],
    )
    return model(
        [
            *scores("score"),
            helper.make_node("Loop", ["trips", "go", "score"], ["probability"], body=body),
        ],
        [
            *weights(0.1),
            numpy_helper.from_array(np.asarray(rounds, np.int64), "trips"),
            numpy_helper.from_array(np.asarray(True), "go"),
        ],
    )


def scores(name: str) -> list[Any]:
    return [
        helper.make_node("Gemm", ["descriptors", "w", "b"], ["z"]),
        helper.make_node("Sigmoid", ["z"], [name]),
    ]


def weights(weight: float) -> list[Any]:
    return [
        numpy_helper.from_array(np.full((8, 1), weight, np.float32), "w"),
        numpy_helper.from_array(np.full((1,), -2.0, np.float32), "b"),
    ]
