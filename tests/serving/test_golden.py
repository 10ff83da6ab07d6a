"""The hospital's machine computes what the facility's machine computed, or is told that not."""

import json
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from registry.trust.canonical import canonical, sha256_bytes
from registry.trust.errors import Invalid, Refused, Tampered
from serving.bundle.golden import GoldenInputs, make_inputs, record
from serving.bundle.golden_replay import replay
from serving.sandbox import ModelFailure, Sandbox
from tests.serving import certified
from tests.serving.certified import CONTRACT, PROTOCOL
from validators.contract.made_up import bounds, make_case
from validators.contract.schema import Contract, Tensor

SEED = PROTOCOL.digest
Arrays = Mapping[str, NDArray[Any]]


@pytest.fixture(scope="module")
def golden() -> dict[str, bytes]:
    return certified.golden_of({"model.onnx": certified.model()})


def replay_real(data: bytes, golden: Mapping[str, bytes], tolerance: float = 1e-5) -> float:
    with Sandbox.start() as sandbox:
        sandbox.load({"model.onnx": data})
        return replay(sandbox, golden, CONTRACT, tolerance).largest_difference


def test_the_same_model_gives_the_same_bits_in_another_process(golden: dict[str, bytes]) -> None:
    assert replay_real(certified.model(), golden, tolerance=0.0) == 0.0


def test_another_model_is_noticed(golden: dict[str, bytes]) -> None:
    with pytest.raises(Refused) as raised:
        replay_real(certified.model(sign=1.001), golden)
    assert raised.value.code == "golden_mismatch"


def test_recording_twice_gives_the_same_bytes(golden: dict[str, bytes]) -> None:
    assert certified.golden_of({"model.onnx": certified.model()}) == golden


def test_inputs_are_the_same_on_every_machine() -> None:
    """A change of this digest is a change of every bundle that is prepared again."""
    made = make_inputs(CONTRACT, SEED).arrays
    assert sha256_bytes(b"".join(made[name].tobytes() for name in sorted(made))) == (
        "sha256:63dfe8c984e19d88bff346ecd844716d47366d0175e002007dfe15bdde7d7a11"
    )


def test_each_case_is_scored_alone_by_sevens_and_all_at_once(golden: dict[str, bytes]) -> None:
    value = json.loads(golden["golden/expected.json"])
    assert [run["batch"] for run in value["runs"]] == [32, 7, 1]
    orders = [tuple(run["order"]) for run in value["runs"]]
    assert len(set(orders)) == 3
    assert all(sorted(order) == list(range(32)) for order in orders)
    spread = value["runs"][0]["scores"]
    assert max(spread) - min(spread) > 0.1, "made-up cases must tell models apart"


class Imagined:
    """A model whose misbehaviour no honest file shows: what `record` must see through."""

    def __init__(self, kind: str, provider: str = "CPUExecutionProvider") -> None:
        self.kind, self.calls = kind, 0
        self.execution: dict[str, int | bool | str] = {"provider": provider}

    def run(self, inputs: Arrays, /) -> dict[str, NDArray[Any]]:
        self.calls += 1
        image = inputs["image"]
        score = image.mean(axis=(1, 2, 3), dtype=np.float64)
        if self.kind == "batch" and len(image) > 1:
            score = score + 0.01 * (1 - score)
        if self.kind == "counter" and self.calls > 50:
            score = score * 0.9
        if self.kind == "neighbour":
            score = score * 0.9 + 0.1 * score[0]
        return {"probability": score.astype(np.float32)[:, None]}


@pytest.mark.parametrize("kind", ["batch", "counter", "neighbour"])
def test_a_model_that_depends_on_its_surroundings_is_not_recorded(kind: str) -> None:
    with pytest.raises(Refused) as raised:
        record(Imagined(kind), make_inputs(CONTRACT, SEED), CONTRACT)
    assert raised.value.code == "not_repeatable"


def test_an_honest_model_of_the_same_build_is_recorded() -> None:
    files = record(Imagined("honest"), make_inputs(CONTRACT, SEED), CONTRACT)
    assert replay(Imagined("honest"), files, CONTRACT, 0.0).cases == 32


def test_a_case_that_only_a_made_up_input_brings_about_is_left_out() -> None:
    """All-zero images, which no cohort holds, divide zero by zero in a model that normalises."""
    golden = certified.golden_of({"model.onnx": certified.model(divide=True)})
    value = json.loads(golden["golden/expected.json"])
    assert 16 <= len(value["runs"][0]["order"]) < 32
    assert replay_real(certified.model(divide=True), golden) == 0.0


def test_a_model_that_answers_next_to_nothing_is_refused() -> None:
    class Mute:
        execution: ClassVar[dict[str, Any]] = {"provider": "CPUExecutionProvider"}

        def run(self, inputs: Arrays, /) -> dict[str, NDArray[Any]]:
            return {"probability": np.full((len(inputs["image"]), 1), np.nan, np.float32)}

    with pytest.raises(Refused) as raised:
        record(Mute(), make_inputs(CONTRACT, SEED), CONTRACT)
    assert raised.value.code == "golden_unusable"


