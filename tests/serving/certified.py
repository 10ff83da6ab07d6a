"""A real certified model, small: an ONNX file, a root, two assessors, and the bundle of it."""

import datetime as dt
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from onnx import TensorProto, helper, numpy_helper

from registry.pipeline.certificate_predicate import certified
from registry.trust.canonical import canonical, sha256_bytes
from registry.trust.certificate import (
    STATEMENT_TYPE,
    CertifiedLog,
    Predicate,
    new_statement,
)
from registry.trust.checkpoint import Checkpoint, cosignature_line, sign, with_line
from registry.trust.dsse import add_signature, unsigned
from registry.trust.enrolment import Register, founded, person_of
from registry.trust.event import BEFORE_THE_FIRST, Event
from registry.trust.keys import Identity, issue, key_id, new_root, pem_of
from registry.trust.log_key import LogKey, certify, new_log_key, request
from registry.trust.log_proof import proof_bytes
from registry.trust.merkle import Tree, leaf_hash
from registry.trust.model_files import model_digest
from serving.bundle.golden import make_inputs, record
from serving.bundle.layout import CARD, ML_BOM, REFERENCE_SUMMARY, REPORT_PDF, SBOM
from serving.bundle.pack import bundle_files, subjects
from serving.bundle.policy import Policy
from serving.bundle.sbom import runtime, runtime_sbom
from serving.sandbox import Sandbox
from validators.contract.schema import Contract, Tensor
from validators.evidence import (
    CaseFlow,
    Digests,
    EndpointEvidence,
    Environment,
    Evidence,
    Interval,
    Report,
)
from validators.protocol.schema import Endpoint, IntendedUse, Protocol
from validators.report.build import code_digest
from validators.report.card import applied_model_card, card_xml
from validators.report.disclosure import release
from validators.report.ml_bom import NamedCohort, NamedModel, ml_bom
from validators.report.pdf import NamedRun, report_pdf
from validators.verdict import decide, judge_goal

# An hour on: keys are made when a test runs, long after this line, and must be valid by then.
NOW = dt.datetime.now(dt.UTC).replace(microsecond=0) + dt.timedelta(hours=1)
NOT_AFTER = NOW + dt.timedelta(days=365)
HANG, EXPLODE = 2.515625, 3.515625

CONTRACT = Contract(
    id="nodule",
    version="1",
    inputs=(
        Tensor(name="image", dtype="float32", shape=(1, 8, 8), minimum=0, maximum=1),
        Tensor(name="descriptors", dtype="float32", shape=(3,), minimum=1, maximum=5),
    ),
    outputs=(Tensor(name="probability", dtype="float32", shape=(1,)),),
    score="probability",
)
PROTOCOL = Protocol(
    attempts=3,
    id="nodule-triage",
    version="1",
    intended_use=IntendedUse(purpose="triage of nodules", population="adults", setting="CT"),
    reference_standard="median rating",
    contract=CONTRACT,
    threshold=0.5,
    endpoints=(
        Endpoint(metric="auc", goal=0.805),
        Endpoint(metric="specificity", goal=0.7, role="secondary", if_insufficient="conditional"),
    ),
)


def model(*, extra: int = 0, sign: float = 1.0, divide: bool = False, traps: bool = False) -> bytes:
    """Logistic regression on both inputs.

    extra: floats of ballast that make the file larger; divide: 0/0 on an image that is all zero;
    traps: never ends where the first case's first descriptor is HANG, and asks for 4 TB where it is
    EXPLODE, which no golden case holds.
    """
    weights = np.random.default_rng(7)
    nodes = [
        helper.make_node("Flatten", ["image"], ["flat"]),
        helper.make_node("Concat", ["flat", "descriptors"], ["all"], axis=1),
        helper.make_node("Gemm", ["all", "w", "b"], ["logit"]),
        helper.make_node("Sigmoid", ["logit"], ["probability"]),
    ]
    initializers = [
        numpy_helper.from_array(
            (sign * weights.normal(size=(67, 1))).astype(np.float32) * 0.2, "w"
        ),
        numpy_helper.from_array(np.array([0.1], np.float32), "b"),
    ]
    if extra:
        # Joined to the bias, so that it is no dead weight that an optimiser may drop.
        zeros = np.zeros(extra, np.float32)
        initializers.append(numpy_helper.from_array(zeros, "ballast"))
        nodes.insert(2, helper.make_node("ReduceMax", ["ballast"], ["nothing"], keepdims=1))
        nodes.insert(3, helper.make_node("Add", ["b", "nothing"], ["b2"]))
        nodes[4] = helper.make_node("Gemm", ["all", "w", "b2"], ["logit"])
    if divide:
        nodes[0:0] = [
            helper.make_node("ReduceMax", ["image"], ["top"], axes=[1, 2, 3], keepdims=1),
            helper.make_node("Div", ["image", "top"], ["scaled"]),
        ]
        nodes[2] = helper.make_node("Flatten", ["scaled"], ["flat"])
    if traps:
        nodes[-1] = helper.make_node("Sigmoid", ["sprung"], ["probability"])
        nodes[-1:-1] = _traps(initializers)
    graph = helper.make_graph(
        nodes,
        "nodule",
        [
            helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 1, 8, 8]),
            helper.make_tensor_value_info("descriptors", TensorProto.FLOAT, ["n", 3]),
        ],
        [helper.make_tensor_value_info("probability", TensorProto.FLOAT, ["n", 1])],
        initializers,
    )
    opset = helper.make_opsetid("", 17)
    return bytes(helper.make_model(graph, opset_imports=[opset], ir_version=9).SerializeToString())


