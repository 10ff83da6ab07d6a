"""Every case of a shard is answered or accounted for, the same way each time."""

import math
import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from registry.trust.errors import Invalid
from serving.batches import batch_of, rows_a_batch
from serving.client import predict, repeat
from serving.sandbox import Limits, ModelFailure, Sandbox
from tests.serving import hostile

SEED = "sha256:" + "5" * 64


@dataclass(frozen=True)
class Shard:
    index: int
    cases: tuple[str, ...]
    inputs: dict[str, np.ndarray[Any, Any]]


def shards(*sizes: int, odd: tuple[int, ...] = ()) -> list[Shard]:
    """Shards of cases; those at the positions `odd` have 9 as their first descriptor."""
    made, start = [], 0
    for index, size in enumerate(sizes):
        inputs = hostile.cases(size, seed=index)
        inputs["descriptors"] = np.minimum(inputs["descriptors"], 1.9)
        for position in odd:
            if start <= position < start + size:
                inputs["descriptors"][position - start, 0] = 9
        made.append(Shard(index, tuple(f"case-{start + n}" for n in range(size)), inputs))
        start += size
    return made


def run(data: bytes, parts: list[Shard], limits: Limits | None = None, **options: Any) -> Any:
    with Sandbox.start(limits) as sandbox:
        sandbox.load({"model.onnx": data})
        return predict(sandbox, parts, hostile.contract(), order_seed=SEED, **options)


def test_scores_come_back_in_the_order_of_the_cases():
    parts = shards(100, 1, 64, 0, 37)
    progress: list[int] = []
    found = run(hostile.honest(), parts, batch_size=32, on_progress=progress.append)
    expected = np.concatenate([hostile.honest_score(p.inputs)[:, 0] for p in parts])
    assert found.cases == tuple(f"case-{n}" for n in range(202))
    np.testing.assert_allclose(found.scores, expected, atol=1e-6)
    assert found.scores.dtype == np.float64
    assert set(found.failures) == {None}
    assert progress == [100, 101, 165, 165, 202]
    assert found.restarts == 0


