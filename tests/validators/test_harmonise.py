"""From an image in space to a contract's tensor: turned, resampled, fitted, and nothing else."""

import itertools
import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from registry.trust.errors import Invalid
from tests.validators.cohort_example import contract
from validators.contract.harmonise import Picture, axes_of, harmonised, tensor_of
from validators.contract.image import ImageForm
from validators.contract.read import parse_contract
from validators.contract.schema import Tensor

RNG = np.random.default_rng(5)


def tensor(shape: tuple[int, ...], dtype: str = "float32", **form: object) -> Tensor:
    return Tensor.model_validate(
        {"name": "ct", "dtype": dtype, "shape": shape, "image": {"modality": ["CT"], **form}}
    )


def affine(directions: dict[str, float], origin: tuple[float, ...] = (0, 0, 0)) -> np.ndarray:
    """An affine whose axes lead where the letters say, by so many millimetres."""
    vectors = {"L": (1, 0, 0), "R": (-1, 0, 0), "P": (0, 1, 0), "A": (0, -1, 0), "S": (0, 0, 1),
               "I": (0, 0, -1)}  # fmt: skip
    value = np.eye(4)
    for axis, (letter, step) in enumerate(directions.items()):
        value[:3, axis] = np.array(vectors[letter]) * step
    value[:3, 3] = origin
    return value


def at(picture: Picture, point: np.ndarray) -> np.ndarray:
    """The value at a place in space, by scipy."""
    assert picture.affine is not None
    index = np.linalg.solve(picture.affine, np.append(point, 1))[:3]
    return ndimage.map_coordinates(
        picture.values[0].astype(np.float64), index[:, None], order=1, mode="nearest"
    )[0]


def test_a_contract_that_was_locked_before_images_keeps_its_digest():
    assert contract().digest == (
        "sha256:" + "1f37570f3dc9c0bbdcf8c38a70a13671608cca7d132eae061a7ee7f979a5673c"
    )


@pytest.mark.parametrize(
    "letters",
    ["".join(chosen) for axes in itertools.permutations(("LR", "AP", "SI"))
     for chosen in itertools.product(*axes)],
)  # fmt: skip
def test_every_orientation_is_turned_so_that_each_place_keeps_its_value(letters: str):
    values = RNG.integers(-1000, 1000, (1, 3, 4, 5)).astype(np.int16)
    picture = Picture(values, affine(dict(zip(letters, (3.0, 1.0, 2.0), strict=True)), (9, -7, 4)))
    assert axes_of(picture.affine) == tuple(letters)
    size = dict(zip((frozenset(p) for p in ("LR", "AP", "SI")), (0, 0, 0), strict=True))
    for letter, length in zip(letters, values.shape[1:], strict=True):
        size[next(pair for pair in size if letter in pair)] = length
    shape = (1, size[frozenset("SI")], size[frozenset("AP")], size[frozenset("LR")])
    turned = harmonised(picture, tensor(shape, "int16", orientation="SPL"))
    assert axes_of(turned.affine) == ("S", "P", "L")
    for index in itertools.product(*(range(n) for n in values.shape[1:])):
        place = picture.affine @ np.array([*index, 1.0])
        there = np.rint(np.linalg.solve(turned.affine, place)[:3]).astype(int)
        assert turned.values[0][tuple(there)] == values[0][index]


def test_an_oblique_image_is_turned_to_its_nearest_axes_and_keeps_its_obliquity():
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(0.3), -np.sin(0.3)], [np.sin(0.3), np.cos(0.3)]]
    picture = Picture(RNG.normal(size=(1, 3, 4, 5)), turn @ affine({"I": 2, "A": 1, "L": 1}))
    turned = harmonised(picture, tensor((1, 3, 4, 5), "float64", orientation="SPL"))
    assert axes_of(turned.affine) == ("S", "P", "L")
    assert (turned.values == picture.values[:, ::-1, ::-1]).all()


