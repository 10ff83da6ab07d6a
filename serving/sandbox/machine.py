"""The class of machine within which the same model gives the same bytes.

    >>> cpu_class("x86_64", {"avx2", "fma"})
    'x86-64 avx2'

Rules
-----
1. The class of a CPU is its architecture and the widest instructions that onnxruntime has own
   kernels for; two machines of one class take the same way through them.
2. The class of a GPU is its name and its driver.
3. Bytes are promised within one class, a contract's tolerance across.
"""

import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from serving.sandbox.batch import BATCH_BYTES, MOST_CASES
from serving.sandbox.providers import GRAPH_LEVEL, SESSION, Provider

Recorded = dict[str, int | bool | str]

_X86: Final = (
    ("amx", {"amx_tile", "amx_int8"}),
    ("avx512_vnni", {"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni"}),
    ("avx512", {"avx512f", "avx512bw", "avx512dq", "avx512vl"}),
    ("avx_vnni", {"avx2", "fma", "avx_vnni"}),
    ("avx2", {"avx2", "fma"}),
    ("avx", {"avx"}),
)
_ARM: Final = (
    ("sme", {"sme"}),
    ("i8mm_bf16", {"i8mm", "bf16", "asimddp"}),
    ("dotprod", {"asimddp"}),
)
_ARCHITECTURES: Final = {
    "x86_64": ("x86-64", _X86, "sse2"),
    "amd64": ("x86-64", _X86, "sse2"),
    "aarch64": ("aarch64", _ARM, "asimd"),
    "arm64": ("aarch64", _ARM, "asimd"),
}


def cpu_class(machine: str, flags: set[str]) -> str:
    """Of a CPU: `machine` as uname says, `flags` as /proc/cpuinfo lists them."""
    if machine.lower() not in _ARCHITECTURES:
        return machine
    name, classes, least = _ARCHITECTURES[machine.lower()]
    return f"{name} {next((word for word, needs in classes if needs <= flags), least)}"


def cpu_flags(text: str) -> set[str]:
    """The flags that every core has, of the text of /proc/cpuinfo."""
    rows = [line.partition(":") for line in text.splitlines()]
    found = [set(value.split()) for key, _, value in rows if key.strip() in ("flags", "Features")]
    return set.intersection(*found) if found else set()


def this_cpu() -> str:
    """The class of the CPU that this runs on."""
    return cpu_class(platform.machine(), cpu_flags(Path("/proc/cpuinfo").read_text()))


IMAGE = "TOUCHSTONE_IMAGE_DIGEST"
"""The variable by which a deployment says which container image it runs: sha256:…"""


def recorded(
    provider: Provider, machine_class: str, environment: Mapping[str, str] = os.environ
) -> Recorded:
    """All that decides the bits of an answer beside model and versions, for the evidence; and the
    container's image, where the deployment names it."""
    image = environment.get(IMAGE, "")
    return {
        **({"image": image} if image else {}),
        "provider": provider.name,
        "class": machine_class,
        "device": f"{provider.kind}:{provider.device}" if provider.on_device else provider.kind,
        "graph_optimization": GRAPH_LEVEL.removeprefix("ORT_ENABLE_").lower(),
        "intra_op_threads": SESSION["intra_op_num_threads"],
        "inter_op_threads": SESSION["inter_op_num_threads"],
        "deterministic_compute": SESSION["use_deterministic_compute"],
        "batch_bytes": BATCH_BYTES,
        "batch_most_cases": MOST_CASES,
        **{f"{provider.kind}_{name}": text for name, text in provider.options().items()},
    }


def machine_bytes() -> int:
    """The memory of this machine, or of the container that this process is in."""
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text()
    except OSError:
        return whole
    return min(whole, int(limit)) if limit.strip().isdigit() else whole
