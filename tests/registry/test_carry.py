"""What the pipeline does with errors: whose fault it was, and what may be written down of it."""

import logging
import traceback
from typing import Any

import pytest

from registry.pipeline import carry as module
from registry.trust.errors import Refused, Tampered, Unavailable
from serving.sandbox.failures import ModelFailure


class Record:
    """Remembers what the pipeline wrote; the state moves on by itself."""

    def __init__(self) -> None:
        self.state = "running"
        self.written: list[tuple[str, dict[str, Any]]] = []

    def transaction(self) -> "Record":
        return self

    def __enter__(self) -> "Record":
        return self

    def __exit__(self, *_: object) -> None: ...

    def one(self, _: str, **__: Any) -> dict[str, Any]:
        return {"state": self.state, "id": "s"}

    def do(self, query: str, **values: Any) -> None:
        self.written.append((query, values))
        self.state = "technical_failure"


class Facility:
    """As much of a facility as `carry` touches."""

    def __init__(self) -> None:
        self.record = Record()


def carried(error: Exception, monkeypatch: pytest.MonkeyPatch, **options: Any) -> Facility:
    def step(_: Any) -> None:
        raise error

    monkeypatch.setitem(module.STEPS, "running", step)
    facility = Facility()
    module.carry(facility, "s", **options)  # type: ignore[arg-type]
    return facility


@pytest.mark.parametrize(
    ("error", "ours"),
    [
        (Tampered("cohorts/c/1/inputs/00000 was changed"), True),
        (Refused("no seccomp here", code="sandbox_unavailable"), True),
        (Refused("answers differ", code="not_repeatable"), False),
        (ModelFailure("model_timeout"), False),
    ],
)
def test_the_attempt_comes_back_only_for_a_fault_of_the_facility(
    error: Exception, ours: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = dict(carried(error, monkeypatch).record.written)
    assert ("attempt_return" in written) == ours
    assert written["submission_failed"]["code"]


def test_what_may_pass_by_itself_is_raised_and_nothing_is_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(Unavailable):
        carried(Unavailable("the disk is full"), monkeypatch)


def test_an_unforeseen_error_is_retried_then_ended_and_its_text_is_never_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    error = KeyError("patient 0042 scored 0.97")
    with caplog.at_level(logging.DEBUG), pytest.raises(module.Unforeseen) as raised:
        carried(error, monkeypatch)
    assert "0042" not in "".join(traceback.format_exception(raised.value))
    with caplog.at_level(logging.DEBUG):
        facility = carried(error, monkeypatch, last_try=True)
    assert "0042" not in caplog.text
    assert "KeyError at" in caplog.text
    written = dict(facility.record.written)
    assert "0042" not in str(written)
    assert "attempt_return" in written