@settings(max_examples=60, deadline=None)
@given(
    size=st.tuples(*[st.integers(1, 9)] * 3),
    old=st.tuples(*[st.floats(0.4, 4)] * 3),
    new=st.tuples(*[st.floats(0.4, 4)] * 3),
)
def test_linear_resampling_is_scipy_s(size, old, new):
    values = np.random.default_rng(1).normal(size=(1, *size)).astype(np.float32)
    picture = Picture(values, affine(dict(zip("SPL", old, strict=True)), (3, 2, 1)))
    shape = tuple(max(1, round(n / (b / a))) for n, a, b in zip(size, old, new, strict=True))
    got = harmonised(picture, tensor((1, *shape), spacing_mm=new, resample="linear"))
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"))
    places = (
        np.linalg.inv(picture.affine)
        @ got.affine
        @ np.vstack([grid.reshape(3, -1), np.ones((1, grid[0].size))])
    )
    expected = ndimage.map_coordinates(values[0].astype(float), places[:3], order=1, mode="nearest")
    assert np.allclose(got.values.reshape(-1), expected, atol=1e-4)


def test_the_middle_of_the_image_stays_in_the_middle():
    picture = Picture(np.zeros((1, 5, 6, 7), np.int16), affine({"S": 3, "P": 1, "L": 1}))
    asked = tensor((1, 8, 12, 4), "int16", spacing_mm=(1.5, 0.5, 2), resample="linear",
                   fit="centre")  # fmt: skip
    got = harmonised(picture, asked)
    old = picture.affine @ np.array([2, 2.5, 3, 1])
    new = got.affine @ np.array([3.5, 5.5, 1.5, 1])
    assert np.abs(old - new)[:3].max() <= 1.0


@settings(max_examples=50, deadline=None)
@given(st.tuples(*[st.integers(1, 9)] * 3), st.tuples(*[st.integers(1, 9)] * 3))
def test_cropping_and_padding_keep_every_value_at_its_place(have, wanted):
    values = np.random.default_rng(2).integers(1, 99, (1, *have)).astype(np.int16)
    picture = Picture(values, affine({"S": 2, "P": 1, "L": 1}, (5, 5, 5)))
    got = harmonised(picture, tensor((1, *wanted), "int16", fit="centre", padding=-7))
    kept = 0
    for index in itertools.product(*(range(n) for n in wanted)):
        place = np.linalg.solve(picture.affine, got.affine @ np.array([*index, 1.0]))
        there = np.rint(place[:3]).astype(int)
        inside = all(0 <= n < size for n, size in zip(there, have, strict=True))
        assert got.values[0][index] == (values[0][tuple(there)] if inside else -7)
        kept += inside
    assert kept == np.prod(np.minimum(have, wanted))


def test_a_mask_is_resampled_by_the_nearest_voxel_and_gains_no_value():
    values = np.zeros((1, 1, 4, 4), np.uint8)
    values[0, 0, 1:3, 1:3] = 1
    picture = Picture(values, affine({"S": 1, "P": 1, "L": 1}))
    asked = Tensor.model_validate(
        {"name": "mask", "dtype": "bool", "shape": (1, 1, 8, 8),
         "image": {"modality": ["SEG"], "spacing_mm": (1, 0.5, 0.5), "resample": "nearest"}}
    )  # fmt: skip
    got = tensor_of(picture, asked)
    assert got.dtype == bool
    assert got.sum() == 16
    assert got[0, 0, 2:6, 2:6].all()


def test_pixels_keep_their_own_type_and_nothing_is_clipped():
    picture = Picture(np.full((1, 1, 2, 2), 300, np.int16))
    small = tensor((1, 2, 2), stored_as="int16")
    assert (small.staged_type, tensor_of(picture, small).dtype) == ("int16", np.int16)
    with pytest.raises(Invalid, match="uint8 can't hold"):
        tensor_of(picture, tensor((1, 2, 2), stored_as="uint8"))
    with pytest.raises(Invalid, match="NaN"):
        tensor_of(Picture(np.full((1, 1, 2, 2), np.nan)), tensor((1, 2, 2)))


