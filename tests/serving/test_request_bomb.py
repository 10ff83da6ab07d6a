"""A request costs memory in proportion to its own size."""

import json
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from registry.trust.errors import Invalid
from serving import wire
from serving.inference.json_tensors import from_json
from tests.serving.certified import CONTRACT

TEXT = ["x" * 20_000, *range(5_000)]
"""40 kB of JSON; as an array every number would be as wide as the text: 400 MB."""


def named() -> None:
    body = json.dumps({"inputs": {"image": TEXT, "descriptors": [[1, 2, 3]]}}).encode()
    wire.named_inputs(CONTRACT, wire.parse(CONTRACT, body))


def protocol() -> None:
    row: dict[str, Any] = {"name": "image", "shape": [1, 1, 8, 8], "datatype": "FP32"}
    wire.protocol_inputs(CONTRACT, {"inputs": [row | {"data": TEXT}, row | {
        "name": "descriptors", "data": [1, 2, 3]}]})  # fmt: skip


def inference() -> None:
    from_json(TEXT, np.dtype("float32"), (5001,))


@pytest.mark.parametrize("ask", [named, protocol, inference])
def test_one_long_text_among_numbers_is_refused_before_an_array_is_made(
    ask: Callable[[], None],
) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(Invalid) as caught:
            ask()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert caught.value.code in ("input_dtype", "bad_data")
    assert peak < 4_000_000
