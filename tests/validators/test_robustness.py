"""Perturbations: what they keep, what they change, and that they come out the same again."""

import io
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydantic import ValidationError
from scipy import ndimage
from skimage.color import rgb2hed

from registry.trust.errors import Invalid
from validators.cohort.shard import Shard
from validators.contract.schema import Contract, Tensor
from validators.robustness import images
from validators.robustness.draws import Draws
from validators.robustness.perturb import perturb, perturbed
from validators.robustness.severity import SEVERITIES, Perturbation

SEED = "sha256:" + "7" * 64
RANGES = {"uint8": (0, 255), "int16": (-1024, 3071), "float32": (-1.0, 1.0)}
HOUNSFIELD = (-1024, 3071)
IMAGES = [(m, kind) for m, kinds in SEVERITIES.items() if m != "table" for kind in kinds]
DEVIATIONS = (0.5, 2.0, 0.0, 1.0)


def picture(shape: tuple[int, ...], dtype: str, over: Any = None) -> NDArray[Any]:
    """Smooth structures with some texture, over the whole range."""
    rng = np.random.default_rng(5)
    smooth = [1, *[0] * (len(shape) - 3), 3, 3] if len(shape) > 3 else [0, 3, 3]
    made = ndimage.gaussian_filter(rng.normal(size=shape), smooth)
    made = made / made.std() + 0.2 * rng.normal(size=shape)
    low, high = over or RANGES[dtype]
    made = low + (made - made.min()) / (made.max() - made.min()) * (high - low)
    return (np.rint(made) if dtype != "float32" else made).astype(dtype)


def tensor_of(shape: tuple[int, ...], dtype: str, **more: Any) -> Tensor:
    low, high = RANGES[dtype]
    return Tensor(
        name="image", dtype=dtype, shape=shape, **({"minimum": low, "maximum": high} | more)
    )  # type: ignore[arg-type]


def asked(modality: str, kind: str, severity: int) -> Perturbation:
    return Perturbation(kind=kind, modality=modality, severity=severity, tensor="image")  # type: ignore[arg-type]


def changed(values: NDArray[Any], modality: str, kind: str, severity: int, key: int = 0) -> Any:
    tensor = tensor_of(values.shape, values.dtype.name)
    return perturb(values, asked(modality, kind, severity), tensor, Draws(SEED, key))


@pytest.mark.parametrize("dtype", list(RANGES))
@pytest.mark.parametrize("shape", [(3, 41, 50), (3, 9, 24, 30)], ids=["2D", "3D"])
@pytest.mark.parametrize(("modality", "kind"), IMAGES)
def test_type_shape_and_range_stay_and_the_change_grows_with_severity(modality, kind, shape, dtype):
    low, high = HOUNSFIELD if modality == "CT" and dtype == "float32" else RANGES[dtype]
    given = picture(shape, dtype, (low, high))
    tensor = tensor_of(shape, dtype, minimum=low, maximum=high)
    before = given.copy()
    sizes = []
    for severity in range(1, 6):
        found = perturb(given, asked(modality, kind, severity), tensor, Draws(SEED))
        assert (found.dtype, found.shape) == (given.dtype, given.shape)
        assert low <= found.min()
        assert found.max() <= high
        sizes.append(float(np.abs(found.astype(float) - given.astype(float)).mean()))
    assert (given == before).all(), "the caller's image is left as it is"
    assert sizes[0] > 0
    assert sizes == sorted(set(sizes))


@pytest.mark.parametrize("kind", ["noise", "rounding"])
def test_the_change_of_a_table_grows_with_severity_and_leaves_exact_columns_alone(kind):
    tensor = Tensor(name="table", dtype="float32", shape=(4,))
    rows = np.random.default_rng(1).normal(size=(500, 4)).astype(np.float32) * 5
    sizes = []
    for severity in range(1, 6):
        perturbation = Perturbation(
            kind=kind, modality="table", severity=severity, tensor="table",
            standard_deviations=DEVIATIONS,
        )  # type: ignore[arg-type]  # fmt: skip
        found = np.stack(
            [perturb(row, perturbation, tensor, Draws(SEED, n)) for n, row in enumerate(rows)]
        )
        assert found.dtype == np.float32
        assert (found[:, 2] == rows[:, 2]).all()
        sizes.append(np.abs(found - rows).mean())
        if kind == "noise":
            spread = (found - rows).std(axis=0)
            np.testing.assert_allclose(spread, perturbation.amount * np.array(DEVIATIONS), rtol=0.1)
        else:
            step = perturbation.amount * DEVIATIONS[1]
            np.testing.assert_allclose(found[:, 1] / step, np.rint(found[:, 1] / step), atol=1e-5)
    assert sizes == sorted(sizes)


