"""A fail can't become a certificate: every combination, by SQL alone, with each role that writes.

verdict x outcome x who signed x certifiable, once through the application's role in each signer's
name, and once more with decisions that a superuser forged past every trigger: the gate's own role
then writes a certificate for the legal combinations and for no other.
"""

import hashlib
import itertools
import uuid
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from registry.settings import Databases
from tests.registry.house import LENIENT
from tests.registry.role import Role, enrol_by_hand, token_of

D1, D2 = ("sha256:" + digit * 64 for digit in "12")
VERDICTS = ("pass", "conditional", "fail", "insufficient_evidence")
OUTCOMES = ("certify", "conditional", "reject")
PEOPLE = {
    # name: (person, organisation, role of the key; None: no statement stands for it)
    "Ada": ("Ada", "tef", "assessor"),
    "Ada's second": ("Ada", "tef", "assessor"),
    "Ben": ("Ben", "tef", "assessor"),
    "Sam, who locked": ("Sam", "tef", "steward"),
    "Lou, who locked": ("Lou", "tef", "assessor"),
    "Eve of the sme": ("Eve", "sme-a", "assessor"),
    "Fay of another sme": ("Fay", "sme-b", "assessor"),
    "Old, never enrolled": ("Old", "tef", None),
    "Rob, revoked": ("Rob", "tef", "assessor"),
}
SIGNERS: tuple[tuple[str, ...], ...] = (
    (),
    ("Ada",),
    ("Ada", "Ada"),
    ("Ada", "Ada's second"),
    *(("Ada", other) for other in list(PEOPLE)[3:]),
    ("Ada", "Ben"),
    ("Ada", "Ben", "Lou, who locked"),
)
NEEDS = {"certify": "pass", "conditional": "conditional"}


def is_legal(verdict: str, outcome: str, signers: tuple[str, ...], certifiable: bool) -> bool:
    """The rule, written once more and shortly."""
    return certifiable and {"Ada", "Ben"} <= set(signers) and NEEDS.get(outcome) == verdict


class Law:
    """One connection a role, kept open: there are hundreds of combinations."""

    def __init__(self, database: Databases, superuser: str) -> None:
        self.database = database
        owner = Role(database.owner)
        owner.execute(
            "INSERT INTO touchstone.organisation VALUES ('tef','facility','T'),"
            " ('sme-a','sme','A'), ('sme-b','sme','B')"
        )
        owner.execute(
            "INSERT INTO touchstone.cohort (id, version, root, manifest_digest, manifest_path,"
            " title, positives, negatives, patients, contract_digest, locked_by)"
            f" VALUES ('c','1','{D1}','{D1}','x','t',10,10,10,'{D1}','Sam')"
        )
        owner.execute(
            "INSERT INTO touchstone.protocol (digest, id, version, body, attempts, locked_by)"
            f" VALUES ('{D1}','p','1','{LENIENT}',2,'Lou')"
        )
        self.keys: dict[str, str] = {}
        self.proofs: dict[str, bytes] = {}
        for name, (person, organisation, role) in PEOPLE.items():
            if role is None:
                self.keys[name] = "sha256:" + "6" * 64
                owner.execute(
                    "INSERT INTO touchstone.signer (key_id, organisation, person, pem)"
                    f" VALUES ('{self.keys[name]}', '{organisation}', '{person}', 'pem')"
                )
                continue
            self.keys[name] = enrol_by_hand(database, person, role, organisation=organisation)
            secret = token_of(database, organisation, role, person)
            self.proofs[name] = hashlib.sha256(secret.encode()).digest()
        owner.execute(
            "INSERT INTO touchstone.revoked_key (key_id, reason, revoked_by)"
            f" VALUES ('{self.keys['Rob, revoked']}', 'lost', 'Ada')"
        )
        self.open = {
            name: psycopg.connect(str(dsn), autocommit=True)
            for name, dsn in (
                ("app", database.app), ("worker", database.worker), ("gate", database.gate),
                ("owner", database.owner), ("superuser", superuser),
            )
        }  # fmt: skip
        self.open["superuser"].execute("SET session_replication_role = replica")

    def submission(self, verdict: str, certifiable: bool) -> str:
        """A submission in review, carried there by the worker's role."""
        name = str(uuid.uuid4())
        self.open["owner"].execute(
            "INSERT INTO touchstone.submission (id, organisation, model_name, model_version,"
            " protocol_digest, cohort_id, cohort_version, submitted_by)"
            f" VALUES ('{name}','sme-a','m-{name}',1,'{D1}','c','1','Eva')"
        )
        more = {"intake": f", certifiable = {certifiable}",
                "assessed": f", verdict = '{verdict}', report_digest = '{D2}'"}  # fmt: skip
        for state in ("intake", "queued", "running", "assessed", "in_review"):
            self.open["worker"].execute(
                f"UPDATE touchstone.submission SET state = '{state}'{more.get(state, '')}"
                f" WHERE id = '{name}'"
            )
        return name

    def decide(self, name: str, signer: str, outcome: str, *, forged: bool) -> None:
        """A row by the signer's own hand, or by a superuser's; refused rows are left out."""
        statement = (
            "INSERT INTO touchstone.decision (submission, key_id, person, outcome, reason,"
            " report_digest, envelope, statement_signature) VALUES"
            f" ('{name}', '{self.keys[signer]}', '{PEOPLE[signer][0]}', '{outcome}', 'because',"
            f" '{D2}', '{{}}', {'NULL' if outcome == 'reject' else repr('{}')})"
        )
        try:
            if forged:
                self.open["superuser"].execute(statement)  # type: ignore[call-overload]
            elif signer in self.proofs:
                with self.open["app"].transaction():
                    self.open["app"].execute("SELECT touchstone.enter(%s)", (self.proofs[signer],))
                    self.open["app"].execute(statement)  # type: ignore[call-overload]
        except (psycopg.errors.IntegrityError, psycopg.errors.InsufficientPrivilege):
            pass
        except psycopg.DatabaseError as error:
            if error.sqlstate != "TS401" or signer != "Rob, revoked":  # his token went with the key
                raise

    def certify(self, role: str, name: str) -> bool:
        """Whether `role` gets a certificate written; a conditional one with all that it needs."""
        said = '{"predicate": {"conditions": ["x"], "conditions_due": "2099-01-01T00:00:00Z"}}'
        try:
            self.open[role].execute(
                "INSERT INTO touchstone.certificate (submission, organisation, model_name,"
                " model_version, envelope, signers, not_after) SELECT id, organisation,"
                " model_name, model_version, jsonb_build_object('payload',"
                f" encode('{said}'::bytea, 'base64')), '', now() + interval '1 day'"
                f" FROM touchstone.submission WHERE id = '{name}'"
            )
        except (psycopg.errors.IntegrityError, psycopg.errors.InsufficientPrivilege):
            return False
        rows: Any = self.open["owner"].execute(
            "SELECT count(*) FROM touchstone.certificate WHERE submission = %s", (name,)
        )
        return bool(rows.fetchone()[0])

    def promote(self, role: str, name: str) -> bool:
        """Whether `role` gets the state moved to one that hospitals trust."""
        for state in ("certified", "conditional"):
            try:
                self.open[role].execute(
                    f"UPDATE touchstone.submission SET state = '{state}' WHERE id = '{name}'"
                )
            except (psycopg.errors.IntegrityError, psycopg.errors.InsufficientPrivilege):
                continue
        rows: Any = self.open["owner"].execute(
            "SELECT state FROM touchstone.submission WHERE id = %s", (name,)
        )
        return rows.fetchone()[0] in ("certified", "conditional")