class Recorder:
    """Passes everything to a real sandbox and notes the batches that it was given."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self.batches: list[np.ndarray[Any, Any]] = []

    def begin(self, inputs: Any, outputs: Any, rows: Any) -> None:
        self.batches.append(inputs["descriptors"][rows])
        self.sandbox.begin(inputs, outputs, rows)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.sandbox, name)


def batches_of(seed: str, parts: list[Shard]) -> list[np.ndarray[Any, Any]]:
    with Sandbox.start() as sandbox:
        sandbox.load({"model.onnx": hostile.honest()})
        recorder = Recorder(sandbox)
        predict(recorder, parts, hostile.contract(), batch_size=16, order_seed=seed)  # type: ignore[arg-type]
    return recorder.batches


def test_batches_are_a_function_of_the_seed_and_filled_evenly():
    parts = shards(40, 20)
    first, again, other = (batches_of(seed, parts) for seed in (SEED, SEED, SEED + "x"))
    assert [len(batch) for batch in first] == [14] * 3 + [10] * 2, "by shard: 40 cases and 20"
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    assert not all((a == b).all() for a, b in zip(first, other, strict=True))


def test_the_order_is_not_the_order_of_the_shard():
    parts = shards(40)
    (batch, *_) = batches_of(SEED, parts)
    assert not (batch == parts[0].inputs["descriptors"][: len(batch)]).all()


def test_the_largest_batch_is_about_five_megabytes_of_what_lies_in_a_shard():
    contract = hostile.contract()
    a_case = sum(4 * math.prod(of.shape) for of in contract.inputs)
    assert batch_of(contract) == min(1024, 5_000_000 // a_case)
    stored = contract.inputs[0].model_copy(update={"shape": (3, 224, 224), "dtype": "float32"})
    assert batch_of(contract.model_copy(update={"inputs": (stored,)})) == 8


@pytest.mark.parametrize(
    ("cases", "rows"), [(0, 1), (1, 1), (64, 64), (65, 33), (128, 64), (130, 44)]
)
def test_batches_are_as_few_as_can_be_and_alike(cases, rows):
    assert rows_a_batch(cases, 64) == rows


@pytest.mark.parametrize("data", [hostile.honest(), hostile.raises()], ids=["honest", "raises"])
def test_several_sandboxes_give_what_one_gives(data):
    parts = shards(33, 20, 1, 0, 64, 5, 40, odd=(3, 60, 100))
    alone = run(data, parts, batch_size=16)
    with ExitStack() as stack:
        pool = [stack.enter_context(Sandbox.start()) for _ in range(3)]
        for sandbox in pool:
            sandbox.load({"model.onnx": data})
        asked: list[int] = []
        shared = predict(
            pool, parts, hostile.contract(), order_seed=SEED, batch_size=16,
            on_progress=asked.append,
        )  # fmt: skip
    assert shared.scores.tobytes() == alone.scores.tobytes()
    assert (shared.cases, shared.failures) == (alone.cases, alone.failures)
    assert asked == [33, 53, 54, 54, 118, 123, 163]


def test_the_first_sandbox_that_fails_for_good_ends_the_run_of_all():
    drawn: list[int] = []

    def some() -> Iterator[Shard]:
        for part in shards(*[8] * 60):
            drawn.append(part.index)
            yield part

    with ExitStack() as stack:
        pool = [stack.enter_context(Sandbox.start(Limits(wall_seconds=0.2))) for _ in range(2)]
        for sandbox in pool:
            sandbox.load({"model.onnx": hostile.loop(2**31 - 1)})
        with pytest.raises(ModelFailure) as caught:
            predict(pool, some(), hostile.contract(), order_seed=SEED, maximum_restarts=1)
    assert caught.value.code == "model_timeout"
    assert len(drawn) <= 5, "shards are drawn as they are answered"


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (hostile.not_finite(float("nan")), "output_not_finite"),
        (hostile.not_finite(2.0), "output_range"),
        (hostile.drops_rows(), "output_shape"),
        (hostile.raises(), "model_raised"),
    ],
    ids=["nan", "range", "dropped rows", "raises"],
)
def test_only_the_failing_cases_fail_and_by_code(data, code):
    parts = shards(70, 30, odd=(3, 4, 69, 99))
    found = run(data, parts, batch_size=16)
    assert found.failed_by_code == {code: 4}
    failed = [n for n, failure in enumerate(found.failures) if failure]
    assert failed == [3, 4, 69, 99]
    assert np.isnan(found.scores[failed]).all()
    fine = np.setdiff1d(np.arange(100), failed)
    expected = np.concatenate([hostile.honest_score(p.inputs)[:, 0] for p in parts])
    np.testing.assert_allclose(found.scores[fine], expected[fine], atol=1e-6)
    assert found.restarts == 0


def test_a_model_that_fails_every_case_ends_in_bounded_time():
    parts = shards(300, odd=tuple(range(300)))
    assert run(hostile.raises(), parts, batch_size=64).failed_by_code == {"model_raised": 300}


class Killed:
    """A real sandbox whose process somebody else kills under the first calls."""

    def __init__(self, sandbox: Sandbox, times: int) -> None:
        self.sandbox, self.left = sandbox, times

    def begin(self, inputs: Any, outputs: Any, rows: Any) -> None:
        if self.left:
            self.left -= 1
            os.kill(self.sandbox.pid or 0, signal.SIGKILL)
        self.sandbox.begin(inputs, outputs, rows)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.sandbox, name)


def test_a_case_under_which_somebody_else_killed_the_process_is_asked_again():
    parts = shards(3)
    with Sandbox.start() as sandbox:
        sandbox.load({"model.onnx": hostile.honest()})
        killed: Any = Killed(sandbox, 1)
        found = predict(killed, parts, hostile.contract(), order_seed=SEED, batch_size=1)
    assert found.failed_by_code == {}
    assert found.restarts == 1
    assert found.scores.tobytes() == run(hostile.honest(), parts, batch_size=1).scores.tobytes()


def test_a_case_that_hangs_the_model_is_found_with_fresh_processes():
    parts = shards(20, odd=(7,))
    found = run(hostile.slow_when(2.0), parts, Limits(wall_seconds=0.3), batch_size=8)
    assert found.failed_by_code == {"model_timeout": 1}
    assert found.failures[7] == "model_timeout"
    assert 3 <= found.restarts <= 4, "a batch of 7, halved until it is one case"
    assert np.isfinite(np.delete(found.scores, 7)).all()


def test_a_model_that_always_hangs_fails_the_run_with_its_code():
    with pytest.raises(ModelFailure) as caught:
        run(
            hostile.loop(2**31 - 1), shards(20), Limits(wall_seconds=0.2),
            batch_size=8, maximum_restarts=2,
        )  # fmt: skip
    assert caught.value.code == "model_timeout"


def test_a_model_that_always_eats_its_memory_fails_the_run_with_its_code():
    with pytest.raises(ModelFailure) as caught:
        run(
            hostile.huge_by_data(), shards(4), Limits(memory_bytes=1 << 29),
            batch_size=4, maximum_restarts=2,
        )  # fmt: skip
    assert caught.value.code == "model_out_of_memory"


def repeated(data: bytes, parts: list[Shard]) -> Any:
    with Sandbox.start() as sandbox:
        sandbox.load({"model.onnx": data})
        first = predict(sandbox, parts, hostile.contract(), order_seed=SEED)
        before = sandbox.pid
        answer = repeat(
            sandbox, parts, hostile.contract(), first, threshold=0.5, order_seed=SEED, cases=40
        )
        assert sandbox.pid != before, "it is asked again in a fresh process"
        return answer


def test_an_honest_model_repeats_itself():
    answer = repeated(hostile.honest(), shards(90, 30))
    assert answer.compared == 40
    assert answer.largest_difference <= 1e-6
    assert answer.decisions_changed == 0
    assert answer.agrees


def test_a_model_that_answers_otherwise_at_batch_1_is_caught():
    answer = repeated(hostile.batch_switch(), shards(90, 30))
    assert answer.largest_difference > 0.1
    assert answer.decisions_changed > 0
    assert not answer.agrees


@pytest.mark.parametrize("data", [hostile.batch_mates(), hostile.place_in_batch()])
def test_a_model_whose_answer_depends_on_the_other_cases_of_the_batch_is_caught(data):
    answer = repeated(data, shards(90, 30))
    assert answer.compared == 40
    assert answer.largest_difference > 1e-4
    assert not answer.agrees


class Remembers:
    """A real sandbox whose answers change after so many calls of one process.

    No model can do this: what could count is refused at loading (test_inspect). A runtime with a
    fault might.
    """

    def __init__(self, sandbox: Sandbox, honest_calls: int) -> None:
        self.sandbox = sandbox
        self.honest_calls = honest_calls
        self.calls = 0

    def restart(self) -> None:
        self.calls = 0
        self.sandbox.restart()

    def finish(self) -> Any:
        self.calls += 1
        outputs = self.sandbox.finish()
        if self.calls > self.honest_calls:
            outputs = {name: 1 - values for name, values in outputs.items()}
        return outputs

    def __getattr__(self, name: str) -> Any:
        return getattr(self.sandbox, name)


@pytest.mark.parametrize(("honest_calls", "agrees"), [(1, False), (40, False), (10_000, True)])
def test_answers_that_change_after_other_cases_are_caught(honest_calls, agrees):
    parts = shards(60)
    with Sandbox.start() as sandbox:
        sandbox.load({"model.onnx": hostile.honest()})
        held = Remembers(sandbox, honest_calls)
        first = predict(held, parts, hostile.contract(), order_seed=SEED)  # type: ignore[arg-type]
        assert held.calls == 1
        answer = repeat(
            held, parts, hostile.contract(), first, threshold=0.5, order_seed=SEED, cases=40,
        )  # type: ignore[arg-type]  # fmt: skip
    assert answer.agrees == agrees, "40 calls one by one are honest; the next, in a batch, is not"


def test_the_subset_is_asked_alone_and_in_full_batches():
    parts = shards(90, 30)
    with Sandbox.start() as sandbox:
        sandbox.load({"model.onnx": hostile.honest()})
        first = predict(sandbox, parts, hostile.contract(), order_seed=SEED)
        recorder = Recorder(sandbox)
        repeat(
            recorder, parts, hostile.contract(), first, threshold=0.5, order_seed=SEED,
            cases=40, batch_size=16,
        )  # type: ignore[arg-type]  # fmt: skip
    sizes = [len(batch) for batch in recorder.batches]
    assert sizes.count(1) == 40
    assert len(sizes) == 44
    assert sum(sizes) in range(80, 85), "the same 40 cases again, in as few batches as can be"


def test_cases_that_fail_both_times_agree():
    answer = repeated(hostile.not_finite(float("nan")), shards(60, odd=tuple(range(0, 60, 2))))
    assert answer.agrees


def test_inputs_are_cast_as_the_contract_says_and_never_truncated():
    parts = shards(5)
    wide = Shard(0, parts[0].cases, {k: v.astype(np.float64) for k, v in parts[0].inputs.items()})
    assert (run(hostile.honest(), [wide]).scores == run(hostile.honest(), parts).scores).all()
    images = {"image": np.ones((5, 1, 8, 8), np.complex64)}
    with pytest.raises(Invalid, match="can't become float32"):
        run(hostile.honest(), [Shard(0, parts[0].cases, parts[0].inputs | images)])


def test_a_shard_that_does_not_fit_the_contract_is_invalid():
    (part,) = shards(5)
    lacking = {"image": part.inputs["image"]}
    with pytest.raises(Invalid, match="'descriptors'"):
        run(hostile.honest(), [Shard(0, part.cases, lacking)])
    short = part.inputs | {"image": part.inputs["image"][:4]}
    with pytest.raises(Invalid, match="shape"):
        run(hostile.honest(), [Shard(0, part.cases, short)])


def test_no_score_and_no_case_shows_in_a_repr():
    found = run(hostile.honest(), shards(3))
    assert "case" not in repr(found)
    assert "scores" not in repr(found)