def test_the_noise_has_the_size_that_the_table_states():
    flat = np.full((1, 200, 200), 0, np.int16)
    found = changed(flat, "CT", "noise", 3).astype(float)
    assert found.std() == pytest.approx(40, rel=0.02)
    assert found.mean() == pytest.approx(0, abs=1)
    at_full = images.quantum_noise(
        np.full((1, 200, 200), 100.0), 0.04, images.Range(0, 100), Draws(SEED)
    )
    at_quarter = images.quantum_noise(
        np.full((1, 200, 200), 25.0), 0.04, images.Range(0, 100), Draws(SEED)
    )
    assert at_full.std() == pytest.approx(4, rel=0.02)
    assert at_quarter.std() == pytest.approx(2, rel=0.02)


def test_rician_noise_lifts_the_background_as_rayleigh_s_mean_says():
    found = images.rician_noise(np.zeros((1, 300, 300)), 0.1, images.Range(0, 1), Draws(SEED))
    assert found.mean() == pytest.approx(0.1 * np.sqrt(np.pi / 2), rel=0.01)


def test_blur_and_resampling_keep_a_flat_image_and_the_mean():
    flat = np.full((1, 33, 47), 0.25, np.float32)
    for kind in ("blur", "resampling"):
        np.testing.assert_allclose(changed(flat, "MR", kind, 5), flat, atol=1e-6)
    structured = picture((1, 40, 40), "float32")
    found = changed(structured, "MR", "resampling", 3)
    assert found.mean() == pytest.approx(structured.mean(), abs=0.02)


def test_compression_is_what_a_jpeg_codec_does():
    """Against Pillow's codec, grey, which also rounds to whole numbers."""
    given = picture((1, 67, 90), "uint8")
    for severity, quality in ((1, 90), (3, 50), (5, 10)):
        stored = io.BytesIO()
        Image.fromarray(given[0]).save(stored, "JPEG", quality=quality)
        codec = np.asarray(Image.open(stored)).astype(float)
        found = changed(given, "radiography", "compression", severity)[0].astype(float)
        apart = np.abs(found - codec)[:64, :88]
        assert apart.mean() < 0.15 * np.abs(codec - given[0]).mean(), "some values one step apart"
        assert np.abs(codec - given[0]).mean() > 2


def test_the_colour_codec_without_subsampling_agrees_too():
    given = picture((3, 64, 64), "uint8")
    stored = io.BytesIO()
    Image.fromarray(np.moveaxis(given, 0, -1)).save(stored, "JPEG", quality=50, subsampling=0)
    codec = np.moveaxis(np.asarray(Image.open(stored)), -1, 0).astype(float)
    found = changed(given, "pathology", "compression", 3).astype(float)
    assert np.abs(found - codec).mean() < 1
    assert np.abs(codec - given).mean() > 4


def test_a_stain_changes_haematoxylin_and_eosin_by_the_amount_and_nothing_else():
    """Against scikit-image's colour deconvolution, which has the same vectors."""
    rng = np.random.default_rng(2)
    stains = images._STAINS
    amounts = rng.uniform(0.1, 0.7, size=(30, 30, 3)) * (1, 1, 0.2)
    tissue = np.moveaxis(np.exp(-amounts @ stains), -1, 0).astype(np.float32)
    over = images.Range(0, 1)
    found = images.stain(tissue, 0.2, over, Draws(SEED))
    before, after = (rgb2hed(np.moveaxis(np.clip(i, 0, 1), 0, -1)) for i in (tissue, found))
    ratio = np.median(after / before, axis=(0, 1))
    assert abs(ratio[0] - 1) == pytest.approx(0.2, abs=0.01)
    assert abs(ratio[1] - 1) == pytest.approx(0.2, abs=0.01)
    assert ratio[2] == pytest.approx(1, abs=0.01)


