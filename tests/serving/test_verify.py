"""A hospital can prove, offline, that what it holds is what was certified."""

import base64
import datetime as dt
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from registry.trust.canonical import canonical
from registry.trust.certificate import new_statement
from registry.trust.errors import Refused, TouchstoneError
from registry.trust.keys import Identity, issue, pem_of
from serving.bundle.golden_files import Golden
from serving.bundle.layout import UNSIGNED
from serving.bundle.pack import write_bundle
from serving.bundle.policy import Policy
from serving.bundle.verify import VerifyResult, verify
from serving.sandbox import Sandbox
from tests.serving import certified
from tests.serving.certified import NOT_AFTER, NOW, Facility

Files = dict[str, bytes]


@pytest.fixture(scope="module")
def tef() -> Facility:
    return certified.facility()


@pytest.fixture(scope="module")
def signed_over() -> Files:
    return certified.packed(certified.model())


@pytest.fixture(scope="module")
def bundle(tef: Facility, signed_over: Files, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle as it was pulled; tests copy it before they touch it."""
    files = certified.signed(signed_over, tef.log, tef.ada, tef.ben)
    return write_bundle(files, tmp_path_factory.mktemp("pulled") / "nodule-3")


@pytest.fixture
def copy(bundle: Path, tmp_path: Path) -> Path:
    return certified.copy_of(bundle, tmp_path / "copy")


def check(directory: Path, tef: Facility, **options: Any) -> VerifyResult:
    """Verify without the replay, which needs no proof again in each of these tests."""
    policy = options.pop("policy", certified.TAKES)
    return verify(directory, tef.root.certificate, NOW, policy, **({"replay": False} | options))


def refused(result: VerifyResult) -> str | None:
    """The code of the step that failed, which is the last one and the only one."""
    assert not result.ok
    assert [step.ok for step in result.steps] == [True] * (len(result.steps) - 1) + [False]
    assert result.certificate is None
    assert result.files == {}
    with pytest.raises(TouchstoneError) as raised:
        result.raise_if_failed()
    assert raised.value.code == result.steps[-1].code
    assert "\n" not in raised.value.message
    return result.steps[-1].code


def test_an_untouched_bundle_verifies_step_by_step_and_replays_its_golden_vectors(
    bundle: Path, tef: Facility
) -> None:
    result = verify(bundle, tef.root.certificate, NOW, certified.TAKES)
    result.raise_if_failed()
    assert [(step.name, step.outcome) for step in result.steps] == [
        ("pinned root", "ok"),
        ("status", "skipped"),
        ("signatures", "ok"),
        ("enrolment", "ok"),
        ("standing", "skipped"),
        ("file set", "ok"),
        ("digests", "ok"),
        ("in force", "ok"),
        ("verdict", "ok"),
        ("statements", "ok"),
        ("intended use", "ok"),
        ("audit log", "ok"),
        ("golden vectors", "ok"),
    ]
    assert "Ada (tef) and Ben (tef)" in result.steps[2].sentence
    value = json.loads(json.dumps(result.as_json()))
    assert value["ok"] is True
    assert value["certificate"]["predicate"]["model"]["name"] == "nodule"
    assert value["certificate"]["signers"] == [["Ada", "tef"], ["Ben", "tef"]]


def test_a_demo_root_is_said_aloud(signed_over: Files, tmp_path: Path) -> None:
    demo = certified.facility(demo=True)
    directory = write_bundle(
        certified.signed(signed_over, demo.log, demo.ada, demo.ben), tmp_path / "b"
    )
    assert refused(check(directory, demo)) == "demo_root"
    result = check(directory, demo, policy=Policy(allow_demo=True, acknowledging="Clara"))
    assert result.ok
    assert result.demo_root
    assert result.steps[0].outcome == "warning"
    assert "NOT FOR PATIENTS" in result.steps[0].sentence


def test_conditions_are_said_aloud(tef: Facility, tmp_path: Path) -> None:
    from registry.trust.model_files import model_digest

    files = certified.packed(certified.model())
    files["report.json"] = canonical(
        certified.report(model_digest({"model.onnx": files["model/model.onnx"]}),
                         overall="conditional")
    )  # fmt: skip
    signed = certified.signed(
        files, tef.log, tef.ada, tef.ben, overall="conditional", conditions=("no thin slices",),
        conditions_due=NOT_AFTER,
    )  # fmt: skip
    result = check(write_bundle(signed, tmp_path / "b"), tef)
    assert result.ok
    assert result.steps[7].outcome == "warning"
    assert f"due on {NOT_AFTER:%Y-%m-%d}: no thin slices" in result.steps[7].sentence


# -- the attack table --------------------------------------------------------------------------


def names_in(directory: Path) -> list[str]:
    return sorted(p.relative_to(directory).as_posix() for p in directory.rglob("*") if p.is_file())


@pytest.mark.parametrize("where", ["first", "middle", "last"])
def test_a_flipped_bit_in_any_file_is_found(copy: Path, tef: Facility, where: str) -> None:
    names = names_in(copy)
    assert len(names) == 16
    for name in names:
        path = copy / name
        original = path.read_bytes()
        at = {"first": 0, "middle": len(original) // 2, "last": len(original) - 1}[where]
        changed = bytearray(original)
        changed[at] ^= 1
        path.write_bytes(changed)
        code = refused(check(copy, tef))
        if name in UNSIGNED:
            assert code in {"certificate_malformed", "bad_signature", "other_root", "tampered",
                            "enrolments_malformed", "not_enrolled", "log_malformed",
                            "not_in_the_log", "checkpoint_forged",
                            "checkpoint_unsigned"}  # fmt: skip
        else:
            assert code == "file_changed"
        path.write_bytes(original)
    assert check(copy, tef).ok


def test_every_single_bit_of_the_signatures_counts(copy: Path, tef: Facility) -> None:
    """Not only most: base64 and PEM have bits that their readers ignore."""
    for name in sorted(UNSIGNED):
        path = copy / name
        original = path.read_bytes()
        for at in range(0, len(original), 7):
            changed = bytearray(original)
            changed[at] ^= 1 << (at % 8)
            path.write_bytes(changed)
            assert not check(copy, tef).ok, (name, at)
        path.write_bytes(original)


def test_base64_that_means_the_same_in_other_letters_is_refused(
    tef: Facility, signed_over: Files, tmp_path: Path
) -> None:
    """The last letter before `=` has bits that decoders ignore."""
    signature = ""
    while not signature.endswith("="):  # one in three lengths needs no padding
        files = certified.signed(signed_over, tef.log, tef.ada, tef.ben)
        envelope = json.loads(files["certificate.json"])
        signature = envelope["signatures"][0]["sig"]
    at = len(signature.rstrip("=")) - 1
    other = signature[:at] + chr(ord(signature[at]) + 1) + signature[at + 1 :]
    assert base64.b64decode(other) == base64.b64decode(signature)
    envelope["signatures"][0]["sig"] = other
    files["certificate.json"] = canonical(envelope)
    assert refused(check(write_bundle(files, tmp_path / "b"), tef)) == "certificate_malformed"


def test_a_certificate_of_somebody_who_did_not_sign_has_no_place_in_the_bundle(
    tef: Facility, signed_over: Files, tmp_path: Path
) -> None:
    files = certified.signed(signed_over, tef.log, tef.ada, tef.ben)
    files["signers.pem"] += pem_of(issue(tef.root, "Cleo", organisation="tef").certificate)
    assert refused(check(write_bundle(files, tmp_path / "b"), tef)) == "bad_signature"


def add_file(directory: Path) -> None:
    (directory / "model" / "notes.txt").write_text("hello")


def remove_file(directory: Path) -> None:
    (directory / "model-label.txt").unlink()


def rename_file(directory: Path) -> None:
    (directory / "report.json").rename(directory / "report2.json")


def rename_case(directory: Path) -> None:
    (directory / "report.json").rename(directory / "Report.json")


def symlink_file(directory: Path) -> None:
    shutil.move(directory / "report.json", directory.parent / "elsewhere.json")
    (directory / "report.json").symlink_to(directory.parent / "elsewhere.json")


def symlink_directory(directory: Path) -> None:
    shutil.move(directory / "model", directory.parent / "elsewhere")
    (directory / "model").symlink_to(directory.parent / "elsewhere")


def symlink_certificate(directory: Path) -> None:
    shutil.move(directory / "certificate.json", directory.parent / "c.json")
    (directory / "certificate.json").symlink_to(directory.parent / "c.json")


def dangling_link(directory: Path) -> None:
    (directory / "golden" / "more").symlink_to("nowhere")


def hardlink_file(directory: Path) -> None:
    os.link(directory / "model/model.onnx", directory.parent / "also-model.onnx")


def hidden_git(directory: Path) -> None:
    (directory / ".git").mkdir()
    (directory / ".git" / "config").write_text("[core]\n\tfsmonitor = evil")


def hidden_attributes(directory: Path) -> None:
    (directory / "model" / ".gitattributes").write_text("* filter=evil")


def empty_directory(directory: Path) -> None:
    (directory / "golden" / "empty").mkdir()


def file_becomes_directory(directory: Path) -> None:
    (directory / "report.json").unlink()
    (directory / "report.json").mkdir()


def file_becomes_pipe(directory: Path) -> None:
    (directory / "report.json").unlink()
    os.mkfifo(directory / "report.json")


def certificate_becomes_pipe(directory: Path) -> None:
    (directory / "certificate.json").unlink()
    os.mkfifo(directory / "certificate.json")


def truncated_certificate(directory: Path) -> None:
    path = directory / "certificate.json"
    path.write_bytes(path.read_bytes()[:-40])


def empty_certificate(directory: Path) -> None:
    (directory / "certificate.json").write_bytes(b"")


def huge_certificate(directory: Path) -> None:
    with (directory / "certificate.json").open("r+b") as stream:
        stream.truncate(3 << 20)


def no_certificate(directory: Path) -> None:
    (directory / "certificate.json").unlink()


def no_signers(directory: Path) -> None:
    (directory / "signers.pem").unlink()


def prose_in_signers(directory: Path) -> None:
    path = directory / "signers.pem"
    path.write_bytes(b"trust me\n" + path.read_bytes())


def edited_report(directory: Path) -> None:
    path = directory / "report.json"
    path.write_bytes(path.read_bytes().replace(b'"overall":"pass"', b'"overall":"Pass"'))


def python_smuggled(directory: Path) -> None:
    (directory / "sitecustomize.py").write_text("raise SystemExit")


def deep_json(directory: Path) -> None:
    (directory / "certificate.json").write_bytes(b"[" * 200_000)


ATTACKS: list[tuple[Callable[[Path], None], str]] = [
    (add_file, "file_extra"),
    (remove_file, "file_missing"),
    (rename_file, "file_extra"),
    (rename_case, "name_collision"),
    (symlink_file, "link"),
    (symlink_directory, "link"),
    (symlink_certificate, "not_a_file"),
    (dangling_link, "link"),
    (hardlink_file, "link"),
    (hidden_git, "hidden_file"),
    (hidden_attributes, "hidden_file"),
    (empty_directory, "file_extra"),
    (file_becomes_directory, "not_a_file"),
    (file_becomes_pipe, "not_a_file"),
    (certificate_becomes_pipe, "not_a_file"),
    (truncated_certificate, "certificate_malformed"),
    (empty_certificate, "certificate_malformed"),
    (huge_certificate, "file_changed"),
    (no_certificate, "file_missing"),
    (no_signers, "file_missing"),
    (prose_in_signers, "certificate_malformed"),
    (edited_report, "file_changed"),
    (python_smuggled, "file_extra"),
    (deep_json, "certificate_malformed"),
]


@pytest.mark.parametrize(("attack", "code"), ATTACKS, ids=[a.__name__ for a, _ in ATTACKS])
def test_attack_on_the_files(
    copy: Path, tef: Facility, attack: Callable[[Path], None], code: str
) -> None:
    attack(copy)
    assert refused(check(copy, tef)) == code


def test_a_directory_that_is_none_is_told_so(tef: Facility, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    no_bundle = "is no bundle: name the folder that `touchstone pull` made"
    for name, said in (
        ("nothing", "there is no directory"), ("file", "is not a directory"), (".", no_bundle)
    ):  # fmt: skip
        result = check(tmp_path / name, tef)
        assert refused(result) == "no_bundle"
        assert said in str(result.error)


def sign(signed_over: Files, tef: Facility, *signers: Identity, **changes: object) -> Files:
    return certified.signed(signed_over, tef.log, *(signers or (tef.ada, tef.ben)), **changes)


def test_one_assessor_is_not_enough(tef: Facility, signed_over: Files, tmp_path: Path) -> None:
    files = sign(signed_over, tef, tef.ada)
    assert refused(check(write_bundle(files, tmp_path / "b"), tef)) == "one_signer"


def test_one_person_with_two_keys_is_one_person(
    tef: Facility, signed_over: Files, tmp_path: Path
) -> None:
    ada_again = issue(tef.root, "Ada", organisation="tef")
    files = sign(signed_over, tef, tef.ada, ada_again)
    assert refused(check(write_bundle(files, tmp_path / "b"), tef)) == "one_signer"


def test_one_signature_twice_is_one_signature(
    tef: Facility, signed_over: Files, tmp_path: Path
) -> None:
    files = sign(signed_over, tef, tef.ada, tef.ada)
    files["signers.pem"] *= 2
    assert refused(check(write_bundle(files, tmp_path / "b"), tef)) == "one_signer"


def test_nobody_certifies_the_model_of_their_own_organisation(
    tef: Facility, signed_over: Files, tmp_path: Path
) -> None:
    theirs = issue(tef.root, "Eve", organisation="sme-a")
    files = sign(signed_over, tef, tef.ada, theirs)
    assert refused(check(write_bundle(files, tmp_path / "b"), tef)) == "own_model"


def test_signers_under_another_root_count_for_nothing(
    tef: Facility, signed_over: Files, tmp_path: Path
) -> None:
    stranger = certified.facility()
    files = sign(signed_over, tef, stranger.ada, stranger.ben)
    assert refused(check(write_bundle(files, tmp_path / "b"), tef)) == "other_root"


def test_a_leaf_that_is_not_for_signing_documents_counts_for_nothing(
    tef: Facility, signed_over: Files, tmp_path: Path
) -> None:
    """The root's own key: it may issue, and sign nothing else."""
    files = sign(signed_over, tef, tef.ada, tef.root)
    assert not check(write_bundle(files, tmp_path / "b"), tef).ok


def test_a_certificate_without_a_checkpoint_is_none(
    tef: Facility, signed_over: Files, tmp_path: Path
) -> None:
    from serving.bundle.pack import subjects

    statement = json.loads(new_statement(subjects(signed_over),
                                         certified.predicate(signed_over, tef.log)))  # fmt: skip
    del statement["predicate"]["log"]
    files = signed_over | certified.around(canonical(statement), tef.log, tef.ada, tef.ben)
    assert refused(check(write_bundle(files, tmp_path / "b"), tef)) == "invalid"


@pytest.mark.parametrize("how", ["another root", "another key", "another size", "unsigned"])
def test_a_checkpoint_that_the_facilitys_log_did_not_sign_is_refused(
    tef: Facility, signed_over: Files, tmp_path: Path, how: str
) -> None:
    log = certified.checkpointed(tef.log)
    stranger = certified.facility()
    if how == "another root":
        log = certified.checkpointed(stranger.log)
        code = "other_root"
    elif how == "another key":
        log["checkpoint"] = certified.checkpointed(stranger.log)["checkpoint"]
        code = "checkpoint_unsigned"
    elif how == "another size":
        log["checkpoint"] = log["checkpoint"].replace("\n17\n", "\n16\n")
        code = "checkpoint_forged"
    else:
        log["checkpoint"] = log["checkpoint"].partition("—")[0]
        code = "checkpoint_malformed"
    result = check(write_bundle(sign(signed_over, tef, log=log), tmp_path / "b"), tef)
    assert refused(result) == code


@pytest.mark.parametrize(
    ("at", "code"),
    [
        (NOT_AFTER - dt.timedelta(seconds=1), None),
        (NOT_AFTER, "certificate_expired"),
        (NOW + dt.timedelta(days=800), "certificate_expired"),
        (NOW - dt.timedelta(minutes=20), "clock_behind"),
        (NOW + dt.timedelta(days=4000), "root_invalid"),
        (NOW - dt.timedelta(days=1), "root_invalid"),
    ],
)
def test_time_runs_out_in_order(
    bundle: Path, tef: Facility, at: dt.datetime, code: str | None
) -> None:
    result = verify(bundle, tef.root.certificate, at, certified.TAKES, replay=False)
    assert (None if result.ok else refused(result)) == code


def test_a_leaf_can_not_be_pinned_as_root(bundle: Path, tef: Facility) -> None:
    result = verify(bundle, tef.ada.certificate, NOW, replay=False)
    assert refused(result) == "root_invalid"


def test_the_certificate_of_another_model_does_not_fit(
    tef: Facility, signed_over: Files, bundle: Path, tmp_path: Path
) -> None:
    other = certified.packed(certified.model(sign=-1.0))
    files = sign(other, tef)
    ours = {
        **signed_over,
        "certificate.json": files["certificate.json"],
        "signers.pem": files["signers.pem"],
        "enrolments.json": files["enrolments.json"],
        "log.json": files["log.json"],
    }
    assert refused(check(write_bundle(ours, tmp_path / "b"), tef)) == "file_changed"


def test_documents_that_disagree_are_found_even_when_signed(
    tef: Facility, signed_over: Files, tmp_path: Path
) -> None:
    """Should the facility's server pack the wrong thing, and assessors sign it."""
    digest = "sha256:" + "ab" * 32
    model = {"organisation": "sme-a", "name": "nodule", "version": 3, "digest": digest}
    protocol = {"id": "nodule-triage", "version": "1", "digest": digest}
    cohort = {"id": "lidc", "version": "1", "root": digest, "cases": 200, "patients": None}
    report = json.loads(signed_over["report.json"])
    failing = {**signed_over, "report.json": canonical(
        report | {"verdict": report["verdict"] | {"overall": "fail"}})}  # fmt: skip
    no_digests = {**signed_over, "report.json": canonical(report | {"digests": None})}
    unreleased = {**signed_over, "report.json": canonical(
        report | {"schema_id": "touchstone/report/v1"})}  # fmt: skip
    contract = json.loads(signed_over["contract.json"])
    other_contract = {**signed_over, "contract.json": canonical(contract | {"tolerance": 0.01})}
    table: list[tuple[Files, dict[str, object], str]] = [
        (signed_over, {"model": model}, "model_mismatch"),
        (signed_over, {"protocol": protocol}, "protocol_mismatch"),
        (signed_over, {"cohort": cohort}, "report_mismatch"),
        (
            signed_over,
            {"overall": "conditional", "conditions": ("x",), "conditions_due": NOT_AFTER},
            "report_mismatch",
        ),
        (failing, {}, "report_mismatch"),
        (no_digests, {}, "report_mismatch"),
        (unreleased, {}, "report_mismatch"),
        (other_contract, {}, "protocol_mismatch"),
    ]
    for number, (files, changes, code) in enumerate(table):
        directory = write_bundle(sign(files, tef, **changes), tmp_path / str(number))
        assert refused(check(directory, tef)) == code, changes


@pytest.mark.parametrize(
    "name",
    ["../evil", "/etc/passwd", "a//b", ".hidden", "model/../x", "c:x", "a\\b", "nul", "a\n", "é"],
)
def test_a_signed_name_that_leads_elsewhere_is_refused(
    tef: Facility, signed_over: Files, bundle: Path, tmp_path: Path, name: str
) -> None:
    from serving.bundle.pack import subjects

    digests = subjects(signed_over) | {name: "sha256:" + "00" * 32}
    statement = new_statement(digests, certified.predicate(signed_over, tef.log))
    copy = certified.copy_of(bundle, tmp_path / "copy")
    for path, data in certified.around(statement, tef.log, tef.ada, tef.ben).items():
        (copy / path).write_bytes(data)
    assert refused(check(copy, tef)) == "unsafe_name"


def test_nothing_is_read_before_the_signatures_hold(
    copy: Path, tef: Facility, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bundle that nobody signed is not even listed: its files could be made to hurt."""
    envelope = json.loads((copy / "certificate.json").read_bytes())
    envelope["signatures"][1]["sig"] = base64.b64encode(b"no signature").decode()
    (copy / "certificate.json").write_bytes(canonical(envelope))
    opened: list[str] = []
    sys.addaudithook(
        lambda event, arguments: (
            opened.append(str(arguments[0]))
            if event in ("open", "os.scandir", "os.listdir") and str(copy) in str(arguments[0])
            else None
        )
    )
    assert refused(check(copy, tef)) == "bad_signature"
    seen = {Path(path).name for path in opened}
    assert seen == {"certificate.json", "signers.pem", "log.json"}


# -- golden vectors ----------------------------------------------------------------------------


def shifted(files: Files, by: float) -> Files:
    golden = Golden.model_validate(json.loads(files["golden/expected.json"]))
    run = golden.runs[0]
    moved = run.model_copy(update={"scores": (run.scores[0] + by, *run.scores[1:])})
    changed = golden.model_copy(update={"runs": (moved, *golden.runs[1:])})
    return {**files, "golden/expected.json": canonical(changed.model_dump(mode="json"))}


def test_golden_vectors_within_tolerance_pass_and_beyond_are_refused(
    tef: Facility, signed_over: Files, tmp_path: Path
) -> None:
    near = write_bundle(sign(shifted(signed_over, 5e-6), tef), tmp_path / "near")
    assert verify(near, tef.root.certificate, NOW, certified.TAKES).ok
    far = write_bundle(sign(shifted(signed_over, 2e-5), tef), tmp_path / "far")
    result = verify(far, tef.root.certificate, NOW, certified.TAKES)
    assert refused(result) == "golden_mismatch"
    assert "don't use it here" in result.steps[-1].sentence


def test_a_replay_that_is_left_out_is_said_to_be_left_out(bundle: Path, tef: Facility) -> None:
    step = check(bundle, tef).steps[-1]
    assert (step.name, step.outcome) == ("golden vectors", "skipped")


def test_a_sandbox_that_does_not_start_is_no_verification(bundle: Path, tef: Facility) -> None:
    def broken() -> Sandbox:
        raise Refused("no seccomp here", code="sandbox_unavailable")

    result = verify(bundle, tef.root.certificate, NOW, certified.TAKES, sandbox_factory=broken)
    assert refused(result) == "sandbox_unavailable"


BASE_INSTALL = """
import datetime, json, sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"numpy", "onnx", "onnxruntime", "bentoml", "fcntl", "pyseccomp",
                                  "landlockpy", "starlette", "uvicorn"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Missing())
sys.modules.pop("fcntl", None)
from pathlib import Path
from registry.trust.keys import load_certificate
from serving.bundle.policy import Policy
from serving.bundle.verify import verify
for replay in (True, False):
    result = verify(Path(sys.argv[1]), load_certificate(Path(sys.argv[2])),
                    datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=1),
                    Policy(acknowledging="Clara"), replay=replay)
    print(json.dumps(result.as_json()))
