"""Random numbers that anybody can draw again: Philox's raw stream, which is fixed for good.

Normal numbers are made of it by logarithm and cosine, so their last digit may be the processor's.

    >>> draws = Draws(seed, "noise", "volume", shard, row)
    >>> draws.normal((3, 64, 64))

Rules
-----
1. A draw is a function of what it was keyed with, and of nothing else. The keys are digests,
   names and places in the cohort, never a prediction.
2. The severity is no part of the key: a case meets the same pattern at every severity, stronger.
"""

import hashlib
import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]


class Draws:
    """One stream for one case."""

    def __init__(self, *key: object) -> None:
        digest = hashlib.sha256("\0".join(str(part) for part in key).encode()).digest()
        self._stream = np.random.Philox(key=int.from_bytes(digest[:16], "big"))

    def uniform(self, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Numbers in (0, 1), on a grid of 2^-23: neither end occurs, also in single precision."""
        count = math.prod(shape)
        raw = self._stream.random_raw((count + 1) // 2).astype("<u8").view("<u4")[:count]
        made = ((raw >> 9).astype(np.float32) + np.float32(0.5)) * np.float32(2.0**-23)
        return np.asarray(made.reshape(shape), dtype=np.float32)

    def normal(self, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Standard normal numbers, none beyond 5.8 (Box & Muller 1958, four times as fast as
        the inverse of the distribution)."""
        count = math.prod(shape)
        half = (count + 1) // 2
        radius = np.sqrt(-2 * np.log(self.uniform((half,))))
        angle = np.float32(2 * math.pi) * self.uniform((half,))
        made = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])
        return np.asarray(made[:count].reshape(shape), dtype=np.float32)

    def sign(self) -> int:
        """-1 or 1."""
        return 1 if self.uniform((1,))[0] < 0.5 else -1
