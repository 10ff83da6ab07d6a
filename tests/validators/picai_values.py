"""Detection maps, and what picai-eval finds in them; run it to make `picai_values.json` again.

python3 -m venv /tmp/picai && /tmp/picai/bin/pip install picai-eval==1.4.13
PYTHONPATH=. /tmp/picai/bin/python tests/validators/picai_values.py
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

HERE = Path(__file__).with_suffix(".json")
RATES = (0.1, 0.25, 0.5, 1.0, 2.0)
SHAPE = (8, 28, 28)
Scan = tuple[NDArray[np.int32], NDArray[np.float32]]


def cohorts() -> dict[str, list[Scan]]:
    """Name: (lesion mask, detection map) of each scan. In `split` ones lesions are hit twice."""
    kinds = {"good": (0.9, 0.5), "poor": (0.5, 2.0), "tied": (0.8, 1.5), "split": (0.9, 1.0)}
    return {
        f"{kind} {seed}": [_scan(np.random.default_rng([seed, scan]), kind, *of) for scan in
                           range(40)]
        for kind, of in kinds.items() for seed in (1, 2, 3)
    }  # fmt: skip


def _scan(rng: np.random.Generator, kind: str, found: float, false: float) -> Scan:
    """Lesions and candidates are boxes that don't touch; scores are multiples of 1/64."""
    lesions, scores = np.zeros(SHAPE, np.int32), np.zeros(SHAPE, np.float32)
    for _ in range(int(rng.integers(0, 4))):
        box = _free_box(rng, lesions, 6)
        if box is None:
            continue
        lesions[box] = 1
        if rng.random() < found:
            moved = (box[0], slice(box[1].start + int(rng.integers(0, 3)), box[1].stop), box[2])
            parts = [moved]
            if kind == "split":
                left, right = box[2].start, box[2].stop
                parts = [(*moved[:2], slice(left, left + 2)), (*moved[:2], slice(right - 2, right))]
            for part in parts:
                scores[part] = _score(rng, kind, 0.25)
    for _ in range(int(rng.poisson(false))):
        box = _free_box(rng, lesions + (scores > 0), 4)
        if box is not None:
            scores[box] = _score(rng, kind, 0.0)
    return lesions, scores


def _score(rng: np.random.Generator, kind: str, more: float) -> float:
    steps = 4 if kind == "tied" else 64
    return float(np.ceil(steps * min(1.0, more + 0.75 * rng.random() + 1 / 64)) / steps)


def _free_box(
    rng: np.random.Generator, taken: NDArray[Any], size: int
) -> tuple[slice, slice, slice] | None:
    for _ in range(20):
        corner = [int(rng.integers(1, length - size)) for length in SHAPE[1:]]
        box = (slice(2, 6), *(slice(start, start + size) for start in corner))
        around = (slice(1, 7), *(slice(start - 1, start + size + 1) for start in corner))
        if not taken[around].any():
            return box[0], box[1], box[2]
    return None


def main() -> None:
    """Ask picai-eval and write its answers."""
    from importlib.metadata import version

    from picai_eval import evaluate  # type: ignore[import-not-found]

    found: dict[str, Any] = {}
    for name, scans in cohorts().items():
        asked = evaluate([scan[1] for scan in scans], [scan[0] for scan in scans])
        found[name] = {
            "average_precision": asked.AP,
            "sensitivities": [float(asked.lesion_TPR_at_FPR(rate)) for rate in RATES],
            "scans": [
                [[int(of[0]), float(of[1])] for of in asked.lesion_results[at]]
                for at in range(len(scans))
            ],
        }
    HERE.write_text(
        json.dumps({"picai_eval": version("picai_eval"), "rates": RATES, "found": found}) + "\n"
    )


if __name__ == "__main__":
    main()
