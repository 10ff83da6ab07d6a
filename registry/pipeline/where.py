"""Where a model runs: in a process that this worker starts, or at the facility's inference server.

    >>> with start_model(facility) as model:
    ...     model.load(files)

Rules
-----
1. What comes out is the same to the byte, and so is the evidence: level and versions are those of
   the process that ran. How its inputs travelled is noted beside the step, not in the report.
2. The canary takes the way that models take. So a server that is away, or that can't run our own
   model, is found before anything is decrypted, and is never a model's fault.
3. On a CUDA device (TOUCHSTONE_DEVICE) a model has the device alone, and nothing runs on the CPU in
   its place.
4. A file that nobody has taken in yet is inspected by a process of the worker's own.
"""

from registry.facility import Facility
from registry.settings import Settings
from registry.trust.errors import Invalid, Refused
from serving.calls import Model
from serving.inference.access import read_token
from serving.inference.line import Address
from serving.inference.remote import RemoteSandbox
from serving.sandbox.process import Sandbox
from serving.sandbox.providers import CPU, DEVICE_MEMORY, Provider


def start_model(facility: Facility, *, allow_unsandboxed: bool = False) -> Model:
    """A fresh place for one model. Raises Unavailable, Refused (sandbox_unavailable)."""
    named = server_of(facility.settings)
    if named is None:
        return Sandbox.start(
            allow_unsandboxed=allow_unsandboxed, provider=provider_of(facility.settings)
        )
    remote = RemoteSandbox.start(*named)
    if not remote.level.get("seccomp") and not allow_unsandboxed:
        raise Refused(
            "the inference server runs models without seccomp: start it without "
            "--allow-unsandboxed, or this worker with it (the result can't be certified)",
            code="sandbox_unavailable",
        )
    return remote


def provider_of(settings: Settings) -> Provider:
    """What computes in this worker's own processes. Raises Invalid."""
    if settings.device is None:
        return CPU
    return Provider("cuda", settings.device, DEVICE_MEMORY)


def server_of(settings: Settings) -> tuple[str, str] | None:
    """Address and token of the inference server; None where none is named. Raises Invalid."""
    if settings.inference is None:
        return None
    if settings.device is not None:
        raise Invalid(
            "TOUCHSTONE_INFERENCE and TOUCHSTONE_DEVICE name two places for a model: set one"
        )
    Address.of(settings.inference)
    if settings.inference_token is None:
        raise Invalid(
            "TOUCHSTONE_INFERENCE names a server: TOUCHSTONE_INFERENCE_TOKEN_FILE must name the "
            "file with its token"
        )
    return settings.inference, read_token(settings.inference_token)


def way_of(model: Model) -> str:
    """How inputs travel to the model: process, shared memory, unix or tcp."""
    return model.transport if isinstance(model, RemoteSandbox) else "process"
