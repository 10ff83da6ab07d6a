"""The process that holds an untrusted model. Nothing else opens one.

    with Sandbox.start(Limits(wall_seconds=10)) as sandbox:
        description = sandbox.inspect(files)      # ModelDescription, or ModelFailure
        sandbox.load(files)                       # SessionInfo
        outputs = sandbox.run({"image": images})  # {name: array}, to be checked:
        check_outputs(contract, outputs, len(images))

Rules
-----
1. The process locks itself down before it receives a byte of the model.
2. Every byte that comes back is taken for hostile.
3. Names are resolved on first use, so that the process itself, which imports this package too,
   loads nothing of the trusted side.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from serving.sandbox.failures import ModelFailure
    from serving.sandbox.limits import Limits
    from serving.sandbox.outputs import check_outputs
    from serving.sandbox.process import Sandbox, SessionInfo

__all__ = ["Limits", "ModelFailure", "Sandbox", "SessionInfo", "check_outputs"]

_HOMES = {
    "Limits": "limits",
    "ModelFailure": "failures",
    "Sandbox": "process",
    "SessionInfo": "process",
    "check_outputs": "outputs",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