def _traps(initializers: list[onnx.TensorProto]) -> list[onnx.NodeProto]:
    """Nodes from `logit` to `sprung` that do harm for one exact input and nothing otherwise."""
    made = {
        "hang": np.array([HANG], np.float32),
        "explode": np.array([EXPLODE], np.float32),
        "corner": np.array([0], np.int64),
        "one": np.array([1], np.int64),
        "forever": np.array([1 << 60], np.int64),
        "terabytes": np.array([1 << 40], np.int64),
        "zero": np.array([0], np.float32),
        "empty": np.array([], np.int64),
    }
    initializers.extend(numpy_helper.from_array(array, name) for name, array in made.items())
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["go_on"]),
            helper.make_node("Identity", ["seen"], ["seen_on"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("seen", TensorProto.FLOAT, [1]),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("seen_on", TensorProto.FLOAT, [1]),
        ],
    )
    return [
        helper.make_node("Gather", ["descriptors", "corner"], ["row"], axis=0),
        helper.make_node("Gather", ["row", "corner"], ["cell"], axis=1),
        helper.make_node("Reshape", ["cell", "one"], ["trigger"]),
        helper.make_node("Equal", ["trigger", "hang"], ["hangs"]),
        helper.make_node("Where", ["hangs", "forever", "one"], ["turns"]),
        helper.make_node("Reshape", ["turns", "empty"], ["turns_scalar"]),
        helper.make_node("Loop", ["turns_scalar", "", "zero"], ["nothing_looped"], body=body),
        helper.make_node("Equal", ["trigger", "explode"], ["explodes"]),
        helper.make_node("Where", ["explodes", "terabytes", "one"], ["size"]),
        helper.make_node("ConstantOfShape", ["size"], ["block"]),
        helper.make_node("ReduceMax", ["block"], ["nothing_made"], keepdims=0),
        helper.make_node("Add", ["logit", "nothing_looped"], ["once"]),
        helper.make_node("Add", ["once", "nothing_made"], ["sprung"]),
    ]


def evidence(*, overall: str = "pass") -> Evidence:
    """What was found: an AUC just above its goal, and a specificity that is shown or not."""

    def endpoint(
        metric: str, value: float, low: float, high: float, goal: float, role: str
    ) -> EndpointEvidence:
        interval = Interval(low=low, high=high, level=0.95, method="made up")
        outcome, reason = judge_goal(PROTOCOL.measures[metric], value, interval, goal)
        return EndpointEvidence(
            metric=metric, estimate=value, interval=interval, n=200, positives=100, negatives=100,
            clusters=None, goal=goal, role=role, rule="gating", outcome=outcome, reason=reason,
        )  # fmt: skip

    shown = overall == "pass"
    return Evidence(
        endpoints=(
            endpoint("auc", 0.8571, 0.8062, 0.9013, 0.805, "primary"),
            endpoint("specificity", 0.81, 0.7234 if shown else 0.6512, 0.8749, 0.7, "secondary"),
        ),
        complete_case=(),
        subgroups=(),
        case_flow=CaseFlow(
            sealed=200, excluded={}, scored=200, failed=0, failed_by_code={}, positives=100,
            negatives=100, patients=None,
        ),
    )  # fmt: skip


def full_report(model_id: str, *, overall: str = "pass") -> Report:
    """The facility's complete report on `evidence`."""
    found = evidence(overall=overall)
    verdict = decide(PROTOCOL, found)
    assert verdict.overall == overall
    return Report(
        protocol_id=PROTOCOL.id,
        protocol_version=PROTOCOL.version,
        title="",
        reference_standard=str(PROTOCOL.reference_standard),
        intended_use=PROTOCOL.intended_use.model_dump(),
        threshold=0.5,
        alpha=0.025,
        digests=Digests(
            model=model_id,
            protocol=PROTOCOL.digest,
            cohort_root=sha256_bytes(b"cohort"),
            predictions=None,
            code=code_digest(),
            environment=sha256_bytes(b"environment"),
        ),
        case_flow=found.case_flow,
        endpoints=found.endpoints,
        complete_case=(),
        subgroups=(),
        verdict=verdict,
        curves=None,
        environment=Environment(
            versions={"onnxruntime": "1.31.1"},
            providers=("CPUExecutionProvider",),
            execution={"provider": "CPUExecutionProvider", "class": "x86-64 avx2"},
        ),
        attribution="",
    )


