"""A perturbed run takes the same way through the same sandbox as the run itself."""

from collections.abc import Iterator

import numpy as np
import pytest

from serving.client import predict
from serving.sandbox import Sandbox
from tests.serving import hostile
from validators.cases import CaseTable
from validators.cohort.shard import Shard
from validators.robustness.drop import judge_drop
from validators.robustness.perturb import perturbed
from validators.robustness.severity import Perturbation

SEED = "sha256:" + "3" * 64
CASES = 150
CONTRACT = hostile.contract(
    inputs=[
        {"name": "image", "dtype": "float32", "shape": [1, 8, 8], "minimum": -4, "maximum": 4},
        {"name": "descriptors", "dtype": "float32", "shape": [4]},
    ]
)


def cohort() -> Iterator[Shard]:
    for index in range(2):
        names = tuple(f"{index:02d}{row:030d}" for row in range(CASES))
        yield Shard(index, names, hostile.cases(CASES, seed=index))


def asked(severity: int) -> Perturbation:
    return Perturbation(
        kind="noise", modality="table", severity=severity, tensor="descriptors",
        standard_deviations=(0.02, 0.02, 0.02, 0.0),
    )  # fmt: skip


@pytest.fixture(scope="module")
def runs():
    """The bare run, two perturbed ones of one severity and one of another, in one sandbox."""
    blurred = Perturbation(kind="blur", modality="MR", severity=5, tensor="image")
    with Sandbox.start() as sandbox:
        sandbox.load({"model.onnx": hostile.honest()})

        def run(perturbation: Perturbation | None):
            shards = cohort()
            if perturbation is not None:
                shards = perturbed(shards, perturbation, CONTRACT, seed=SEED)
            return predict(sandbox, shards, CONTRACT, order_seed=SEED)

        return [run(p) for p in (None, asked(1), asked(1), asked(5), blurred)]


def test_a_perturbed_run_answers_the_same_cases_and_can_be_repeated(runs):
    bare, small, again, large, _ = runs
    assert bare.cases == small.cases == large.cases
    assert (small.scores == again.scores).all()
    moved = [np.abs(bare.scores - other.scores).mean() for other in (small, large)]
    assert 0 < moved[0] < moved[1]


def test_the_model_is_given_what_the_perturbation_made(runs):
    changed = list(perturbed(cohort(), asked(5), CONTRACT, seed=SEED))
    expected = np.concatenate([hostile.honest_score(part.inputs)[:, 0] for part in changed])
    np.testing.assert_allclose(runs[3].scores, expected, atol=1e-6)


def test_the_drop_tells_a_model_that_holds_from_one_that_does_not(runs):
    bare, small, _, _, blurred = runs
    reference = (bare.scores >= 0.5).astype(int)
    clean = CaseTable(reference, bare.scores)
    options = {"threshold": 0.5, "maximum_drop": 0.06, "alpha": 0.025}
    for metric in ("sensitivity", "specificity", "auc"):
        held = judge_drop(clean, CaseTable(reference, small.scores), metric, **options)
        lost = judge_drop(clean, CaseTable(reference, blurred.scores), metric, **options)
        assert held.outcome == "pass"
        assert lost.drop > held.drop
        assert lost.outcome != "pass"
