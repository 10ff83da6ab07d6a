"""Does a device give one process what another left in its memory? Asked before models share it.

    check_residue(provider)        # raises Unavailable (device_residue), or says nothing

Rules
-----
1. Two processes of ours, one after the other, hold the device under its lock. The first fills
   memory with a marker and ends. The second takes as much memory without writing to it, and looks.
2. One word of the marker is enough to refuse the device: the driver, or the slice, does not clear.
3. It shows that memory is cleared between processes here and now; it can't show that it always is.
"""

import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from registry.trust.errors import Unavailable
from serving.sandbox.device import NO_DEVICE, Held, claim
from serving.sandbox.launch import ENVIRONMENT
from serving.sandbox.providers import Provider

MARKER: Final = 0x7C51_0E5D
BLOCK_BYTES: Final = 64 << 20
SECONDS: Final = 120
FOUND, CLEAN, FAILED = 3, 0, 1
_ROOT: Final = Path(__file__).resolve().parents[2]
_PROGRAM: Final = (
    "import sys; sys.path.insert(0, sys.argv[1]); "
    "from serving.sandbox.residue import main; sys.exit(main(sys.argv[2], int(sys.argv[3])))"
)


def check_residue(provider: Provider) -> None:
    """Mark half of the provider's memory in one process, look for it in the next.

    Raises Unavailable: device_residue where the marker is still there, provider_unavailable where
    the device could not be asked, device_busy while a model has it.
    """
    with claim(provider) as held:
        blocks = str(max(1, provider.memory_bytes // 2 // BLOCK_BYTES))
        for step in ("mark", "look"):
            done = _ask(held, step, blocks)
            if done.returncode == FOUND:
                raise Unavailable(
                    "the device gives a process what another one left in its memory: no model is "
                    "run there",
                    code="device_residue",
                )
            if done.returncode != CLEAN:
                said = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
                raise Unavailable(f"the device can't be asked: {said}", code=NO_DEVICE)


def _ask(held: Held, step: str, blocks: str) -> "subprocess.CompletedProcess[str]":
    try:
        return subprocess.run(
            [sys.executable, "-I", "-c", _PROGRAM, str(_ROOT), step, blocks],
            env=ENVIRONMENT | held.provider.environment(), cwd="/", timeout=SECONDS,
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
            pass_fds=(held.descriptor,),
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"the device gave no answer in {SECONDS} s", code=NO_DEVICE) from error


def main(step: str, blocks: int, device: str = "cuda") -> int:
    """In a process of its own: `mark` fills memory of the device, `look` looks; the exit status."""
    import onnxruntime

    if device == "cuda":
        from serving.sandbox.warm_up import load_libraries

        load_libraries(onnxruntime)
    value = onnxruntime.OrtValue
    words = BLOCK_BYTES // 4
    if step == "mark":
        full = np.full(words, MARKER, np.uint32)
        kept = [value.ortvalue_from_numpy(full, device, 0) for _ in range(blocks)]
        ends = (kept[0], kept[-1])
        return CLEAN if all(_marked(end, device) for end in ends) else FAILED
    taken = [
        value.ortvalue_from_shape_and_type([words], np.uint32, device, 0) for _ in range(blocks)
    ]
    return FOUND if any(holds_marker(block.numpy()) for block in taken) else CLEAN


def holds_marker(words: NDArray[np.uint32]) -> bool:
    """Whether the marker is among the words."""
    return bool((words == MARKER).any())


def _marked(block: Any, device: str) -> bool:
    """Whether the block lies where it was to, and holds what was written."""
    return block.device_name() == device and holds_marker(block.numpy())
