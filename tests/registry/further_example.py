"""The facility of the tests with a cohort of six hospitals, three readers, weights and ages."""

import json
from typing import Any

import numpy as np
import pyarrow as pa
from onnx import TensorProto, helper, numpy_helper

from registry.pipeline.carry import carry
from registry.submissions import places
from tests.registry.facility_example import Example, model, scores, weights

NOISE = {
    "perturbation": {"kind": "noise", "modality": "table", "severity": 3, "tensor": "descriptors",
                     "standard_deviations": [0.7] * 8},
    "metric": "sensitivity", "maximum_drop": 0.4, "rule": "reported",
}  # fmt: skip
ROUNDING = {
    "perturbation": {"kind": "rounding", "modality": "table", "severity": 3,
                     "tensor": "descriptors", "standard_deviations": [0.7] * 8},
    "metric": "auc", "maximum_drop": 0.4, "rule": "reported",
}  # fmt: skip
DEVELOPMENT = {
    "id": "ours", "version": "1",
    "attributes": [
        {"kind": "categories", "attribute": "site", "counts": {"a": 300, "b": 500, "z": 200}},
        {"kind": "histogram", "attribute": "age", "edges": [30, 50, 70, 90],
         "counts": [200, 500, 300], "mean": 61.0, "standard_deviation": 12.0},
        {"kind": "histogram", "attribute": "slice_thickness", "edges": [0, 1, 2],
         "counts": [500, 500], "mean": 1.0, "standard_deviation": 0.5},
        {"kind": "categories", "attribute": "scanner", "counts": {"x": 1, "y": 1}},
    ],
}  # fmt: skip
READERS = {"name": "panel", "kind": "readers", "margin": 0.3, "threshold": 4,
           "readers": ["reader_1", "reader_2", "reader_3"]}  # fmt: skip
WEIGHTED = {"design": "enriched", "weights": "stands_for"}


def further_attributes(table: pa.Table) -> pa.Table:
    """What a protocol may ask for, as the text that a sealed cohort holds."""
    rows, reference = len(table), table["reference"].to_numpy()
    draws = np.random.default_rng(7)
    for number in (1, 2, 3, 4):
        ratings = np.clip(np.where(reference == 1, 4, 2) + draws.integers(-1, 2, rows), 1, 5)
        texts = [str(of) for of in ratings]
        texts[5] = "" if number == 4 else texts[5]  # the fourth did not read this case
        table = table.append_column(f"reader_{number}", pa.array(texts))
    patients = table["patient"].to_pylist()
    of_patient = {name: place for place, name in enumerate(sorted(set(patients)))}
    columns = {
        "site": ["abcdef"[of_patient[name] % 6] for name in patients],
        "stands_for": ["2.5" if positive else "10" for positive in reference],
        "age": [str(40 + 3 * of_patient[name]) for name in patients],
    }
    for name, values in columns.items():
        table = table.append_column(name, pa.array(values))
    return table


def carried(life: Example, submission: str) -> str:
    """Taken as far as it goes without people."""
    with life.turn() as turn:
        assert turn is not None
        assert turn.submission == submission
        return carry(life.worker, turn)


def report_of(life: Example, submission: str) -> dict[str, Any]:
    """The complete report."""
    return dict(json.loads(life.worker.store.get(places.report(submission))))


def step(life: Example, submission: str, name: str) -> Any:
    """What a step wrote down, or None."""
    with life.worker.record.transaction() as now:
        row = now.maybe("step_output", submission=submission, name=name)
    return None if row is None else row["output"]


def exchange(life: Example, path: str, data: bytes) -> bytes:
    """Put other bytes in an object's place, past the store's own rules; what was there."""
    file = life.worker.settings.home / "objects" / path
    before = file.read_bytes()
    file.chmod(0o600)
    file.write_bytes(data)
    return before


def brittle() -> bytes:
    """Right on clean readings, which are whole or half; loops for ever on any others."""
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
            helper.make_node("Mul", ["descriptors", "two"], ["doubled"]),
            helper.make_node("Round", ["doubled"], ["whole"]),
            helper.make_node("Sub", ["doubled", "whole"], ["rest"]),
            helper.make_node("Abs", ["rest"], ["distance"]),
            helper.make_node("ReduceMax", ["distance"], ["most"], keepdims=0),
            helper.make_node("Greater", ["most", "little"], ["odd"]),
            helper.make_node("Cast", ["odd"], ["one"], to=TensorProto.INT64),
            helper.make_node("Mul", ["one", "many"], ["trips"]),
            *scores("score"),
            helper.make_node("Loop", ["trips", "go", "score"], ["probability"], body=body),
        ],
        [
            *weights(0.1),
            numpy_helper.from_array(np.asarray(2, np.float32), "two"),
            numpy_helper.from_array(np.asarray(0.001, np.float32), "little"),
            numpy_helper.from_array(np.asarray(2**40, np.int64), "many"),
            numpy_helper.from_array(np.asarray(True), "go"),
        ],
    )
