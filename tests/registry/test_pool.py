"""How many processes a run gets."""

import os
from pathlib import Path

import pytest

from registry.pipeline.pool import cores


@pytest.mark.parametrize(
    ("said", "expected"),
    [("50000 100000", 1), ("100000 100000", 1), ("150000 100000", 2), ("max 100000", None),
     ("", None), ("rubbish", None)],
)  # fmt: skip
def test_a_quota_of_the_control_group_counts(tmp_path: Path, said: str, expected: int | None):
    own = len(os.sched_getaffinity(0))
    (tmp_path / "cpu.max").write_text(said + "\n")
    assert cores(tmp_path / "cpu.max") == (own if expected is None else min(own, expected))
    assert cores(tmp_path / "missing") == own
