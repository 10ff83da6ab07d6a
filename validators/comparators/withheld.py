"""What the failed predictions of a model could have done to its spread against readers.

    >>> low, high = shared_range("auc", positive, failed, code, wrong, shared)

Silence must never pay. What a failed prediction would have said is unknown, and so is how much the
model's figure moves when a patient is left out. Of the quantities of Obuchowski & Rockette only the
covariance that two readers' differences share depends on the model: the readers' mean square and
the variance less the covariance do not, since the model's own part cancels in them.

Rules
-----
1. Each pair of cases (for a share: each case) that a failed prediction takes part in counts as
   anything from 0 to 1, apart from the others. So what is bounded holds every completion, and what
   is withheld on more cases bounds more.
2. Per patient u, by how much the figure moves without u, e_u, lies in [low_u, high_u]; it is linear
   in those pairs: one in u moves it down by 1 / pairs, one elsewhere up by what leaving u out adds.
3. The sum over patients of (e_u - b_u)^2, b_u of the readers' mean, is bounded patient by patient,
   and its centring by the range of the mean of the e_u (0 where cases are independent).
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from validators.comparators.figures import Codes, Figures, Flags
from validators.intervals.influence import Floats
from validators.intervals.proportion import Pair


def shared_range(
    metric: Literal["auc", "sensitivity", "specificity"],
    positive: Flags,
    failed: Flags,
    code: Codes,
    wrong: Figures,
    shared: float,
) -> Pair:
    """The least and the most that the shared covariance could be, whatever failed had said.

    `wrong` are the figures with all failed predictions wrong, the model's first, and `shared` their
    shared covariance. `positive`, `failed` and `code` (patients 0, 1, …) are [n].
    """
    low, high = _moves(metric, positive, failed, code, wrong)
    readers = (wrong.without[:, 1:] - wrong.without[:, 1:].mean(axis=0)).mean(axis=1)
    model = wrong.without[:, 0] - wrong.without[:, 0].mean()
    count = len(readers)
    here = float(((model - readers) ** 2).sum())
    far = np.maximum((low - readers) ** 2, (high - readers) ** 2)
    near = np.maximum(np.maximum(low - readers, readers - high), 0.0) ** 2
    ends = sorted((float(low.mean()), float(high.mean())), key=abs)
    closest = 0.0 if low.mean() <= 0 <= high.mean() else ends[0]
    most = float(far.sum()) - count * closest**2
    least = max(0.0, float(near.sum()) - count * ends[1] ** 2)
    scale = (count - 1) / count
    return shared + scale * (least - here), shared + scale * (most - here)


def _moves(
    metric: str, positive: Flags, failed: Flags, code: Codes, wrong: Figures
) -> tuple[Floats, Floats]:
    """By how much the model's figure moves without each patient, from and to ([patients] each)."""
    if metric == "auc":
        total = int(code.max()) + 1
        of_x, of_y = _counts(code, positive, total), _counts(code, ~positive, total)
        known_x = _counts(code, positive & ~failed, total)
        known_y = _counts(code, ~positive & ~failed, total)
        pairs = of_x.sum() * of_y.sum()
        free = pairs - known_x.sum() * known_y.sum()
        left = (of_x.sum() - of_x) * (of_y.sum() - of_y)
        elsewhere = left - (known_x.sum() - known_x) * (known_y.sum() - known_y)
    else:
        chosen = positive if metric == "sensitivity" else ~positive
        kept = np.unique(code[chosen], return_inverse=True)[1]
        sizes = np.bincount(kept)
        own = np.bincount(kept, failed[chosen])
        pairs, free, left = sizes.sum(), own.sum(), sizes.sum() - sizes
        elsewhere = free - own
    moved = wrong.without[:, 0] - wrong.whole[0]
    return moved - (free - elsewhere) / pairs, moved + elsewhere * (1 / left - 1 / pairs)


def _counts(code: Codes, of: Flags, total: int) -> NDArray[np.int64]:
    return np.bincount(code[of], minlength=total)
