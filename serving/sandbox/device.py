"""One GPU or MIG slice, held by one process at a time.

    with claim(Provider("cuda", device="0", memory_bytes=8 << 30)) as held:
        held.provider       # the device by its UUID
        held.machine_class  # "NVIDIA H100 80GB HBM3, driver 580.95.05"

Rules
-----
1. A device has one name, its UUID, whatever it was called; a GPU that is cut into slices is
   refused as a whole.
2. The lock is the kernel's (flock on one file a device), and the process that computes holds it:
   it is free once that process is gone, also when whoever started it died before.
3. Waiting is for whoever asks: a device in use is Unavailable (device_busy) at once.
"""

import contextlib
import fcntl
import os
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any, Final, Self

from registry.trust.errors import Unavailable
from serving.sandbox.providers import Provider

LOCKS: Final = Path("/tmp")  # noqa: S108  the one folder that every account of a host can write
_PACKAGES: Final = (
    "nvidia-cublas",
    "nvidia-cuda-runtime",
    "nvidia-cudnn-cu13",
    "nvidia-cufft",
    "nvidia-curand",
)
NO_DEVICE: Final = "provider_unavailable"


@dataclass
class Held:
    """A device that is held until `close`, and until every process with `descriptor` is gone."""

    provider: Provider
    machine_class: str
    descriptor: int

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give this side's share of the lock back. Safe to call twice."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


def claim(provider: Provider) -> Held:
    """Hold the device of a CUDA provider.

    Raises Unavailable: provider_unavailable without driver or device, device_busy while another
    process holds it.
    """
    uuid, machine_class = describe(provider.device)
    return Held(replace(provider, device=uuid), machine_class, hold(uuid))


def hold(uuid: str, folder: Path = LOCKS) -> int:
    """The descriptor whose lock is the device's; Unavailable (device_busy) while it is held."""
    path = folder / f"touchstone-device-{uuid}.lock"
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        try:
            descriptor = os.open(path, flags)
        except FileNotFoundError:
            with contextlib.suppress(FileExistsError):
                os.close(os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o444))
            descriptor = os.open(path, flags)
    except OSError as error:
        raise Unavailable(f"the lock {path} can't be opened: remove it", code=NO_DEVICE) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise Unavailable(
            f"the device {uuid} is in use by another model: each has it alone", code="device_busy"
        ) from error
    return descriptor


def describe(device: str) -> tuple[str, str]:
    """A device's UUID, and its name with its driver; Unavailable where it is not there."""
    try:
        import pynvml
    except ImportError as error:
        raise Unavailable(
            "CUDA was asked for, and this host has no nvidia-ml-py: install the extra [gpu]",
            code=NO_DEVICE,
        ) from error
    try:
        pynvml.nvmlInit()
        try:
            handle = _handle(pynvml, device)
            if not device.startswith("MIG") and _is_cut(pynvml, handle):
                raise Unavailable(
                    f"the GPU {device} is cut into MIG slices: name one, as nvidia-smi -L says",
                    code=NO_DEVICE,
                )
            name, driver = pynvml.nvmlDeviceGetName(handle), pynvml.nvmlSystemGetDriverVersion()
            return pynvml.nvmlDeviceGetUUID(handle), f"{name}, driver {driver}"
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError as error:
        raise Unavailable(
            f"CUDA was asked for, and there is no device {device} here ({error}): nothing runs on "
            "the CPU in its place",
            code=NO_DEVICE,
        ) from error


def libraries() -> dict[str, str]:
    """The versions of CUDA's packages that are installed, for the evidence."""
    found = {}
    for name in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def _handle(nvml: Any, device: str) -> Any:
    if device.isdigit():
        return nvml.nvmlDeviceGetHandleByIndex(int(device))
    return nvml.nvmlDeviceGetHandleByUUID(device)


def _is_cut(nvml: Any, handle: Any) -> bool:
    try:
        return bool(nvml.nvmlDeviceGetMigMode(handle)[0])
    except nvml.NVMLError:
        return False  # a device that can't be cut
