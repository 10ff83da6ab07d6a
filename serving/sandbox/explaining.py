"""A sandbox that says why a call failed, for made-up cases on their maker's own machine.

    with ExplainingSandbox.start(allow_unsandboxed=True) as sandbox:
        sandbox.load(files)
        predict(sandbox, made_up_shards, contract)
    sandbox.reasons        # {("model_raised", "… Gather … index out of bounds"): 3}

Rules
-----
1. It runs a model as `Sandbox` does; the one difference is that text of the runtime comes out when
   a call fails. That text can hold values of the inputs, so no facility ever starts one.
2. Each reason is kept once, with how often it came; at most 50 different ones.
"""

from collections import Counter
from typing import Any, ClassVar

from numpy.typing import NDArray

from serving.sandbox.failures import ModelFailure
from serving.sandbox.limits import Limits
from serving.sandbox.process import Sandbox
from serving.sandbox.providers import CPU, Provider

_MOST = 50


class ExplainingSandbox(Sandbox):
    """`reasons` counts what failed calls said, by (code, text)."""

    EXPLAINS: ClassVar[bool] = True

    def __init__(
        self,
        limits: Limits,
        *,
        allow_unsandboxed: bool,
        landlock_abi: int,
        provider: Provider = CPU,
    ) -> None:
        super().__init__(
            limits,
            allow_unsandboxed=allow_unsandboxed,
            landlock_abi=landlock_abi,
            provider=provider,
        )
        self.reasons: Counter[tuple[str, str]] = Counter()

    def finish(self) -> dict[str, NDArray[Any]]:
        """The answer of the call that began first; a failure's reason is kept."""
        try:
            return super().finish()
        except ModelFailure as failure:
            said = (failure.code, failure.detail)
            if said in self.reasons or len(self.reasons) < _MOST:
                self.reasons[said] += 1
            raise
