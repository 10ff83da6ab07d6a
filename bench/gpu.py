"""What a GPU brings: images a second, IO binding on and off, sameness, difference to the CPU.

    .venv/bin/python -m bench.gpu             # with the packages of requirements/gpu.lock
    .venv/bin/python -m bench.gpu --device 1

Bare sessions with the facility's options (`serving.sandbox.providers`) in this process, on a device
that it holds alone; then the sandbox. Rounds with and without binding take turns; numbers are
medians. Where there is no GPU it says why in one line.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import onnxruntime

from bench.networks import IMAGE, resnet_18, small_cnn
from registry.trust.errors import TouchstoneError
from serving.sandbox import Sandbox
from serving.sandbox.binding import run_bound
from serving.sandbox.device import claim
from serving.sandbox.machine import this_cpu
from serving.sandbox.providers import (
    CPU,
    DEVICE_MEMORY,
    Provider,
    WrongProvider,
    open_session,
    require_built,
    require_runtime,
)
from serving.sandbox.residue import check_residue
from serving.sandbox.warm_up import load_libraries

BATCHES = (1, 8, 64)
ROUNDS = 15
RUNS = 20


def main(arguments: list[str] | None = None) -> int:
    """Print every number, or why there is none; always exit status 0 without a GPU."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu")
    parser.add_argument("--device", default="0")
    provider = Provider("cuda", parser.parse_args(arguments).device, DEVICE_MEMORY)
    try:
        require_built(onnxruntime, provider)
        with claim(provider) as held:
            print(f"device   {held.machine_class}")
        check_residue(provider)
        print("residue  none found")
    except (TouchstoneError, WrongProvider) as error:
        print(f"no GPU was measured: {error}")
        return 0
    print(f"CPU      {this_cpu()}, one thread")
    sandboxed(provider)
    with claim(provider) as held:
        os.environ.update(held.provider.environment())
        load_libraries(onnxruntime)
        require_runtime(onnxruntime, held.provider)
        for name, data in (("small-cnn", small_cnn()), ("resnet-18", resnet_18())):
            bare(name, data, held.provider)
    return 0


def bare(name: str, data: bytes, provider: Provider) -> None:
    """One network: speed at each batch, sameness over runs, difference to the CPU."""
    on_gpu = open_session(onnxruntime, data, provider)
    on_cpu = open_session(onnxruntime, data, CPU)
    for batch in BATCHES:
        feeds = {"x": images(batch)}
        plain, bound = alternate(
            partial(on_gpu.run, ["score"], feeds),
            partial(run_bound, on_gpu, feeds, ["score"], "cuda"),
        )
        cpu = seconds(partial(on_cpu.run, ["score"], feeds))
        print(
            f"{name:10} batch {batch:3}  {batch / bound:9.0f} images/s bound  "
            f"{batch / plain:9.0f} not bound  {batch / cpu:7.0f} on the CPU"
        )
    feeds = {"x": images(BATCHES[-1])}
    answers = [run_bound(on_gpu, feeds, ["score"], "cuda")[0] for _ in range(RUNS)]
    anew = open_session(onnxruntime, data, provider)
    answers.append(run_bound(anew, feeds, ["score"], "cuda")[0])
    different = len({answer.tobytes() for answer in answers})
    (reference,) = on_cpu.run(["score"], feeds)
    apart = float(np.abs(answers[0] - reference).max())
    print(f"{name:10} {RUNS} runs and one of a second session: {different} different answers")
    print(f"{name:10} largest difference to the CPU of a score in [0, 1]: {apart:.2g}")


def sandboxed(provider: Provider) -> None:
    """What a caller of the sandbox gets, start and all."""
    started = time.perf_counter()
    with Sandbox.start(provider=provider) as sandbox:
        print(f"sandbox  starts in {time.perf_counter() - started:.2f} s: {sandbox.level}")
        sandbox.load({"model.onnx": resnet_18()})
        for batch in BATCHES:
            inputs = {"x": images(batch)}
            sandbox.run(inputs)
            took = seconds(partial(sandbox.run, inputs))
            print(f"resnet-18  batch {batch:3}  {batch / took:9.0f} images/s through the sandbox")


def images(count: int) -> np.ndarray[Any, Any]:
    """Random images."""
    random = np.random.default_rng(count)
    return random.normal(size=(count, *IMAGE)).astype(np.float32)


def seconds(call: Callable[[], object]) -> float:
    """The median time of a call, after one that is not counted."""
    call()
    return statistics.median(timed(call) for _ in range(ROUNDS))


def alternate(first: Callable[[], object], second: Callable[[], object]) -> tuple[float, float]:
    """The median times of two calls that take turns, after one of each that is not counted."""
    first(), second()
    rounds = [(timed(first), timed(second)) for _ in range(ROUNDS)]
    return statistics.median(a for a, _ in rounds), statistics.median(b for _, b in rounds)


def timed(call: Callable[[], object]) -> float:
    """Wall-clock time of one call."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


if __name__ == "__main__":
    sys.exit(main())