def test_draws_depend_on_their_key_and_are_fixed_for_good():
    first = Draws(SEED, "noise", 3, 1).normal((4,))
    assert (first == Draws(SEED, "noise", 3, 1).normal((4,))).all()
    assert not (first == Draws(SEED, "noise", 3, 2).normal((4,))).any()
    assert Draws("a").uniform((3,)).tolist() == pytest.approx(RECORDED, abs=1e-7)
    many = Draws(SEED).uniform((100_001,))
    assert many.min() > 0
    assert many.max() < 1
    assert {Draws(SEED, n).sign() for n in range(20)} == {-1, 1}


RECORDED = [0.23408502, 0.55324763, 0.80218083]


CONTRACT = Contract.model_validate(
    {
        "id": "made",
        "version": "1",
        "inputs": [
            {"name": "image", "dtype": "float32", "shape": [1, 8, 8], "minimum": 0, "maximum": 1},
            {"name": "descriptors", "dtype": "float32", "shape": [4]},
        ],
        "outputs": [{"name": "score", "dtype": "float32", "shape": [1]}],
        "score": "score",
    }
)


def shard(index: int, n: int) -> Shard:
    rng = np.random.default_rng(index)
    return Shard(
        index,
        tuple(f"{index:02d}{row:030d}" for row in range(n)),
        {
            "image": rng.random((n, 1, 8, 8)).astype(np.float32),
            "descriptors": rng.normal(size=(n, 4)).astype(np.float32),
        },
    )


def test_a_perturbed_stream_has_the_same_cases_and_the_same_pixels_each_time():
    parts = [shard(0, 5), shard(1, 3)]
    once, again, otherwise = (
        list(perturbed(parts, asked("MR", "noise", 3), CONTRACT, seed=seed))
        for seed in (SEED, SEED, SEED + "x")
    )
    for given, first, second, third in zip(parts, once, again, otherwise, strict=True):
        assert (first.index, first.cases) == (given.index, given.cases)
        assert (first.inputs["image"] == second.inputs["image"]).all()
        assert (first.inputs["image"] != third.inputs["image"]).any()
        assert first.inputs["descriptors"] is given.inputs["descriptors"]
        assert (given.inputs["image"] == shard(given.index, len(given.cases)).inputs["image"]).all()
    added = once[0].inputs["image"] - parts[0].inputs["image"]
    assert not np.allclose(added[0], added[1]), "each case has noise of its own"


def test_a_stream_hands_on_one_shard_at_a_time():
    asked_for: list[int] = []

    def source() -> Any:
        for index in range(3):
            asked_for.append(index)
            yield shard(index, 2)

    stream = perturbed(source(), asked("MR", "blur", 1), CONTRACT, seed=SEED)
    assert asked_for == []
    next(stream)
    assert asked_for == [0]


def test_what_does_not_fit_is_invalid_before_a_shard_is_read():
    table = Perturbation(
        kind="noise", modality="table", severity=1, tensor="descriptors", standard_deviations=(1.0,)
    )
    for wrong, match in (
        (table, "4 elements"),
        (asked("pathology", "stain", 1), "1 channels"),
        (Perturbation(kind="blur", modality="MR", severity=1, tensor="scan"), "no input 'scan'"),
        (Perturbation(kind="blur", modality="MR", severity=1, tensor="descriptors"), "an image is"),
    ):
        with pytest.raises(Invalid, match=match):
            perturbed(iter(()), wrong, CONTRACT, seed=SEED)
    endless = tensor_of((1, 8, 8), "float32", minimum=None, maximum=None)
    with pytest.raises(Invalid, match="no minimum and maximum"):
        perturb(np.zeros((1, 8, 8), np.float32), asked("MR", "noise", 1), endless, Draws(SEED))
    whole = Tensor(name="image", dtype="int64", shape=(1, 8, 8))
    with pytest.raises(Invalid, match="int64"):
        perturb(np.zeros((1, 8, 8), np.int64), asked("CT", "noise", 1), whole, Draws(SEED))


def test_a_perturbation_names_a_kind_of_its_modality():
    with pytest.raises(ValidationError, match="stain is not defined for CT"):
        asked("CT", "stain", 1)
    with pytest.raises(ValidationError, match="needs one an element"):
        Perturbation(kind="noise", modality="table", severity=1, tensor="t")
    with pytest.raises(ValidationError):
        asked("CT", "noise", 6)


def test_amounts_get_worse_from_one_severity_to_the_next():
    for kinds in SEVERITIES.values():
        for kind, (_, amounts) in kinds.items():
            worse = list(reversed(amounts)) if kind == "compression" else list(amounts)
            assert worse == sorted(set(worse))
