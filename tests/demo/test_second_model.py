"""SME A's second model: the file gives what was trained, passes intake, and was chosen as said."""

import numpy as np
import onnxruntime
import pytest

from demo.development import CONTRACT, Development, installed_development
from demo.models import features
from demo.second_model import Second, _at_most, train_second
from serving.sandbox.process import Sandbox
from validators.intake.decision import decide
from validators.protocol.read import read_contract


@pytest.fixture(scope="module")
def half() -> Development:
    return installed_development()


@pytest.fixture(scope="module")
def second(half: Development) -> Second:
    return train_second(half)


def answers(data: bytes, half: Development, batch: int, rows: int) -> np.ndarray:  # type: ignore[type-arg]
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return np.concatenate(
        [
            session.run(None, {"image": half.image[i : i + batch],
                               "descriptors": half.descriptors[i : i + batch]})[0]
            for i in range(0, rows, batch)
        ]
    )[:, 0]  # fmt: skip


def test_the_file_answers_as_the_trained_model_does(second: Second, half: Development) -> None:
    expected = second.of_features(features("a", half.image, half.descriptors))
    found = answers(second.onnx(), half, 64, len(half.reference))
    assert np.abs(found - expected).max() < 1e-6
    one_by_one = answers(second.onnx(), half, 1, 100)
    assert np.abs(one_by_one - found[:100]).max() < read_contract(CONTRACT).tolerance / 10


def test_intake_takes_it(second: Second) -> None:
    with Sandbox.start() as sandbox:
        description = sandbox.inspect({"model.onnx": second.onnx()})
    decide(description, read_contract(CONTRACT))


@pytest.mark.parametrize("threshold", [0.1, -0.1, 1 / 3, 2.5, 1e-30, -7.7])
def test_a_threshold_is_never_rounded_up(threshold: float) -> None:
    near = _at_most(threshold)
    assert near <= threshold
    assert float(np.nextafter(np.float32(near), np.float32(np.inf))) > threshold