def report(model_id: str, *, overall: str = "pass") -> dict[str, Any]:
    """A report.json in its released form."""
    return release(full_report(model_id, overall=overall), "certified", PROTOCOL.disclosure)


_FOUNDED: dict[tuple[str, ...], bytes] = {}
"""{assessors' keys: the founding statement that enrols them, as it lies in a bundle}."""


@dataclass(frozen=True)
class Facility:
    """A root and two assessors."""

    root: Identity
    ada: Identity
    ben: Identity
    log: LogKey


def facility(*, demo: bool = False) -> Facility:
    """A facility of its own."""
    root = new_root("tef", demo=demo)
    ada, ben = (issue(root, name, organisation="tef") for name in ("Ada", "Ben"))
    made = Facility(root, ada, ben, log_of(root))
    enrol(made, ada, ben)
    return made


def enrol(facility: Facility, *people: Identity) -> None:
    """Found the facility with these assessors in place of Ada and Ben."""
    leaves = tuple(who.certificate for who in people)
    first = [person_of(leaf, "assessor", NOW) for leaf in leaves]
    data = Register(founded(facility.root, "tef", first, NOW), (), leaves).as_bytes()
    _FOUNDED[tuple(sorted(map(key_id, leaves)))] = data


def log_of(root: Identity, origin: str = "touchstone/tef/log") -> LogKey:
    """A log of the facility."""
    key = new_log_key()
    return LogKey(key, certify(request(key, origin), root), origin)


BEFORE = 17
"""Events in the log when the verdict was reached."""


def history(
    statement: str | None = None, *, size: int = 20, at: dt.datetime = NOW, note: str = "x"
) -> tuple[Tree, list[Event]]:
    """A log of `size` events; the one after the first 17 certifies `statement`.

    note: what the events after that say; another note makes another log that begins alike.
    """
    tree, events, previous = Tree(), [], BEFORE_THE_FIRST
    for seq in range(1, size + 1):
        certifies = statement is not None and seq == BEFORE + 1
        detail = canonical({"statement": statement} if certifies else {"note": note}).decode()
        event = Event(
            seq,
            f"{at if certifies else NOW:%Y-%m-%dT%H:%M:%S}.000000Z",
            "touchstone",
            "sme-a",
            "certificate-issued" if certifies else "something-else",
            "s-1",
            detail if certifies or seq > BEFORE else "{}",
            previous,
        )
        tree.append(leaf_hash(event.leaf()))
        events.append(event)
        previous = event.hash()
    return tree, events


def state_of(log: LogKey, tree: Tree, size: int | None = None) -> bytes:
    """The signed state of a log."""
    size = tree.size if size is None else size
    return sign(Checkpoint(log.origin, size, tree.root(size)), log.key)


def checkpointed(log: LogKey, *, size: int = BEFORE) -> dict[str, str]:
    """The log's part of a certificate."""
    tree, _ = history(size=size)
    return {
        "checkpoint": state_of(log, tree).decode(),
        "certificate": pem_of(log.certificate).decode(),
    }


def log_json(
    statement: str,
    log: LogKey,
    *,
    at: dt.datetime = NOW,
    witnesses: Sequence[tuple[str, Ed25519PrivateKey, dt.datetime]] = (),
) -> bytes:
    """The proof that the log took the certificate in."""
    tree, events = history(statement, at=at)
    note = state_of(log, tree)
    for name, key, seen in witnesses:
        note = with_line(note, cosignature_line(note, name, key, seen))
    path = tree.inclusion_path(BEFORE)
    since = tree.consistency_path(BEFORE)
    return proof_bytes([(events[BEFORE], path)], note, log.certificate, since)


def golden_of(model_files: Mapping[str, bytes]) -> dict[str, bytes]:
    """The golden vectors as the facility records them, in a real sandbox."""
    with Sandbox.start() as sandbox:
        sandbox.load(model_files)
        return record(sandbox, make_inputs(CONTRACT, seed=PROTOCOL.digest), CONTRACT)


