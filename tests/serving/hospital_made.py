"""Bundles of a hospital's server, and the server as a process that a test starts and stops."""

import datetime as dt
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from registry.trust.keys import pem_of
from serving.bundle.acknowledged import remember
from serving.bundle.pack import write_bundle
from tests.serving import certified
from tests.serving.server_process import ServerProcess
from validators.contract.schema import Contract
from validators.protocol.schema import Protocol

REPOSITORY = Path(__file__).parents[2]
CT = Contract.model_validate(
    {
        "id": "ct-and-age",
        "version": "1",
        "inputs": [
            {"name": "ct", "dtype": "float32", "shape": [1, 4, 6, 8], "unit": "HU",
             "minimum": -1024, "maximum": 3071,
             "image": {"modality": ["CT"], "orientation": "SPL", "spacing_mm": [2.0, 0.5, 0.75],
                       "values": "HU", "stored_as": "int16"}},
            {"name": "age", "dtype": "float32", "shape": [1], "minimum": 18, "maximum": 110},
        ],
        "outputs": [{"name": "probability", "dtype": "float32", "shape": [1]}],
        "score": "probability",
    }
)  # fmt: skip


def ct_model() -> bytes:
    """sigmoid(mean of the volume / 1000 + age / 100)."""
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["ct"], ["mean"], axes=[1, 2, 3, 4], keepdims=0),
            helper.make_node("Unsqueeze", ["mean", "one"], ["column"]),
            helper.make_node("Div", ["column", "thousand"], ["bright"]),
            helper.make_node("Div", ["age", "hundred"], ["old"]),
            helper.make_node("Add", ["bright", "old"], ["logit"]),
            helper.make_node("Sigmoid", ["logit"], ["probability"]),
        ],
        "ct",
        [
            helper.make_tensor_value_info("ct", TensorProto.FLOAT, ["n", 1, 4, 6, 8]),
            helper.make_tensor_value_info("age", TensorProto.FLOAT, ["n", 1]),
        ],
        [helper.make_tensor_value_info("probability", TensorProto.FLOAT, ["n", 1])],
        [
            numpy_helper.from_array(np.array([1], np.int64), "one"),
            numpy_helper.from_array(np.array([1000], np.float32), "thousand"),
            numpy_helper.from_array(np.array([100], np.float32), "hundred"),
        ],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    assert isinstance(made, onnx.ModelProto)
    return bytes(made.SerializeToString())


@contextmanager
def of_contract(contract: Contract) -> Iterator[None]:
    """`tests.serving.certified` makes bundles of another contract."""
    before = certified.CONTRACT, certified.PROTOCOL
    values = certified.PROTOCOL.model_dump(mode="json")
    certified.CONTRACT = contract
    certified.PROTOCOL = Protocol.model_validate(
        values | {"contract": contract.model_dump(mode="json")}
    )
    try:
        yield
    finally:
        certified.CONTRACT, certified.PROTOCOL = before


def write(tef: certified.Facility, data: bytes, directory: Path, **changes: Any) -> Path:
    """A signed bundle for the model `data`; beside it the root, and a state that knows its use.

    changes: `version`, `name` and `golden` vectors of another model; fields of the predicate.
    """
    files = certified.packed(data, golden=changes.pop("golden", None))
    named = {key: changes.pop(key) for key in ("version", "name") if key in changes}
    model = certified.predicate(files, tef.log).model.model_dump() | named
    signed = certified.signed(
        files, tef.log, tef.ada, tef.ben, logged={"at": dt.datetime.now(dt.UTC)}, model=model,
        **changes,
    )  # fmt: skip
    write_bundle(signed, directory)
    use = certified.predicate(files, tef.log, **changes).use
    remember(directory.parent / "state", use, "Clara", certified.NOW)
    root = directory.parent / "root.pem"
    root.write_bytes(pem_of(tef.root.certificate))
    return directory


class Running(ServerProcess):
    """`tests.serving.hospital_program`."""

    def __init__(
        self,
        directory: Path,
        root: Path,
        settings: Mapping[str, Any] | None = None,
        cwd: Path = REPOSITORY,
        **more: Any,
    ) -> None:
        given = {"directory": str(directory), "root": str(root), "settings": dict(settings or {})}
        given |= {name: str(value) for name, value in more.items()}
        program = "tests.serving.hospital_program"
        super().__init__(
            [sys.executable, "-P", "-m", program, json.dumps(given)],
            re.compile(r"on ((http|unix):\S+):"),
            cwd=cwd,
            env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        )
