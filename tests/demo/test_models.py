"""The two SMEs' models: the file gives what was trained, whatever the batch."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import yaml

from demo.development import CONTRACT, Development, installed_development, read_development
from demo.features import SIZE
from demo.goals import PROTOCOL, highest_threshold, resampled, table_of
from demo.models import Sme, Trained, features, train
from registry.trust.errors import Refused
from serving.sandbox.limits import Limits
from serving.sandbox.process import Sandbox
from validators.cohort.drawing import filled
from validators.cohort.ingest import ingest
from validators.cohort.lidc import CITATION, installed_lidc
from validators.intake.decision import decide
from validators.protocol.read import read_contract, read_protocol


@pytest.fixture(scope="module")
def half() -> Development:
    return installed_development()


@pytest.fixture(scope="module", params=["a", "b"])
def trained(request: pytest.FixtureRequest, half: Development) -> Trained:
    return train(request.param, half)


def _answers(data: bytes, half: Development, batch: int, rows: int) -> np.ndarray:  # type: ignore[type-arg]
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return np.concatenate(
        [
            session.run(
                ["probability"],
                {
                    "image": half.image[i : i + batch],
                    "descriptors": half.descriptors[i : i + batch],
                },
            )[0]
            for i in range(0, rows, batch)
        ]
    )


def test_the_file_answers_as_the_trained_model_does(trained: Trained, half: Development) -> None:
    answers = _answers(trained.onnx(), half, 64, len(half.reference))
    assert answers.dtype == np.float32
    assert answers.shape == (len(half.reference), 1)
    expected = trained.predict(half.image, half.descriptors)
    assert np.abs(answers[:, 0] - expected).max() < 1e-6


def test_one_by_one_is_the_same_as_in_batches(trained: Trained, half: Development) -> None:
    data = trained.onnx()
    one, many = _answers(data, half, 1, 128), _answers(data, half, 64, 128)
    assert np.abs(one - many).max() < read_contract(CONTRACT).tolerance / 10


def test_the_same_data_train_the_same_model(trained: Trained, half: Development) -> None:
    assert train(trained.sme, half).onnx() == trained.onnx()


def test_an_empty_and_a_full_image_have_finite_answers(trained: Trained) -> None:
    image = np.stack([np.zeros((1, SIZE, SIZE)), np.ones((1, SIZE, SIZE))]).astype(np.float32)
    answers = trained.predict(image, np.full((2, 8), 3, dtype=np.float32))
    assert np.isfinite(answers).all()
    assert ((answers >= 0) & (answers <= 1)).all()


def test_only_plain_deterministic_operators_in_one_file(trained: Trained) -> None:
    model = onnx.load_from_string(trained.onnx())
    assert {entry.domain for entry in model.opset_import} <= {"", "ai.onnx", "ai.onnx.ml"}
    assert 17 <= model.opset_import[0].version <= 21
    assert not model.functions
    assert not [node.op_type for node in model.graph.node if node.op_type.startswith("Random")]
    assert not [t.name for t in model.graph.initializer if t.data_location]
    assert [i.name for i in model.graph.input] == ["image", "descriptors"]


def test_intake_accepts_it_and_the_sandbox_runs_it(trained: Trained, half: Development) -> None:
    files = {"model.onnx": trained.onnx()}
    with Sandbox.start(limits=Limits(), allow_unsandboxed=True) as sandbox:
        decide(sandbox.inspect(files), read_contract(CONTRACT))
        sandbox.load(files)
        given = {"image": half.image[:64], "descriptors": half.descriptors[:64]}
        answers = sandbox.run(given)["probability"]
    assert np.abs(answers[:, 0] - trained.predict(half.image[:64], half.descriptors[:64])).max() < (
        1e-6
    )


def test_shape_alone_never_looks_at_the_reading(half: Development) -> None:
    model = train("b", half)
    other = np.flip(half.descriptors, axis=0).copy()
    assert np.array_equal(
        model.predict(half.image, half.descriptors), model.predict(half.image, other)
    )


@pytest.mark.parametrize("radius", [3.0, 8.0, 15.0])
@pytest.mark.parametrize("sme", ["a", "b"])
def test_features_of_a_disc_are_those_of_geometry(sme: Sme, radius: float) -> None:
    """Area pi r^2; second central moments r^2 / 4; edge about 2 pi r."""
    angles = np.linspace(0, 2 * np.pi, 400, endpoint=False)
    disc = np.c_[radius * np.cos(angles), radius * np.sin(angles)]
    image = filled([disc], size=SIZE, pitch=1.0)[np.newaxis, np.newaxis]
    found = features(sme, image, np.full((1, 8), 3, dtype=np.float32))[0]
    area, major, minor, edge = np.exp(found[[0, 3, 4, 5]])
    assert area == pytest.approx(np.pi * radius**2, rel=0.03)
    assert major == pytest.approx(radius**2 / 4, rel=0.08)
    assert minor == pytest.approx(radius**2 / 4, rel=0.08)
    assert edge == pytest.approx(2 * np.pi * radius, rel=0.15)


def test_only_the_development_half_is_read(tmp_path: Path) -> None:
    ingest(installed_lidc(), tmp_path / "locked", contract=read_contract(CONTRACT), half="locked")
    with pytest.raises(Refused, match="not the development half"):
        read_development(tmp_path / "locked")


def test_the_protocol_names_this_contract_and_says_how_goals_were_chosen() -> None:
    protocol = read_protocol(PROTOCOL)
    assert protocol.contract == read_contract(CONTRACT)
    assert "development half alone" in protocol.goals_rationale
    assert protocol.cluster == "patient"
    assert {rule.attribute for rule in protocol.subgroups} == {"slice_thickness", "contrast_used"}
    assert yaml.safe_load(PROTOCOL.read_text())["contract"]["score"] == "probability"
    assert "10.7937/K9/TCIA.2015.LO9QL9SX" in CITATION


def test_the_threshold_finds_ninety_percent_of_positives(half: Development) -> None:
    score = np.where(half.reference == 1, 0.4, 0.1)
    score[np.flatnonzero(half.reference)[:20]] = 0.33
    assert highest_threshold(half, score) == 0.4
    score[np.flatnonzero(half.reference)[:30]] = 0.33
    assert highest_threshold(half, score) == 0.3


def test_a_future_cohort_keeps_patients_whole(half: Development) -> None:
    table = table_of(half, np.linspace(0, 1, len(half.reference)))
    drawn = resampled(table, np.random.default_rng(1))
    assert drawn.patient is not None
    assert len(np.unique(drawn.patient)) == len(np.unique(half.patient))
    original = {frozenset(np.round(table.score[half.patient == p], 9).tolist())
                for p in np.unique(half.patient)}  # fmt: skip
    for patient in np.unique(drawn.patient):
        own = drawn.score[drawn.patient == patient]
        assert frozenset(np.round(own, 9).tolist()) in original


@pytest.mark.slow
def test_the_goals_are_those_that_the_development_half_gives() -> None:
    from demo.goals import main

    assert main() == 0