"""


def test_without_numpy_and_onnxruntime_all_but_the_replay_is_checked(
    bundle: Path, tef: Facility, tmp_path: Path
) -> None:
    """The base install, and any system without Linux's sandbox, fails closed and says why."""
    root = tmp_path / "root.pem"
    root.write_bytes(pem_of(tef.root.certificate))
    done = subprocess.run(
        [sys.executable, "-c", BASE_INSTALL, str(bundle), str(root)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    with_replay, without = (json.loads(line) for line in done.stdout.splitlines())
    assert [step["ok"] for step in with_replay["steps"]] == [True] * 12 + [False]
    assert with_replay["code"] == "golden_unavailable"
    assert "touchstone-tef[hospital]" in with_replay["steps"][-1]["sentence"]
    assert without["ok"] is True
    assert without["steps"][-1]["outcome"] == "skipped"


# -- rubbish -----------------------------------------------------------------------------------

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["payload", "payloadType", "signatures", "keyid", "sig", "x"]), inner
        )
    ),
    max_leaves=12,
)


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    name=st.sampled_from(sorted(UNSIGNED)),
    rubbish=st.binary(max_size=200)
    | st.text(max_size=100).map(lambda text: text.encode("utf-8", "surrogatepass"))
    | JSON_VALUES.map(lambda value: json.dumps(value).encode("utf-8", "surrogatepass")),
)
def test_rubbish_in_place_of_the_signatures_is_refused_and_never_a_fault(
    bundle: Path, tef: Facility, name: str, rubbish: bytes, tmp_path_factory: Any
) -> None:
    path = bundle / name
    original = path.read_bytes()
    path.write_bytes(rubbish)
    try:
        assert refused(check(bundle, tef))
    finally:
        path.write_bytes(original)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(value=JSON_VALUES)
