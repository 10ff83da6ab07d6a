"""One call of a session whose tensors lie on a device: bound there, computed there, brought back.

    outputs = run_bound(session, {"image": images}, ["score"], "cuda")

Rules
-----
1. Every input is copied to where the session needs it once, before the call, into memory that
   counts towards the session's limit.
2. Outputs stay on the device until the call is over, and must lie there: a session that computed
   elsewhere would show here.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from serving.sandbox.providers import WrongProvider


def run_bound(
    session: Any,
    feeds: Mapping[str, Any],
    wanted: Sequence[str],
    device: str,
) -> list[Any]:
    """The wanted outputs as arrays of the host's memory, in that order.

    device: "cuda" (the one device that the process sees) or "cpu". Raises WrongProvider where an
    output lies elsewhere, and what onnxruntime raises.
    """
    binding = session.io_binding()
    for name, array in feeds.items():
        binding.bind_cpu_input(name, array)
    for name in wanted:
        binding.bind_output(name, device, 0)
    session.run_with_iobinding(binding)
    values = binding.get_outputs()
    for value in values:
        if value.device_name() != device:
            raise WrongProvider(f"an output lies on {value.device_name()}, not on {device}")
    return [value.numpy() for value in values]
