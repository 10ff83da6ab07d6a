"""A segmentation from a hospital's masks to the verdict, on a sealed and locked cohort."""

import json
import uuid
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file

from registry.audit.log_key import make_log_key
from registry.pipeline import answering
from registry.pipeline.predicted_masks import stored_masks
from registry.settings import Databases
from registry.submissions import places
from registry.submissions.lock import lock_protocol
from registry.submissions.review import report_for
from registry.trust.errors import Tampered, TouchstoneError
from registry.trust.keys import load_identity, pem_of, save_identity
from serving.sandbox.machine import recorded, this_cpu
from serving.sandbox.providers import CPU
from tests.registry.by_hand import certify
from tests.registry.facility_example import Example, facility_example
from tests.registry.further_example import carried, exchange, report_of
from tests.registry.locked import lock_cohort, no_restriction
from tests.validators.masks_made import SHAPE, contract_of_masks, staged_masks
from validators.cohort.ingest import Staged
from validators.cohort.key_store import create_keys
from validators.cohort.manifest import Manifest, manifest_bytes
from validators.cohort.reference_masks import LABELS
from validators.cohort.seal import seal
from validators.metrics.segmentation_table import segmentation_row
from validators.protocol.read import parse_protocol

CASES = 16
LOW, HIGH = 30.0, 226.0
"""HU from which on the model says organ, and lesion."""
SETTINGS = {
    "structures": [{"name": "organ", "tolerance": 1.0}, {"name": "lesion", "tolerance": 1.0}],
    "maximum_distance": 20.0,
}


