"""The golden replay as a step of `verify`: it needs parts that the base install lacks.

Where they are missing it is said which, and nothing is passed over in silence.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from registry.trust.errors import Refused, Unavailable
from serving.bundle.layout import model_names
from validators.contract.schema import Contract

if TYPE_CHECKING:
    from serving.sandbox import Sandbox

SandboxFactory = Callable[[], AbstractContextManager["Sandbox"]]


def replayed(
    files: Mapping[str, bytes],
    contract: Contract,
    tolerance: float,
    sandbox_factory: SandboxFactory | None,
) -> str:
    """Load the model of `files` in a sandbox and replay the golden vectors; a sentence on how near.

    Raises Unavailable (golden_unavailable) where parts are missing, what `golden.replay` raises.
    """
    try:
        from serving.bundle.golden_replay import replay
        from serving.sandbox.failures import ModelFailure

        if sandbox_factory is None:
            from serving.sandbox.limits import Limits, for_model
            from serving.sandbox.machine import machine_bytes
            from serving.sandbox.process import Sandbox
    except ImportError as error:
        raise Unavailable(
            f"the golden vectors can't be replayed here ({error.name or 'a part'} is missing): "
            "install touchstone-tef[hospital] on Linux, or leave the replay out knowingly with "
            "--skip-golden",
            code="golden_unavailable",
        ) from error
    model = {name: files[path] for name, path in model_names(files).items()}
    if sandbox_factory is not None:
        started = sandbox_factory()
    else:
        size = sum(map(len, model.values()))
        started = Sandbox.start(for_model(Limits(), size, machine_bytes()))
    with started as sandbox:
        try:
            sandbox.load(model)
            result = replay(sandbox, files, contract, tolerance)
        except ModelFailure as failure:
            raise Refused(
                f"the certified model does not run here: {failure.message}", code="golden_failed"
            ) from failure
    return (
        f"{result.cases} made-up cases in {result.calls} calls, at most "
        f"{result.largest_difference:.2g} from the facility's scores ({tolerance:.2g} allowed)"
    )
