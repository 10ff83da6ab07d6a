"""A model of our own, run on a device before the doors close and before any other model comes.

    kept = warm_up(onnxruntime, provider)     # raises WrongProvider

Rules
-----
1. It is what opens the driver, its context and the libraries of convolutions and matrix products,
   all of which need files and threads that are out of reach later.
2. Its answer is known: a device that computes something else runs no model.
3. Its session is kept, so that the driver closes nothing.
"""

import contextlib
import ctypes
import importlib.util
from pathlib import Path
from typing import Any, Final

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from serving.sandbox.binding import run_bound
from serving.sandbox.providers import Provider, WrongProvider, open_session, require_runtime

ANSWER: Final = 36.0
"""Four windows of nine ones, each weighed with 1: exact in any arithmetic."""


def load_libraries(runtime: Any) -> None:
    """Load CUDA and cuDNN from their packages, while files can still be opened.

    `preload_dlls` leaves out the parts of cuDNN that are loaded when first needed.
    """
    runtime.preload_dlls()
    package = importlib.util.find_spec("nvidia")
    for folder in (package.submodule_search_locations or []) if package else []:
        for path in sorted(Path(folder).glob("cudnn/lib/libcudnn*.so.9")):
            with contextlib.suppress(OSError):  # one that is missing shows when it is needed
                ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)


def warm_up(runtime: Any, provider: Provider) -> Any:
    """Open the model on the provider and ask it; the session, to be kept.

    Raises WrongProvider, with what onnxruntime said, where it does not run or answers wrongly.
    """
    require_runtime(runtime, provider)
    try:
        session = open_session(runtime, model(), provider)
        ones = {"x": np.ones((1, 1, 4, 4), np.float32)}
        (answer,) = run_bound(session, ones, ["y"], provider.place)
    except WrongProvider as error:
        raise WrongProvider(
            f"{error} (are the driver, CUDA 13 and cuDNN 9 there, and may this account use them?)"
        ) from error
    except Exception as error:
        said = " ".join(str(error).split())[:300]
        raise WrongProvider(f"{provider.name} does not run a model of our own: {said}") from error
    if answer.tolist() != [[ANSWER]]:
        raise WrongProvider(f"{provider.name} gives a wrong answer to a model of our own")
    return session


def model() -> bytes:
    """A convolution, a rectifier and a matrix product: y = 36 for an image of ones."""
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "kernel"], ["windows"], kernel_shape=[3, 3]),
            helper.make_node("Relu", ["windows"], ["positive"]),
            helper.make_node("Flatten", ["positive"], ["flat"]),
            helper.make_node("MatMul", ["flat", "ones"], ["y"]),
        ],
        "warm_up",
        [value("x", TensorProto.FLOAT, ["batch", 1, 4, 4])],
        [value("y", TensorProto.FLOAT, ["batch", 1])],
        [
            numpy_helper.from_array(np.ones((1, 1, 3, 3), np.float32), "kernel"),
            numpy_helper.from_array(np.ones((4, 1), np.float32), "ones"),
        ],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(made.SerializeToString())
