"""A facility with real people: root, keys, tokens, store, database, and submissions in review."""

import datetime as dt
import json
import uuid
from pathlib import Path
from typing import Any

from registry.audit.drafted import certified_log
from registry.facility import Facility, open_facility
from registry.identity import accounts, enrolment, sign_in
from registry.identity.caller import Caller
from registry.identity.login import LoggedIn
from registry.settings import Databases, Settings
from registry.setup import set_up
from registry.submissions import places
from registry.submissions.review import SignedDecision
from registry.trust.canonical import canonical, sha256_bytes
from registry.trust.certificate import (
    STATEMENT_TYPE,
    CertifiedCohort,
    CertifiedExecution,
    CertifiedModel,
    CertifiedProtocol,
    IntendedUse,
    Named,
    Predicate,
    new_statement,
)
from registry.trust.decision import DECISION_TYPE, Decision, new_decision
from registry.trust.dsse import add_signature, signature_over, unsigned
from registry.trust.enrolment import EnrolledRole, founded, person_of, request
from registry.trust.keys import Identity, issue, key_id, load_identity, pem_of
from registry.trust.sign_in import new_sign_in
from registry.trust.verdict_rules import Limits, Result, ShownInterval
from tests.registry.role import Role, token_of

D1 = "sha256:" + "1" * 64
LENIENT = '{"endpoints": [{"rule": "gating", "if_insufficient": "conditional"}]}'
FIRST: dict[str, EnrolledRole] = {"Ada": "assessor", "Ben": "assessor", "Sam": "steward"}


def _results(*, lenient: bool) -> tuple[Result, ...]:
    """One gating rule, passed or left open by the protocol."""
    interval = ShownInterval(low=0.6 if lenient else 0.8, high=0.9, level=0.95, method="made up")
    return (
        Result(
            id="endpoint:auc",
            metric="auc",
            rule="gating",
            if_insufficient="conditional" if lenient else "block",
            asked=(Limits(about="value", least=0.7, most=None, interval=interval),),
            estimate=0.85,
            counts={},
            outcome="insufficient_evidence" if lenient else "pass",
        ),
    )


