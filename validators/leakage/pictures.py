"""The pictures of staged cases, reduced to what finds them again.

Rules
-----
1. A picture is the first input tensor, by name, that has rows and columns.
2. A flat one is like every other, so it has neither digest nor hash.
3. One block is in memory at a time.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from safetensors import SafetensorError
from safetensors.numpy import load_file

from registry.trust.errors import Invalid
from validators.leakage.perceptual import perceptual_hash, picture_of
from validators.leakage.pixels import is_flat, pixel_digest


@dataclass(frozen=True)
class Pictures:
    """One entry a case, in the order of the table; None where there is no picture to compare."""

    digests: tuple[str | None, ...] = field(repr=False)
    hashes: tuple[int | None, ...] = field(repr=False)
    flat: tuple[int, ...] = field(repr=False)
    """Rows whose picture is one constant value."""


def pictures_of(
    blocks: Sequence[Path], progress: Callable[[int], None] = lambda done: None
) -> Pictures:
    """The pictures in these blocks. progress: cases done. Raises Invalid for a damaged block."""
    digests: list[str | None] = []
    hashes: list[int | None] = []
    flat = []
    for path in blocks:
        try:
            arrays = load_file(path)
        except (SafetensorError, OSError) as error:
            raise Invalid(
                f"{path} is missing or damaged; run `touchstone cohort ingest` again"
            ) from error
        images = [of for _, of in sorted(arrays.items()) if of.ndim in (3, 4, 5)]
        for row in range(len(next(iter(arrays.values())))):
            digest, bits = None, None
            if images and is_flat(images[0][row]):
                flat.append(len(digests))
            elif images:
                digest = pixel_digest(images[0][row])
                if min(images[0].shape[-2:]) >= 2:
                    bits = perceptual_hash(picture_of(images[0][row]))
            digests.append(digest)
            hashes.append(bits)
            progress(len(digests))
    return Pictures(tuple(digests), tuple(hashes), tuple(flat))
