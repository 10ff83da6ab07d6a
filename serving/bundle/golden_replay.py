"""Golden vectors replayed: does this machine compute what was certified?

    replay(sandbox, files, contract, tolerance=1e-5)           # ReplayResult, or Refused

Rules
-----
1. The cases run as they were recorded: same batches, same orders; images from their files.
2. A score farther from the recorded one than the tolerance ends the replay, and so does anything
   else that is not as it should be: there is no partial success.
3. The tolerance is that of the provider which computes here; a provider without one is refused.
   None exceeds the certificate's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from registry.trust.errors import Invalid, Refused
from serving.bundle.golden_answers import Runner, answers_of, distance, read_raw
from serving.bundle.golden_files import Arrays, Golden, GoldenRun, maps_in, parsed
from serving.bundle.layout import GOLDEN_MAPS, GOLDEN_RAW_MAPS
from serving.sandbox.providers import NAMES
from validators.contract.schema import Contract


@dataclass(frozen=True)
class ReplayResult:
    """A replay within tolerance: cases, calls of the model, and the largest difference."""

    cases: int
    calls: int
    largest_difference: float


def replay(
    sandbox: Runner, files: Mapping[str, bytes], contract: Contract, tolerance: float
) -> ReplayResult:
    """Run the golden cases of `files` again, exactly as they were recorded.

    tolerance: the certificate's, which no provider's exceeds. Raises Refused (golden_mismatch)
    beyond the tolerance, Refused (golden_no_tolerance) on a provider that has none, Tampered
    (golden_malformed) when the files do not fit the contract, ModelFailure when the model fails.
    """
    golden, arrays = parsed(files, contract)
    allowed = min(tolerance, _tolerance_of(sandbox, golden))
    cases = len(golden.runs[0].order)
    masks = None
    if golden.least_dice is not None:
        masks = maps_in(files.get(GOLDEN_MAPS), cases, contract)
    calls, largest = _replayed(sandbox, golden, golden.runs, arrays, masks, contract, allowed)
    if golden.raw:
        try:
            read = read_raw(files, contract, golden.raw, arrays)
        except Invalid as error:
            raise Refused(
                f"a golden image that was read at the facility can't be read here: {error.message}",
                code="golden_mismatch",
            ) from error
        if masks is not None:
            masks = maps_in(files.get(GOLDEN_RAW_MAPS), len(golden.raw), contract)
        more = _replayed(sandbox, golden, golden.raw_runs, read, masks, contract, allowed)
        calls, largest = calls + more[0], max(largest, more[1])
    return ReplayResult(cases + len(golden.raw), calls, largest)


def _tolerance_of(sandbox: Runner, golden: Golden) -> float:
    name = sandbox.execution.get("provider")
    kind = next((kind for kind, known in NAMES.items() if known == name), None)
    if kind is None or kind not in golden.tolerances:
        raise Refused(
            "the certificate states no tolerance for what computes here "
            f"({str(name)[:40]!a}): use a provider that it names, or ask the facility",
            code="golden_no_tolerance",
        )
    return golden.tolerances[kind]


def _replayed(
    sandbox: Runner,
    golden: Golden,
    runs: Sequence[GoldenRun],
    arrays: Arrays,
    masks: NDArray[np.uint8] | None,
    contract: Contract,
    allowed: float,
) -> tuple[int, float]:
    """(calls, largest difference) of these runs, or Refused."""
    largest, calls = 0.0, 0
    for run in runs:
        expected, position = np.array(run.scores), 0
        for scores, maps in answers_of(sandbox, arrays, contract, run.batch, run.order):
            part = slice(position, position + len(scores))
            differ, dice = float(np.abs(scores - expected[part]).max()), 1.0
            if masks is not None and maps is not None:
                share, dice = distance(masks[list(run.order[part])], maps)
                differ = max(differ, share)
            largest = max(largest, differ)
            position, calls = position + len(scores), calls + 1
            # Written so that a NaN, which no comparison admits, fails as well.
            if not largest <= allowed:
                raise _mismatch(f"at a distance of {largest:.3g}", f"{allowed:.3g} is allowed")
            if not dice >= (golden.least_dice or 0.0):
                raise _mismatch(f"with a Dice of {dice:.3g}", f"{golden.least_dice:.3g} is least")
    return calls, largest


def _mismatch(found: str, allowed: str) -> Refused:
    return Refused(
        f"a golden case answered {found} from what was recorded at the facility, where {allowed}: "
        "this machine does not compute what was certified; don't use it here",
        code="golden_mismatch",
    )