def test_rubbish_in_the_envelope_is_refused_and_never_a_fault(
    bundle: Path, tef: Facility, value: Any
) -> None:
    path = bundle / "certificate.json"
    original = path.read_bytes()
    envelope = json.loads(original)
    for key in ("payload", "payloadType", "signatures"):
        try:
            path.write_bytes(canonical(envelope | {key: value}))
        except TouchstoneError:
            continue  # has no canonical form
        try:
            assert refused(check(bundle, tef))
        finally:
            path.write_bytes(original)


def test_progress_reaches_the_bytes_of_the_bundle(bundle: Path, tef: Facility) -> None:
    told: list[tuple[int, int]] = []
    check(bundle, tef, on_progress=lambda done, total: told.append((done, total)))
    assert told == sorted(told)
    assert (
        told[-1][0]
        == told[-1][1]
        == sum((bundle / name).stat().st_size for name in names_in(bundle) if name not in UNSIGNED)
    )


def test_what_is_kept_is_what_was_hashed(copy: Path, tef: Facility) -> None:
    result = check(copy, tef, keep=True)
    (copy / "model/model.onnx").write_bytes(b"changed after the check")
    from registry.trust.model_files import model_digest

    assert result.certificate is not None
    assert model_digest(result.model_files()) == result.certificate.predicate.model.digest


def test_a_pinned_root_is_an_argument_and_never_read_from_the_bundle(
    signed_over: Files, tef: Facility, tmp_path: Path
) -> None:
    stranger = certified.facility()
    files = sign(signed_over, tef, stranger.ada, stranger.ben)
    files["signers.pem"] += pem_of(stranger.root.certificate)
    result = check(write_bundle(files, tmp_path / "b"), tef)
    assert refused(result) in {"other_root", "bad_signature"}