@pytest.mark.parametrize(
    ("picture", "shape", "form", "said"),
    [
        (Picture(np.zeros((1, 2, 4, 4))), (1, 4, 4), {}, "2 slices"),
        (Picture(np.zeros((3, 1, 4, 4))), (1, 4, 4), {}, "3 channels"),
        (Picture(np.zeros((1, 1, 4, 4))), (1, 1, 4, 4), {"orientation": "SPL"}, "no place"),
        (Picture(np.zeros((1, 1, 4, 4))), (1, 4, 4), {"spacing_mm": (1, 1)}, "no spacing"),
        (Picture(np.zeros((1, 1, 4, 5))), (1, 4, 4), {}, "not fitted"),
        (Picture(np.zeros((1, 1, 4, 4)), np.eye(4)), (1, 4, 4), {"spacing_mm": (1, 1.02)},
         "no resampling"),
        (Picture(np.zeros((1, 1, 4, 4)), np.eye(4)), (1, 4, 4),
         {"spacing_mm": (1, 1e-4), "resample": "linear"}, "check the spacing"),
        (Picture(np.zeros((1, 1, 4, 4), np.uint8)), (1, 5, 5),
         {"fit": "centre", "padding": -1}, "padded"),
    ],
)  # fmt: skip
def test_what_the_contract_does_not_allow_is_refused_in_one_line(picture, shape, form, said):
    with pytest.raises(Invalid, match=said) as refusal:
        tensor_of(picture, tensor(shape, **form))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("shape", "form", "said"),
    [
        ((4,), {}, "channels"),
        ((2, 4, 4), {}, "channels"),
        ((1, 4, 4), {"orientation": "SPL"}, "with slices"),
        ((1, 4, 4, 4), {"orientation": "SIL"}, "one letter of each"),
        ((1, 4, 4, 4), {"spacing_mm": [1, 1]}, "3 numbers"),
        ((1, 4, 4), {"resample": "linear"}, "needs spacing_mm"),
        ((1, 4, 4), {"modality": ["MR"], "values": "HU"}, "CT alone"),
        ((1, 4, 4), {"modality": ["SEG", "CT"]}, "of its own"),
        ((1, 4, 4), {"modality": ["SEG"], "spacing_mm": [1, 1], "resample": "linear"}, "nearest"),
        ((1, 4, 4), {"stored_as": "uint16", "dtype": "int16"}, "can't hold"),
    ],
)
def test_a_contract_that_contradicts_itself_names_the_field(shape, form, said):
    dtype = form.pop("dtype", "float32")
    document = json.loads(contract().model_dump_json())
    document["inputs"][0] |= {
        "dtype": dtype, "shape": shape, "image": {"modality": ["CT"]} | form
    }  # fmt: skip
    with pytest.raises(Invalid, match=said) as refusal:
        parse_contract(document)
    assert "inputs[0].image" in str(refusal.value)


def test_an_image_s_form_is_part_of_the_contract_s_digest():
    document = json.loads(contract().model_dump_json())
    document["inputs"][0]["image"] = {"modality": ["CT"]}
    one = parse_contract(document)
    document["inputs"][0]["image"] = {"modality": ["CT"], "fit": "centre"}
    assert len({one.digest, parse_contract(document).digest, contract().digest}) == 3
    assert ImageForm(modality=("SEG",)).mask


def test_a_hospital_imports_it_without_scipy_or_the_cohort():
    code = (
        "import sys; import validators.contract.harmonise; "
        "print(sorted(n for n in sys.modules if n.split('.')[0] in ('scipy', 'pyarrow', 'pydicom')"
        " or n.startswith('validators.cohort')))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