def thresholds(low: float = LOW, *, fails_below: float = -1e7) -> bytes:
    """An organ from `low`, a lesion from 226 HU; nonsense where all HU add up to less."""
    nodes = [
        helper.make_node("Greater", ["ct", "low"], ["organ"]),
        helper.make_node("Greater", ["ct", "high"], ["lesion"]),
        helper.make_node("ReduceSum", ["ct", "axes"], ["sum_of_all"], keepdims=1),
        helper.make_node("Less", ["sum_of_all", "limit"], ["odd"]),
        *(helper.make_node("Cast", [of], [f"{of}_1"], to=TensorProto.FLOAT)
          for of in ("organ", "lesion", "odd")),
        helper.make_node("Mul", ["odd_1", "seven"], ["odd_7"]),
        helper.make_node("Add", ["organ_1", "lesion_1"], ["sum"]),
        helper.make_node("Add", ["sum", "odd_7"], ["all"]),
        helper.make_node("Cast", ["all"], ["labels"], to=TensorProto.UINT8),
    ]  # fmt: skip
    constants = [
        numpy_helper.from_array(np.asarray(value, np.float32), name)
        for name, value in (("low", low), ("high", HIGH), ("limit", fails_below), ("seven", 7.0))
    ] + [numpy_helper.from_array(np.array([1, 2, 3, 4], np.int64), "axes")]
    shape = ["N", 1, *SHAPE]
    graph = helper.make_graph(
        nodes, "thresholds", [helper.make_tensor_value_info("ct", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("labels", TensorProto.UINT8, shape)], constants,
    )  # fmt: skip
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(made)
    return bytes(made.SerializeToString())


def body_of(**changes: Any) -> dict[str, Any]:
    return {
        "id": f"p-{uuid.uuid4().hex[:8]}", "version": "1", "task": "segmentation",
        "intended_use": {"purpose": "p", "population": "p", "setting": "s"},
        "reference_standard": "masks", "cohort": {"id": "organs", "positives": 12},
        "contract": contract_of_masks().model_dump(mode="json"), "segmentation": SETTINGS,
        "endpoints": [
            {"metric": "dice_organ", "goal": 0.2},
            {"metric": "nsd_lesion", "goal": 0.2},
            {"metric": "hd95_lesion", "goal": 15.0, "role": "secondary", "rule": "reported"},
        ],
        "subgroups": [{"attribute": "site", "metric": "dice_organ", "rule": "reported"}],
        "attempts": 1, "failed_cases": {"maximum_rate": 0.9},
    } | changes  # fmt: skip


class Masks:
    """The facility, with a cohort of masks beside its other one."""

    def __init__(self, life: Example, staged: Staged, manifest: Manifest) -> None:
        self.life, self.staged, self.manifest = life, staged, manifest

    def run(self, model: bytes, **more: Any) -> str:
        submission = self.life.queued(model, cohort="organs", **more)
        carried(self.life, submission)
        return submission

    def locked(self, **changes: Any) -> None:
        body = body_of(**changes)
        lock_protocol(self.life.api, self.life.people["Sam"],
                      {name: of for name, of in body.items() if of is not None})  # fmt: skip
        self.life.protocol = body["id"]


@pytest.fixture(scope="module")
def facility(database: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Masks]:
    home = tmp_path_factory.mktemp("masks")
    with facility_example(database, home) as life:
        of, root = life.api.settings, load_identity(home / "root.key")
        of.root_certificate.write_bytes(pem_of(root.certificate))
        save_identity(root, of.keys, "root")
        make_log_key(of)
        folder = home / "made-organs"
        folder.mkdir()
        staged = staged_masks(folder, CASES, nifti=CASES - 2)
        keys = create_keys(life.api.settings.cohort_keys, "organs", "1")
        size = 4 * 2 * int(np.prod(SHAPE))  # four cases a shard
        manifest = seal(staged, life.api.store, cohort_id="organs", version="1", keys=keys,
                        shard_size=size)  # fmt: skip
        path = "cohorts/organs/1/manifest.json"
        life.api.store.put(path, manifest_bytes(manifest))
        lock_cohort(life.api, life.people, life.keys, path)
        no_restriction(life.api, life.people, "organs")
        yield Masks(life, staged, manifest)


@pytest.fixture(autouse=True)
def nothing_left(facility: Masks) -> None:
    facility.life.fresh()
    facility.locked()


def by_hand(staged: Staged, low: float, fails_below: float) -> dict[str, float]:
    """Means over all cases from the staged arrays, failed ones with the worst value."""
    settings = parse_protocol(body_of()).segmentation
    assert settings is not None
    images = load_file(staged.block(0))["ct"][:, 0]
    truths = load_file(staged.path / "masks-00000.safetensors")[LABELS]
    rows = []
    for image, truth in zip(images, truths, strict=True):
        found = (image > low).astype(np.uint8) + (image > HIGH)
        rows.append(
            {"dice_organ": 0.0, "nsd_lesion": 0.0, "hd95_lesion": 20.0}
            if image.sum(dtype=np.float64) < fails_below
            else segmentation_row(
                {"organ": truth == 1, "lesion": truth == 2},
                {"organ": found == 1, "lesion": found == 2}, (2.0, 0.5, 0.75), settings,
            )
        )  # fmt: skip
    return {name: float(np.mean([row[name] for row in rows]))
            for name in ("dice_organ", "nsd_lesion", "hd95_lesion")}  # fmt: skip


def test_a_segmentation_is_run_over_a_sealed_cohort_to_its_verdict_and_nobody_holds_too_much(
    facility: Masks, monkeypatch: pytest.MonkeyPatch
):
    """The run reads no mask, the process that scores no image: one is damaged in between."""
    life, read = facility.life, []
    store = life.worker.store
    get, answer = type(store).get, answering.again
    taken = facility.manifest.shards[0].path
    before = store.get(taken)

    def noted(store: Any, path: str) -> bytes:
        read.append(path)
        return get(store, path)

    def and_then_lose_an_input(*given: Any) -> Any:
        made = answer(*given)
        exchange(life, taken, b"the assess step needs no input")
        return made

    sums = load_file(facility.staged.block(0))["ct"].sum(axis=(1, 2, 3, 4), dtype=np.float64)
    limit = float(np.sort(sums)[1:3].mean())
    assert (sums < limit).sum() == 2
    monkeypatch.setattr(type(store), "get", noted)
    monkeypatch.setattr("registry.pipeline.steps.again", and_then_lose_an_input)
    try:
        submission = facility.run(thresholds(110.0, fails_below=limit))
    finally:
        exchange(life, taken, before)
    assert life.state(submission) == "in_review"
    assert any(path.endswith("inputs/00000") for path in read)
    whole = facility.manifest.reference.path  # is looked at before the attempt, and stays sealed
    assert {path for path in read if "/reference" in path} <= {whole}
    report = report_of(life, submission)
    assert report["case_flow"]["failed_by_code"] == {"output_range": 2}
    expected = by_hand(facility.staged, 110.0, limit)
    assert 0.5 < expected["dice_organ"] < 0.8
    found = {of["metric"]: (of["estimate"], of["n"]) for of in report["endpoints"]}
    for metric, value in expected.items():
        assert found[metric] == (pytest.approx(value, abs=1e-12), CASES), metric
    assert report["verdict"]["overall"] == "pass"
    released = json.loads(report_for(life.api, life.people["Eva"], submission))
    assert released["verdict"]["overall"] == "pass"
    assert report["environment"]["providers"] == ["CPUExecutionProvider"]
    assert report["environment"]["execution"] == recorded(CPU, this_cpu())
    assert report["environment"]["repeatability"] == {
        "compared": CASES, "largest_difference": 0.0, "decisions_changed": 0
    }  # fmt: skip
    golden = json.loads(store.get(places.bundle(submission) + "golden/expected.json"))
    assert golden["score"] == "labels"
    listed = store.get(places.predictions(submission))
    parts = store.list(f"submissions/{submission}/masks")
    assert len(list(stored_masks(store, submission, listed))) == len(list(parts)) == 4
    packed = sum(len(store.get(path)) for path in parts)
    assert packed < CASES * np.prod(SHAPE) / 2
    exchange(life, next(iter(parts)), b"x")
    with pytest.raises(Tampered, match="not what the run wrote"):
        list(stored_masks(store, submission, listed))


def test_a_new_version_s_masks_are_held_against_the_certified_ones(facility: Masks):
    first = facility.run(thresholds(), name="organs-net")
    certify(facility.life, first)
    facility.locked()
    second = facility.run(thresholds(110.0), name="organs-net", version=2)
    found = report_of(facility.life, second)["predecessor"]
    was, now = by_hand(facility.staged, LOW, -1e7), by_hand(facility.staged, 110.0, -1e7)
    assert len(found["endpoints"]) == 3
    for row in found["endpoints"]:
        metric = row["metric"]
        assert (row["certified"], row["new"]) == (
            pytest.approx(was[metric]), pytest.approx(now[metric])
        )  # fmt: skip
        assert row["difference"] == pytest.approx(now[metric] - was[metric], abs=1e-9)
        assert row["interval"]["low"] <= row["difference"] <= row["interval"]["high"]
        assert row["n"] == CASES
    assert found["changed"] is None


def test_what_can_not_be_asked_is_refused_when_it_is_locked(facility: Masks):
    plain = contract_of_masks().model_dump(mode="json")
    without = {
        "id": "c", "version": "1", "score": "p", "inputs": plain["inputs"],
        "outputs": [{"name": "p", "dtype": "float32", "shape": [1]}],
    }  # fmt: skip
    other = [*SETTINGS["structures"], {"name": "spleen", "tolerance": 1.0}]
    for changes, said in (
        ({"contract": without}, "masks"),
        ({"cohort": {"id": "nodules"}}, "another contract"),
        ({"cohort": {"id": "organs", "positives": 99}}, "99 positive"),
        ({"cohort": {"id": "organs", "negatives": 2}}, "2 negative"),
        ({"segmentation": SETTINGS | {"structures": other}}, "has no spleen"),
        ({"development_cohort": {"id": "nodules"}}, "no development cohort"),
        ({"task": "binary", "threshold": 0.5, "segmentation": None, "subgroups": [],
          "endpoints": [{"metric": "auc", "goal": 0.6}]}, "must be segmentation"),
        ({"subgroups": [{"attribute": "sex", "metric": "dice_organ", "rule": "reported"}]},
         "'sex'"),
    ):  # fmt: skip
        with pytest.raises(TouchstoneError, match=said) as refused:
            facility.locked(**changes)
        assert "\n" not in refused.value.message


def test_a_cohort_of_masks_may_have_no_negative_case_and_another_may_not(facility: Masks):
    life = facility.life
    row = life.sql("SELECT masks, positives, negatives FROM touchstone.cohort"
                   " WHERE id = 'organs'")[0]  # fmt: skip
    assert row == (True, CASES, 0)
    with pytest.raises(Exception, match="cohort_negatives_check"):
        life.sql(
            "INSERT INTO touchstone.cohort (id, version, root, manifest_digest, manifest_path,"
            " title, positives, negatives, patients, contract_digest, locked_by)"
            " SELECT 'other', version, 'sha256:' || repeat('a', 64), manifest_digest,"
            " manifest_path, title, positives, 0, patients, contract_digest, locked_by"
            " FROM touchstone.cohort WHERE id = 'nodules'"
        )
