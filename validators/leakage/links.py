"""What finds a cohort's patients and pictures again, and says nothing without the linking key.

    >>> links = links_of(key, table["patient"].to_pylist(), pictures_of(staged.blocks()))
    >>> shared(links, index.read("lidc-open", "1")).patients
    3

Rules
-----
1. One row a case: a token of its patient, a token of its pixels (both HMAC-SHA-256 under the
   facility's linking key, cut to 16 bytes), a perceptual hash. No id, pseudonym or reference
   standard, and rows lie in the order of their tokens, which says nothing of the cohort's.
2. An id without a letter or digit, and a case without a picture, have no token and match nothing.
3. Pixels are those of the contract's tensor: the same scan staged for another contract has other
   pixels, and is found by its patient.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from registry.trust.errors import Invalid
from validators.leakage.identifiers import LinkingKey, normalised
from validators.leakage.perceptual import near_duplicates
from validators.leakage.pictures import Pictures

_TOKEN = 16
_NONE = bytes(_TOKEN)


@dataclass(frozen=True)
class Links:
    """The rows of one cohort. `patients` and `pixels` are empty bytes where there is no token."""

    key: str
    patients: tuple[bytes, ...] = field(repr=False)
    pixels: tuple[bytes, ...] = field(repr=False)
    hashes: tuple[int | None, ...] = field(repr=False)

    def without(self, patients: Collection[bytes]) -> "Links":
        """The same without some patients."""
        rows = [row for row, patient in enumerate(self.patients) if patient not in patients]
        return Links(
            self.key,
            tuple(self.patients[row] for row in rows),
            tuple(self.pixels[row] for row in rows),
            tuple(self.hashes[row] for row in rows),
        )


@dataclass(frozen=True)
class Shared:
    """What a first cohort has that a second has too. Rows are those of the first."""

    patients: int
    of_patients: tuple[int, ...] = field(repr=False)
    """Rows whose patient is in the second."""
    of_pixels: tuple[int, ...] = field(repr=False)
    """Rows whose pixels are in the second."""
    pairs: int
    """Pairs of pictures that look alike, exact copies among them."""
    alike: tuple[tuple[int, int], ...] = field(repr=False)
    """Row and distance in bits, nearest first, each row once: of 10,000 pairs at most, those
    within the first cohort among them."""

    @property
    def any(self) -> bool:
        """Whether anything was found."""
        return bool(self.patients or self.of_pixels or self.pairs)


def tokens_of(key: LinkingKey, patients: Iterable[str]) -> frozenset[bytes]:
    """The tokens of patients' ids."""
    return frozenset(_of_patient(key, patient) for patient in patients) - {b""}


def links_of(key: LinkingKey, patients: Sequence[str], pictures: Pictures) -> Links:
    """The rows of staged cases, in the order of their table."""
    known = {patient: _of_patient(key, patient) for patient in set(patients)}
    return Links(
        key.fingerprint,
        tuple(known[patient] for patient in patients),
        tuple(
            key.token("pixels", digest)[:_TOKEN] if digest else b"" for digest in pictures.digests
        ),
        pictures.hashes,
    )


def shared(first: Links, second: Links) -> Shared:
    """What `first` has that `second` has too. Both are under one linking key."""
    patients, pixels = set(second.patients) - {b""}, set(second.pixels) - {b""}
    mine = [row for row, bits in enumerate(first.hashes) if bits is not None]
    near = near_duplicates(
        np.array([first.hashes[row] for row in mine], dtype=np.uint64),
        np.array([bits for bits in second.hashes if bits is not None], dtype=np.uint64),
    )
    alike: dict[int, int] = {}
    for row, other, distance in near.listed.tolist():
        if row < len(mine) <= other:
            alike.setdefault(mine[row], distance)
    return Shared(
        len(patients & set(first.patients)),
        tuple(row for row, patient in enumerate(first.patients) if patient in patients),
        tuple(row for row, of in enumerate(first.pixels) if of in pixels),
        near.across,
        tuple(alike.items()),
    )


def links_bytes(links: Links) -> bytes:
    """The rows as bytes, in the order of their tokens."""
    tokens = np.concatenate([_column(links.patients), _column(links.pixels)], axis=1)
    order = np.lexsort(tokens.view(">u8").T[::-1])
    columns = {
        "patients": tokens[:, :_TOKEN],
        "pixels": tokens[:, _TOKEN:],
        "hashes": np.array([bits or 0 for bits in links.hashes], dtype=np.uint64),
        "hashed": np.array([bits is not None for bits in links.hashes], dtype=np.uint8),
    }
    return bytes(save({name: np.ascontiguousarray(of[order]) for name, of in columns.items()}))


def _column(tokens: Sequence[bytes]) -> NDArray[np.uint8]:
    joined = b"".join([token or _NONE for token in tokens])
    return np.frombuffer(joined, np.uint8).reshape(len(tokens), _TOKEN)


def parse_links(key: str, data: bytes) -> Links:
    """The rows in these bytes. Raises Invalid where they are none."""
    try:
        arrays = load(data)
        patients, pixels = (
            tuple(b"" if row == _NONE else row for row in map(bytes, arrays[name]))
            for name in ("patients", "pixels")
        )
        hashes = tuple(
            bits if there else None
            for bits, there in zip(
                arrays["hashes"].tolist(), arrays["hashed"].tolist(), strict=True
            )
        )
    except (SafetensorError, KeyError, ValueError) as error:
        raise Invalid("these are no links of a cohort") from error
    return Links(key, patients, pixels, hashes)


def _of_patient(key: LinkingKey, patient: str) -> bytes:
    text = normalised(patient)
    return key.token("patient", text)[:_TOKEN] if text else b""