@pytest.fixture(scope="module")
def law(database: Databases, cluster: Any, request: pytest.FixtureRequest) -> Iterator[Law]:
    name = request.module.__name__.rpartition(".")[2]
    made = Law(database, cluster.superuser_dsn.replace("@/touchstone?", f"@/{name}?"))
    yield made
    for connection in made.open.values():
        connection.close()


@pytest.mark.parametrize("forged", [False, True], ids=["by their own hand", "forged rows"])
@pytest.mark.parametrize("certifiable", [True, False], ids=["sandboxed", "uncertifiable"])
def test_only_the_legal_combinations_become_certificates(
    law: Law, forged: bool, certifiable: bool
) -> None:
    legal = 0
    for verdict, outcome, signers in itertools.product(VERDICTS, OUTCOMES, SIGNERS):
        name = law.submission(verdict, certifiable)
        for signer in signers:
            law.decide(name, signer, outcome, forged=forged)
        combination = (verdict, outcome, signers, certifiable)
        for role in ("app", "worker", "gate"):
            assert not law.promote(role, name), combination
        for role in ("app", "worker"):
            assert not law.certify(role, name), (role, combination)
        assert law.certify("gate", name) == is_legal(*combination), combination
        legal += is_legal(*combination)
    assert legal == (4 if certifiable else 0)


def test_two_who_do_not_agree_certify_nothing(law: Law) -> None:
    for verdict, (first, second) in itertools.product(
        VERDICTS, itertools.permutations(OUTCOMES, 2)
    ):
        name = law.submission(verdict, True)
        law.decide(name, "Ada", first, forged=True)
        law.decide(name, "Ben", second, forged=True)
        assert not law.certify("gate", name), (verdict, first, second)


@pytest.mark.parametrize(
    "said",
    ["{}", '{"predicate": {}}', '{"predicate": {"conditions": [], "conditions_due": "2099-01-01"}}',
     '{"predicate": {"conditions": ["x"]}}',
     '{"predicate": {"conditions": ["x"], "conditions_due": "2020-01-01"}}',
     '{"predicate": {"conditions": ["x"], "conditions_due": "never"}}', "no json"],
)  # fmt: skip
def test_a_conditional_certificate_states_conditions_and_ends_when_they_are_due(
    law: Law, said: str
) -> None:
    name = law.submission("conditional", True)
    for signer in ("Ada", "Ben"):
        law.decide(name, signer, "conditional", forged=False)
    with pytest.raises(psycopg.errors.RestrictViolation, match="states its conditions"):
        law.open["gate"].execute(
            "INSERT INTO touchstone.certificate (submission, organisation, model_name,"
            " model_version, envelope, signers, not_after) SELECT id, organisation, model_name,"
            " model_version, jsonb_build_object('payload', encode(%s::bytea, 'base64')), '',"
            " now() + interval '1 day' FROM touchstone.submission WHERE id = %s",
            (said, name),
        )
