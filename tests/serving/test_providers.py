"""A model computes on what was asked for, with every option fixed, or it does not run."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest

from registry.trust.errors import Invalid, Unavailable
from serving.sandbox import Limits, Sandbox
from serving.sandbox.binding import run_bound
from serving.sandbox.device import Held, hold
from serving.sandbox.launch import LockedProcess
from serving.sandbox.machine import cpu_class, cpu_flags, recorded, this_cpu
from serving.sandbox.providers import (
    CPU,
    Provider,
    WrongProvider,
    check,
    open_session,
    require_built,
    require_runtime,
    session_options,
)
from serving.sandbox.residue import BLOCK_BYTES, FOUND, MARKER, holds_marker
from serving.sandbox.residue import main as residue_step
from serving.sandbox.warm_up import model as warm_up_model
from serving.sandbox.warm_up import warm_up
from tests.serving import hostile
from validators.evidence import Environment

ROOT = Path(__file__).resolve().parents[2]
CUDA = Provider("cuda", "0", 1 << 30)
UUID = "GPU-12345678-1234-1234-1234-123456789abc"


def test_every_option_that_moves_bits_on_cuda_is_set():
    assert CUDA.options() == {
        "device_id": "0",
        "gpu_mem_limit": str(1 << 30),
        "arena_extend_strategy": "kSameAsRequested",
        "cudnn_conv_algo_search": "HEURISTIC",
        "do_copy_in_default_stream": "1",
        "enable_cuda_graph": "0",
        "prefer_nhwc": "0",
        "tunable_op_enable": "0",
        "tunable_op_tuning_enable": "0",
        "use_tf32": "0",
    }
    assert CUDA.session_entries()["session.disable_cpu_ep_fallback"] == "1"
    assert CUDA.environment()["CUDA_VISIBLE_DEVICES"] == "0"
    assert CUDA.environment()["NVIDIA_TF32_OVERRIDE"] == "0"


def test_the_cpu_has_no_options_and_no_environment_of_its_own():
    assert (CPU.options(), CPU.environment()) == ({}, {})
    assert CPU.session_entries() == {"session.load_model_format": "ONNX"}


@pytest.mark.parametrize("provider", [CPU, CUDA])
def test_onnxruntime_takes_the_options_of_a_session(provider):
    options = session_options(onnxruntime, provider)
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (1, 1)
    assert options.use_deterministic_compute is True
    assert options.graph_optimization_level.name == "ORT_ENABLE_ALL"
    assert options.execution_mode.name == "ORT_SEQUENTIAL"
    for name, value in provider.session_entries().items():
        assert options.get_session_config_entry(name) == value


@pytest.mark.parametrize(
    "given",
    [("tpu",), ("cpu", "0"), ("cpu", "", 1), ("cuda",), ("cuda", "0", 1), ("cuda", "0,1", 1 << 30),
     ("cuda", "GPU-../../etc", 1 << 30)],
)  # fmt: skip
def test_a_provider_that_can_not_be_meant_is_refused(given):
    with pytest.raises(Invalid):
        Provider(*given)


def test_a_provider_crosses_to_the_process_whole():
    assert Provider.of(CUDA.wire()) == CUDA
    assert Provider("cuda", UUID, 1 << 30).environment()["CUDA_VISIBLE_DEVICES"] == UUID


SAID = {"CUDAExecutionProvider": CUDA.options() | {"another_option": "1"}}
BOTH = ["CUDAExecutionProvider", "CPUExecutionProvider"]


def test_a_session_that_is_what_was_asked_for_passes():
    check(CUDA, BOTH, SAID, {"CUDAExecutionProvider": 5})
    check(CUDA, BOTH[:1], SAID, {})
    check(CPU, ["CPUExecutionProvider"], {}, {})


@pytest.mark.parametrize(
    ("provider", "providers", "options", "nodes", "said"),
    [
        (CUDA, ["CPUExecutionProvider"], {}, {}, "runs on CPUExecutionProvider"),
        (CUDA, BOTH[::-1], SAID, {}, "runs on CPUExecutionProvider, CUDA"),
        (CUDA, ["TensorrtExecutionProvider", *BOTH], SAID, {}, "runs on Tensorrt"),
        (CUDA, BOTH, SAID, {BOTH[0]: 4, BOTH[1]: 1}, "a part of the model runs on CPU"),
        (CUDA, BOTH, {BOTH[0]: CUDA.options() | {"use_tf32": "1"}}, {}, "use_tf32 is 1"),
        (CUDA, BOTH, {}, {}, "the option device_id is None"),
        (CPU, BOTH, {}, {}, "runs on CUDA"),
        (CPU, ["AzureExecutionProvider", "CPUExecutionProvider"], {}, {}, "runs on Azure"),
    ],
)
def test_a_session_that_is_anything_else_is_refused(provider, providers, options, nodes, said):
    with pytest.raises(WrongProvider, match=said):
        check(provider, providers, options, nodes)


def test_a_build_that_lists_cuda_but_sees_no_device_is_refused():
    """What a build says of itself on a host without a GPU: of the two kinds, one can tell."""
    plug_in = _runtime("ORT Build Info: build type=Release, cuda-plugin-ep=0.1")
    require_built(plug_in, CUDA)
    require_runtime(plug_in, CPU)
    with pytest.raises(WrongProvider, match="sees no device for CUDAExecutionProvider"):
        require_runtime(plug_in, CUDA)
    require_runtime(_runtime("ORT Build Info: build type=Release"), CUDA)


def _runtime(build: str) -> SimpleNamespace:
    one = SimpleNamespace(ep_name="CPUExecutionProvider")
    return SimpleNamespace(
        __version__="1",
        get_available_providers=lambda: BOTH,
        get_ep_devices=lambda: [one],
        get_build_info=lambda: build,
    )


without_cuda = pytest.mark.skipif(
    "CUDAExecutionProvider" in onnxruntime.get_available_providers(),
    reason="this onnxruntime is built with CUDA",
)


@without_cuda
def test_without_cuda_in_the_build_a_process_is_refused_before_any_model_comes(tmp_path):
    held = Held(CUDA, "no such device", hold("test", tmp_path))
    with pytest.raises(Unavailable, match=r"is built without CUDA.*nothing runs on the CPU") as it:
        LockedProcess(Limits(), 1 << 16, CUDA, held)
    assert it.value.code == "provider_unavailable"
    assert held.descriptor == -1
    os.close(hold("test", tmp_path))  # free again: the process is gone


@pytest.mark.skipif(
    "CUDAExecutionProvider" not in onnxruntime.get_available_providers()
    or Path("/dev/nvidiactl").exists(),
    reason="for onnxruntime-gpu on a machine without a GPU",
)
def test_a_build_with_cuda_and_no_driver_is_refused_before_any_model_comes(tmp_path):
    """It lists CUDA as available; asked for a session, it would run on the CPU."""
    held = Held(CUDA, "no such device", hold("test", tmp_path))
    with pytest.raises(Unavailable, match=r"a part of the model on the CPU.*nothing runs") as it:
        LockedProcess(Limits(), 1 << 16, CUDA, held)
    assert it.value.code == "provider_unavailable"
    os.close(hold("test", tmp_path))


@without_cuda
def test_onnxruntime_itself_does_not_fall_back_when_told_not_to():
    with (
        pytest.warns(UserWarning, match="not in available provider"),
        pytest.raises(WrongProvider, match="would run a part of the model on the CPU"),
    ):
        open_session(onnxruntime, hostile.honest(), CUDA)


def test_a_sandbox_without_the_device_is_refused_by_name():
    if Path("/dev/nvidiactl").exists():
        pytest.skip("this machine has a GPU")
    with pytest.raises(Unavailable, match="CUDA was asked for") as caught:
        Sandbox.start(provider=CUDA)
    assert caught.value.code == "provider_unavailable"


def test_a_device_is_held_by_one_process_until_that_process_is_gone(tmp_path):
    descriptor = hold(UUID, tmp_path)
    with pytest.raises(Unavailable) as caught:
        hold(UUID, tmp_path)
    assert caught.value.code == "device_busy"
    other = hold("GPU-another", tmp_path)
    holder = subprocess.Popen(
        [sys.executable, "-c", "import sys; sys.stdin.read()"],
        stdin=subprocess.PIPE, pass_fds=(descriptor,),
    )  # fmt: skip
    os.close(descriptor)  # whoever started it is gone; the process computes on
    try:
        with pytest.raises(Unavailable):
            hold(UUID, tmp_path)
    finally:
        holder.kill()
        holder.wait()
        holder.stdin.close()
    os.close(hold(UUID, tmp_path))
    os.close(other)


def test_a_lock_that_somebody_made_a_link_is_not_followed(tmp_path):
    (tmp_path / f"touchstone-device-{UUID}.lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Unavailable, match="can't be opened"):
        hold(UUID, tmp_path)
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("cases", [0, 1, 7])
def test_a_bound_call_answers_as_a_plain_one(cases):
    session = open_session(onnxruntime, hostile.honest(), CPU)
    inputs = hostile.cases(cases)
    (bound,) = run_bound(session, inputs, ["score"], "cpu")
    (plain,) = session.run(["score"], inputs)
    assert bound.dtype == plain.dtype
    np.testing.assert_array_equal(bound, plain)


def test_our_own_model_for_the_device_gives_the_answer_that_it_must():
    assert warm_up(onnxruntime, CPU).get_providers() == ["CPUExecutionProvider"]
    with Sandbox.start() as sandbox:
        sandbox.load({"model.onnx": warm_up_model()})
        assert sandbox.run({"x": np.ones((1, 1, 4, 4), np.float32)})["y"].tolist() == [[36.0]]


def test_the_marker_is_found_where_it_is_and_nowhere_else():
    words = np.zeros(BLOCK_BYTES // 4, np.uint32)
    assert not holds_marker(words)
    words[-1] = MARKER
    assert holds_marker(words)
    assert residue_step("mark", 1, "cpu") == 0
    assert residue_step("look", 1, "cpu") in (0, FOUND)


@pytest.mark.parametrize(
    ("machine", "flags", "expected"),
    [
        ("x86_64", "fpu sse2", "x86-64 sse2"),
        ("x86_64", "sse2 avx avx2 fma", "x86-64 avx2"),
        ("x86_64", "avx avx2", "x86-64 avx"),
        ("x86_64", "avx2 fma avx512f avx512bw avx512dq avx512vl", "x86-64 avx512"),
        ("x86_64", "avx512f avx512bw avx512dq avx512vl avx512_vnni", "x86-64 avx512_vnni"),
        ("x86_64", "avx2 fma amx_tile amx_int8", "x86-64 amx"),
        ("aarch64", "fp asimd", "aarch64 asimd"),
        ("aarch64", "asimd asimddp", "aarch64 dotprod"),
        ("aarch64", "asimddp i8mm bf16", "aarch64 i8mm_bf16"),
        ("riscv64", "", "riscv64"),
    ],
)
def test_the_class_of_a_cpu_is_its_widest_instructions(machine, flags, expected):
    assert cpu_class(machine, set(flags.split())) == expected


def test_flags_are_those_that_every_core_has():
    text = "processor: 0\nflags\t\t: avx2 fma avx\nprocessor: 1\nflags\t\t: avx2 fma\nbugs: x\n"
    assert cpu_flags(text) == {"avx2", "fma"}
    assert cpu_flags("Features\t: asimd asimddp\n") == {"asimd", "asimddp"}


def test_the_evidence_says_what_computed_and_an_older_report_stays_as_it_was():
    with Sandbox.start() as sandbox:
        found = dict(sandbox.execution)
    assert found == recorded(CPU, this_cpu())
    assert found["class"].split()[0] in ("x86-64", "aarch64")
    assert found["intra_op_threads"] == 1
    assert found["deterministic_compute"] is True
    on_cuda = recorded(Provider("cuda", UUID, 1 << 30), "NVIDIA H100, driver 580.1")
    assert on_cuda["device"] == f"cuda:{UUID}"
    assert on_cuda["cuda_use_tf32"] == "0"
    assert "execution" not in Environment(versions={}).model_dump(mode="json")
    whole = Environment(versions={}, execution=on_cuda)
    assert Environment.model_validate_json(whole.model_dump_json()) == whole


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--provider", "cuda", "--most-models", "2"], "a model has a CUDA device alone"),
        (["--device", "0"], "the provider cpu has no device"),
        (["--provider", "cuda", "--device", "x"], "a CUDA device is a number"),
    ],
)
def test_the_inference_server_takes_a_device_for_one_model_alone(arguments, said, tmp_path, capsys):
    from serving.inference.server import main

    (tmp_path / "token").write_text("a-token-of-a-test-that-is-long-enough\n")
    given = ["--models", str(tmp_path), "--token", str(tmp_path / "token"), "--port", "0"]
    assert main([*given, *arguments]) == 1
    assert said in capsys.readouterr().err