def test_a_model_that_dies_is_not_recorded() -> None:
    class Dying:
        execution: ClassVar[dict[str, Any]] = {"provider": "CPUExecutionProvider"}

        def run(self, inputs: Arrays, /) -> dict[str, NDArray[Any]]:
            raise ModelFailure("model_crashed")

    with pytest.raises(ModelFailure):
        record(Dying(), make_inputs(CONTRACT, SEED), CONTRACT)


def test_a_replay_that_gives_no_number_fails(golden: dict[str, bytes]) -> None:
    class Silent:
        execution: ClassVar[dict[str, Any]] = {"provider": "CPUExecutionProvider"}

        def run(self, inputs: Arrays, /) -> dict[str, NDArray[Any]]:
            return {"probability": np.full((len(inputs["image"]), 1), np.nan, np.float32)}

    with pytest.raises(ModelFailure):
        replay(Silent(), golden, CONTRACT, 1e9)


def broken(golden: dict[str, bytes], **changes: Any) -> dict[str, bytes]:
    value = json.loads(golden["golden/expected.json"])
    for path, change in changes.items():
        target: Any = value
        *way, last = path.split("__")
        for part in way:
            target = target[int(part) if part.isdigit() else part]
        target[int(last) if last.isdigit() else last] = change
    return {**golden, "golden/expected.json": canonical(value)}


@pytest.mark.parametrize(
    "changes",
    [
        {"schema_id": "touchstone/golden/v1"},
        {"score": "other"},
        {"runs": []},
        {"runs__0__scores": [0.5]},
        {"runs__0__order": [0] * 32},
        {"runs__0__order__0": -1},
        {"runs__0__order": []},
        {"runs__1__batch": 0},
        {"inputs": []},
        {"inputs__0__dtype": "float64"},
        {"inputs__0__shape": [31, 1, 8, 8]},
        {"inputs__0__shape": [32, 8, 8, 1]},
        {"inputs__1__name": "image"},
        {"extra": 1},
    ],
    ids=lambda changes: str(changes)[:40],
)
def test_golden_files_that_do_not_fit_the_contract_fail_closed(
    golden: dict[str, bytes], changes: dict[str, Any]
) -> None:
    with pytest.raises(Tampered) as raised:
        replay(Imagined("honest"), broken(golden, **changes), CONTRACT, 1.0)
    assert raised.value.code == "golden_malformed"


def test_golden_inputs_of_another_size_fail_closed(golden: dict[str, bytes]) -> None:
    for data in (golden["golden/inputs.bin"][:-1], golden["golden/inputs.bin"] + b"\0", b""):
        with pytest.raises(Tampered):
            replay(Imagined("honest"), {**golden, "golden/inputs.bin": data}, CONTRACT, 1.0)


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    dtype = draw(
        st.sampled_from(["float32", "float64", "int64", "int32", "int16", "uint8", "bool"])
    )
    low = draw(st.none() | st.integers(0, 100).map(lambda n: n / 4))
    high = draw(st.none() | st.integers(104, 220).map(lambda n: n / 4))
    if dtype == "bool":
        low = high = None
    shape = tuple(draw(st.lists(st.integers(1, 6), max_size=4)))
    return Tensor(name="x", dtype=dtype, shape=shape, minimum=low, maximum=high)


@settings(max_examples=150, deadline=None)
@given(tensor=tensors(), case=st.integers(0, 31))
def test_made_up_cases_keep_to_the_contract(tensor: Tensor, case: int) -> None:
    array = make_case(tensor, "seed", case)
    assert array.dtype.name == tensor.dtype
    assert array.shape == tensor.shape
    assert np.isfinite(array).all()
    if tensor.dtype != "bool":
        low, high = bounds(tensor)
        assert (array >= low).all()
        assert (array <= high).all()
        assert tensor.minimum is None or (array >= tensor.minimum).all()
        assert tensor.maximum is None or (array <= tensor.maximum).all()
    assert (make_case(tensor, "seed", case) == array).all()


def test_a_contract_that_allows_no_value_is_told_so() -> None:
    for dtype, low, high in (("uint8", 256, None), ("int64", 1.2, 1.8), ("float32", 1, 0)):
        tensor = Tensor(name="x", dtype=dtype, shape=(1,), minimum=low, maximum=high)
        with pytest.raises(Invalid, match="no value for x"):
            bounds(tensor)


def test_large_cases_are_fewer() -> None:
    volume = Tensor(name="ct", dtype="int16", shape=(64, 256, 256))
    contract = Contract(
        id="ct", version="1", inputs=(volume,),
        outputs=(Tensor(name="p", dtype="float32", shape=()),), score="p",
    )  # fmt: skip
    inputs = make_inputs(contract, "seed")
    assert isinstance(inputs, GoldenInputs)
    assert inputs.cases == 8
    assert inputs.arrays["ct"].nbytes == 64 << 20
