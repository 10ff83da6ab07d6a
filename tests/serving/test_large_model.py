"""A model that was certified gets the memory that its size asks for, and no more than there is."""

from pathlib import Path
from typing import Any

import pytest

from serving.bundle.pack import write_bundle
from serving.bundle.verify import verify
from serving.sandbox import Limits, ModelFailure, Sandbox
from serving.sandbox.limits import MEBIBYTE, for_model
from serving.sandbox.machine import machine_bytes
from serving.worker import Worker
from tests.serving import certified
from tests.serving.certified import NOW

SMALL = Limits(memory_bytes=64 * MEBIBYTE)
GIBIBYTE = 1024 * MEBIBYTE


def test_the_limit_follows_the_size_within_the_machine() -> None:
    usual = Limits()
    assert for_model(usual, MEBIBYTE, 64 * GIBIBYTE) == usual
    assert for_model(usual, GIBIBYTE, 64 * GIBIBYTE).memory_bytes == 7 * GIBIBYTE
    assert for_model(usual, GIBIBYTE, 5 * GIBIBYTE).memory_bytes == 5 * GIBIBYTE
    assert for_model(usual, GIBIBYTE, 2 * GIBIBYTE) == usual, "never less than is set"
    assert GIBIBYTE // 4 < machine_bytes() < 1 << 50


def test_a_model_beyond_the_usual_limit_is_replayed_and_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The usual limit is made small here, in place of a model of 1 GB: `bench.verify` has one."""
    data = certified.model(extra=5_000_000)
    with Sandbox.start(SMALL) as sandbox, pytest.raises(ModelFailure):
        sandbox.load({"model.onnx": data})
    tef = certified.facility()
    golden = certified.golden_of({"model.onnx": certified.model()})  # the ballast adds nothing
    files = certified.packed(data, golden=golden)
    bundle = write_bundle(certified.signed(files, tef.log, tef.ada, tef.ben), tmp_path / "b")
    start, given = Sandbox.start, []

    def noted(limits: Limits, **more: Any) -> Sandbox:
        given.append(limits.memory_bytes)
        return start(limits, **more)

    monkeypatch.setattr(Sandbox, "start", noted)
    monkeypatch.setattr("serving.sandbox.limits.Limits", lambda: SMALL)
    root = tef.root.certificate
    verify(bundle, root, NOW, certified.TAKES).raise_if_failed()
    verified = verify(bundle, root, NOW, certified.TAKES, replay=False, keep=True)
    worker = Worker(verified, limits=SMALL, waiting=1, start_sandbox=noted)
    try:
        assert worker.start().cases > 0
    finally:
        worker.close()
    assert given == [for_model(SMALL, len(data), machine_bytes()).memory_bytes] * 2
