"""Pairs of masks, and what MONAI finds for them; run it to make `monai_values.json` again.

python3 -m venv /tmp/monai && /tmp/monai/bin/pip install torch==2.13.0 monai==1.6.1 scipy
PYTHONPATH=. /tmp/monai/bin/python tests/validators/monai_values.py
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

HERE = Path(__file__).with_suffix(".json")
TOLERANCES = (0.4, 1.5)
Mask = NDArray[np.bool_]
Pair = tuple[Mask, Mask, tuple[float, ...]]


def pairs() -> dict[str, Pair]:
    """Name: (reference, prediction, spacing in mm). Noise holds each of the 256 neighbourhoods."""
    rng = np.random.default_rng(2026)
    made: dict[str, Pair] = {}
    for number, spacing in enumerate([(1.0, 1.0, 1.0), (3.0, 0.7, 0.7), (0.8, 1.3, 2.1)]):
        made[f"balls {number}"] = (
            _ball((30, 34, 32), (14, 16, 15), 9), _ball((30, 34, 32), (15, 18, 15), 8), spacing
        )  # fmt: skip
        noise = [rng.random((11, 12, 13)) < share for share in (0.5, 0.4)]
        made[f"noise {number}"] = (noise[0], noise[1], spacing)
        blob = ndimage.gaussian_filter(rng.normal(size=(24, 28, 26)), 3)
        other = blob + 0.4 * ndimage.gaussian_filter(rng.normal(size=(24, 28, 26)), 3)
        made[f"blobs {number}"] = (blob > 0.02, other > 0.03, spacing)
    made["at the edge"] = (
        _ball((16, 18, 20), (0, 17, 9), 6), _ball((16, 18, 20), (2, 15, 10), 6), (2.5, 1.0, 0.6)
    )  # fmt: skip
    made["one voxel, far away"] = (
        _ball((40, 20, 20), (6, 6, 6), 0), _ball((40, 20, 20), (35, 12, 14), 3), (1.5, 0.9, 0.9)
    )  # fmt: skip
    made["equal"] = (made["blobs 1"][0], made["blobs 1"][0], (3.0, 0.7, 0.7))
    for number, of_plane in enumerate([(1.0, 1.0), (0.5, 1.7)]):
        made[f"discs {number}"] = (
            _ball((40, 44), (18, 20), 11), _ball((40, 44), (20, 23), 10), of_plane
        )  # fmt: skip
        made[f"flat noise {number}"] = (
            rng.random((20, 22)) < 0.5, rng.random((20, 22)) < 0.4, of_plane
        )  # fmt: skip
    return made


def _ball(shape: tuple[int, ...], centre: tuple[int, ...], radius: int) -> Mask:
    at = np.array(centre).reshape(-1, *[1] * len(shape))
    return np.asarray(((np.indices(shape) - at) ** 2).sum(axis=0) <= radius**2)


def main() -> None:
    """Ask MONAI and write its answers."""
    import monai  # type: ignore[import-not-found]
    import torch  # type: ignore[import-not-found]
    from monai.metrics import (  # type: ignore[import-not-found]
        DiceMetric,
        HausdorffDistanceMetric,
        SurfaceDiceMetric,
    )

    found: dict[str, Any] = {}
    for name, (reference, prediction, spacing) in pairs().items():
        y, p = (torch.tensor(mask)[None, None].float() for mask in (reference, prediction))
        hausdorff = HausdorffDistanceMetric(include_background=True, percentile=95)
        found[name] = {
            "dice": float(DiceMetric(include_background=True)(p, y)),
            "nsd": [
                float(
                    SurfaceDiceMetric([tolerance], include_background=True, use_subvoxels=True)(
                        p, y, spacing=spacing
                    )
                )
                for tolerance in TOLERANCES
            ],
            "hd95": float(hausdorff(p, y, spacing=spacing)),
        }
    versions = {"monai": monai.__version__, "torch": torch.__version__}
    text = json.dumps({"versions": versions, "tolerances": TOLERANCES, "found": found}, indent=1)
    HERE.write_text(text + "\n")


if __name__ == "__main__":
    main()