class House:
    """Everything that a review needs. Sam locked cohort `c` and protocol `p`."""

    def __init__(self, database: Databases, home: Path, superuser_dsn: str) -> None:
        self.database, self.superuser_dsn = database, superuser_dsn
        settings = Settings(
            home=home / "home",
            server="http://127.0.0.1:1",
            token=None,
            keys=home / "keys",
            databases=database,
        )
        made = set_up(settings, database)
        assert made.first_token is not None
        self.facility: Facility = open_facility(settings)
        self.root = load_identity(settings.keys / "root.key")
        self.owner, self.worker = Role(database.owner), Role(database.worker)
        self.admin = accounts.authenticate(self.facility.record, made.first_token)
        self.owner.execute("INSERT INTO touchstone.organisation VALUES ('sme-a','sme','A')")
        # What MLflow registers is not the matter here: versions are written by hand.
        self.owner.execute("ALTER TABLE mlflow.model_versions DISABLE TRIGGER guard_new_version")
        self.owner.execute("INSERT INTO mlflow.workspaces (name) VALUES ('sme-a')")
        self.keys: dict[str, Identity] = {}
        self.callers: dict[str, Caller] = {}
        self.found()

    def found(self) -> None:
        """Load the founding statement, as the administrator does, and give tokens."""
        now = dt.datetime.now(dt.UTC)
        for person in FIRST:
            self.keys[person] = issue(self.root, person, organisation="tef")
        leaves = [self.keys[person].certificate for person in FIRST]
        people = [
            person_of(leaf, role, now) for leaf, role in zip(leaves, FIRST.values(), strict=True)
        ]
        enrolment.load_founding(
            self.facility.record,
            self.root.certificate,
            self.admin,
            enrolment.NewFounding(
                envelope=founded(self.root, "tef", people, now),
                certificates=[pem_of(leaf).decode() for leaf in leaves],
            ),
        )
        for person, role in FIRST.items():
            self.welcome(person, role)
        self.owner.execute(
            "INSERT INTO touchstone.cohort (id, version, root, manifest_digest, manifest_path,"
            " title, positives, negatives, patients, contract_digest, locked_by)"
            f" VALUES ('c','1','{D1}','{D1}','x','t',10,10,10,'{D1}','Sam')"
        )
        self.owner.execute(
            "INSERT INTO touchstone.protocol (digest, id, version, body, attempts, locked_by)"
            f" VALUES ('{D1}','p','1','{LENIENT}',2,'Sam')"
        )

    def welcome(self, person: str, role: Any, organisation: str = "tef") -> Caller:
        """A token by the ordinary way: signed in for with a key, or from the administrator."""
        if role in accounts.ENROLLED_ROLES and person in self.keys:
            return self.sign_in(person)
        token = accounts.add_token(
            self.facility.record,
            self.admin,
            accounts.NewToken(organisation=organisation, role=role, person=person),
        )
        self.callers[person] = accounts.authenticate(self.facility.record, token.secret)
        return self.callers[person]

    def sign_in(self, person: str) -> Caller:
        """A token for whoever holds this key, as `touchstone login --key` gets it."""
        given = self.answer(self.challenged(person))
        self.callers[person] = accounts.authenticate(self.facility.record, given.secret)
        return self.callers[person]

    def challenged(self, person: str, key: Identity | None = None) -> Any:
        """A challenge of `person`, signed by their own key or another."""
        own = self.keys[person]
        challenge = sign_in.begin(
            self.facility.login,
            self.facility.settings.own_address,
            sign_in.NewSignIn(person=person, organisation="tef", key=key_id(own.certificate)),
        )
        return new_sign_in(
            key or own, nonce=challenge.nonce, server=challenge.server, date=dt.datetime.now(dt.UTC)
        )

    def answer(self, envelope: Any) -> LoggedIn:
        """Send a signed challenge back."""
        return sign_in.finish(
            self.facility.login,
            self.root.certificate,
            self.facility.settings.own_address,
            sign_in.Signed(envelope=envelope),
        )

    def enrol(
        self, person: str, *others: str, role: EnrolledRole = "assessor", organisation: str = "tef"
    ) -> Any:
        """Have a new key of `person` enrolled by the signatures of `others`."""
        self.keys.setdefault(person, issue(self.root, person, organisation=organisation))
        leaf = self.keys[person].certificate
        envelope = request(person_of(leaf, role, dt.datetime.now(dt.UTC)))
        for other in others:
            envelope = add_signature(envelope, self.keys[other])
        return self.hand_in(envelope, leaf)

    def hand_in(self, envelope: Any, leaf: Any) -> Any:
        """Give a statement to the server, as the administrator."""
        return enrolment.enrol(
            self.facility.record,
            self.root.certificate,
            self.admin,
            enrolment.NewEnrolment(envelope=envelope, certificate=pem_of(leaf).decode()),
        )

    def in_review(
        self,
        verdict: str = "pass",
        *,
        model: str | None = None,
        leakage: Any = None,
        until: str = "in_review",
    ) -> str:
        """A submission with a report and, where it can be certified, a statement.

        leakage: what the report says of it; it holds the model if its outcome says so.
        until: the state in which it stays.
        """
        name = str(uuid.uuid4())
        model = model or f"m-{name[:8]}"
        self.owner.execute(
            "INSERT INTO mlflow.registered_models (workspace, name) VALUES ('sme-a', %s)", (model,)
        )
        self.owner.execute(
            "INSERT INTO mlflow.model_versions (workspace, name, version, current_stage, status,"
            " source) VALUES ('sme-a', %s, 1, 'None', 'READY', 'models:/m-0')",
            (model,),
        )
        self.owner.execute(
            "INSERT INTO touchstone.submission (id, organisation, model_name, model_version,"
            " protocol_digest, cohort_id, cohort_version, submitted_by)"
            f" VALUES ('{name}','sme-a','{model}',1,'{D1}','c','1','Eva')"
        )
        said = {"submission": name, "verdict": {"overall": verdict}, "leakage": leakage}
        report = canonical(said)
        self.facility.store.put(places.report(name), report)
        digest = sha256_bytes(report)
        statement = self.statement(name, model, verdict, digest)
        held = "'too good'" if leakage and leakage["outcome"] != "clear" else "NULL"
        more = {"assessed": f", verdict='{verdict}', report_digest='{digest}',"
                            f" held_for_review={held}"}  # fmt: skip
        if statement is not None:
            self.facility.store.put(places.statement(name), statement)
            more["in_review"] = f", statement_digest='{sha256_bytes(statement)}'"
        for state in ("intake", "queued", "running", "assessed", "in_review"):
            self.worker.execute(
                f"UPDATE touchstone.submission SET state='{state}'{more.get(state, '')}"
                f" WHERE id='{name}'"
            )
            if state == until:
                break
        return name

    def statement(self, name: str, model: str, verdict: str, report: str) -> bytes | None:
        """The statement that assessors sign, or None for a verdict that can't be certified."""
        if verdict not in ("pass", "conditional"):
            return None
        now = dt.datetime.now(dt.UTC)
        lenient = verdict == "conditional"
        predicate = Predicate(
            submission=name,
            facility="tef",
            model=CertifiedModel(organisation="sme-a", name=model, version=1, digest=D1),
            cohort=CertifiedCohort(id="c", version="1", root=D1, cases=20, patients=None),
            protocol=CertifiedProtocol(id="p", version="1", digest=D1),
            full_report=report,
            code=D1,
            contract=D1,
            preprocessing=Named(digest=D1),
            execution=CertifiedExecution(
                record=D1,
                onnxruntime="1.31.1",
                provider="CPUExecutionProvider",
                machine="x86-64 avx2",
                container=Named(digest=None, reason="none"),
            ),
            results=_results(lenient=lenient),
            overall=verdict,  # type: ignore[arg-type]
            conditions=("thin slices were not shown",) if lenient else (),
            conditions_due=now + dt.timedelta(days=90) if lenient else None,
            intended_use=IntendedUse(
                purpose="triage", population="adults", setting="CT", prevalence=None, limits=""
            ),
            regulatory_references=(),
            pilot_mode="shadow",
            issued=now,
            not_after=now + dt.timedelta(days=90),
            golden_tolerance=1e-5,
            log=certified_log(self.facility),
        )
        return new_statement({"report.json": D1}, predicate)

    def signed(
        self, who: str, submission: str, outcome: str = "certify", **changes: Any
    ) -> SignedDecision:
        """What a person's own machine sends."""
        row = self.row(submission)
        certifies = outcome != "reject"
        values: dict[str, Any] = {
            "submission": submission,
            "report": row["report_digest"],
            "statement": row["statement_digest"] if certifies else None,
            "outcome": outcome,
            "reason": "read it",
            "person": who,
            "organisation": "tef",
            "decided_at": dt.datetime.now(dt.UTC),
        }
        key = self.keys[who]
        payload = new_decision(Decision.model_validate(values | changes))
        statement = self.facility.store.get(places.statement(submission)) if certifies else None
        return SignedDecision(
            envelope=add_signature(unsigned(DECISION_TYPE, payload), key),
            statement_signature=(
                signature_over(STATEMENT_TYPE, statement, key) if statement else None
            ),
        )

    def row(self, submission: str) -> dict[str, Any]:
        """The submission's row, as its worker reads it."""
        rows = self.worker.execute(
            "SELECT row_to_json(s)::text FROM touchstone.submission s WHERE id = %s", (submission,)
        )
        return dict(json.loads(rows.fetchone()[0]))

    def sql(self, person: str) -> Role:
        """The application's role in the name of a person, without the application."""
        role = FIRST.get(person, "assessor")
        return Role(self.database.app, token_of(self.database, "tef", role, person))

    def superuser(self, statement: str) -> None:
        """What whoever owns the machine can do: no trigger, no policy."""
        import psycopg

        with psycopg.connect(self.superuser_dsn) as connection:
            connection.execute("SET session_replication_role = replica")
            connection.execute(statement)  # type: ignore[call-overload]