def documents_of(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """The further documents, each by the function that makes it at the facility."""
    told = full_report(model_digest(files))
    released = release(told, "certified", PROTOCOL.disclosure)
    named = NamedModel("sme-a", "nodule", 3, {n: sha256_bytes(of) for n, of in files.items()})
    cohort = NamedCohort("lidc", "1", "CC BY 3.0")
    bom = ml_bom(released, CONTRACT, model=named, cohort=cohort, issued=NOW, tool="0.1.0")
    card = applied_model_card(
        released, model="nodule", version="3", developer="sme-a", issued=NOW, not_after=NOT_AFTER
    )
    summary = release(told, "monitoring", PROTOCOL.disclosure, score=CONTRACT.score)
    software = runtime_sbom(runtime("touchstone-tef"), ran={}, issued=NOW)
    return {
        REPORT_PDF: report_pdf(released, NamedRun("sme-a/nodule 3", "tef"), NOW, NOT_AFTER),
        CARD: card_xml(card),
        ML_BOM: canonical(bom),
        SBOM: canonical(software),
        REFERENCE_SUMMARY: canonical(summary),
    }


NO_GOLDEN = {"golden/inputs.bin": b"x", "golden/expected.json": b"{}"}
"""Where a bundle is not replayed."""


def packed(data: bytes, *, golden: Mapping[str, bytes] | None = None) -> dict[str, bytes]:
    """The signed-over files of a bundle for the model `data`."""
    files = {"model.onnx": data}
    return bundle_files(
        model_files=files,
        contract=canonical(CONTRACT.model_dump(mode="json")),
        protocol=canonical(PROTOCOL.model_dump(mode="json")),
        report=canonical(report(model_digest(files))),
        label="Nodule triage. Investigational.\n",
        golden=golden or golden_of(files),
        documents=documents_of(files),
    )


def predicate(files: Mapping[str, bytes], by: LogKey, /, **changes: Any) -> Predicate:
    """What is certified about the model in `files`, as the facility makes it; with `changes`."""
    names = {p.removeprefix("model/"): d for p, d in files.items() if p.startswith("model/")}
    full = full_report(model_digest(names), overall=changes.get("overall", "pass"))
    row = {
        "id": "s-1", "organisation": "sme-a", "model_name": "nodule", "model_version": 3,
        "model_digest": model_digest(names), "cohort_id": "lidc", "cohort_version": "1",
        "cohort_root": sha256_bytes(b"cohort"), "report_digest": sha256_bytes(b"full"),
    }  # fmt: skip
    made = certified(
        row,
        full,
        release(full, "certified", PROTOCOL.disclosure),
        PROTOCOL,
        CONTRACT,
        facility="tef",
        log=CertifiedLog.model_validate(checkpointed(by)),
        issued=NOW,
        not_after=NOT_AFTER,
        conditions_due=None,
    )
    return Predicate.model_validate(made.model_dump() | changes)


def enveloped(payload: bytes, *signers: Identity) -> bytes:
    """certificate.json: the payload, signed by `signers`."""
    envelope = unsigned(STATEMENT_TYPE, payload)
    for signer in signers:
        envelope = add_signature(envelope, signer)
    return canonical(envelope)


def around(payload: bytes, by: LogKey, *signers: Identity, **logged: Any) -> dict[str, bytes]:
    """The unsigned files around a statement."""
    leaves = {pem_of(signer.certificate): None for signer in signers}
    return {
        "certificate.json": enveloped(payload, *signers),
        "signers.pem": b"".join(leaves),
        "enrolments.json": _enrolments_of(signers),
        "log.json": log_json(sha256_bytes(payload), by, **logged),
    }


def signed(
    files: Mapping[str, bytes], by: LogKey, /, *signers: Identity, **changes: Any
) -> dict[str, bytes]:
    """The bundle with its unsigned files, signed by `signers`."""
    logged = changes.pop("logged", {})
    statement = new_statement(subjects(files), predicate(files, by, **changes))
    return {**files, **around(statement, by, *signers, **logged)}


def quoting(
    log: CertifiedLog, submission: str = "made up", subjects: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """An envelope that nobody signed around a statement that quotes this state of a log: what the
    log's own proof is made of."""
    files = {"model/model.onnx": b"model"}
    stated = predicate(files, log_of(new_root("tef", demo=True)), log=log, submission=submission)
    named = subjects or {path: sha256_bytes(data) for path, data in files.items()}
    return unsigned(STATEMENT_TYPE, new_statement(named, stated))


TAKES = Policy(acknowledging="Clara")
"""What a hospital says that acknowledges whatever use it meets."""
TAKES_DEMO = Policy(acknowledging="Clara", allow_demo=True)


def _enrolments_of(signers: Sequence[Identity]) -> bytes:
    keys = {key_id(signer.certificate) for signer in signers}
    whole = [data for founders, data in _FOUNDED.items() if keys <= set(founders)]
    partly = [data for founders, data in _FOUNDED.items() if keys & set(founders)]
    return (whole or partly or [b"{}"])[-1]


def copy_of(bundle: Path, directory: Path) -> Path:
    """A copy to be tampered with."""
    return Path(shutil.copytree(bundle, directory, symlinks=True))
