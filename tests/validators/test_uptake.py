"""Uptake values of PET, and what a header must say for them."""

from pathlib import Path

import numpy as np
import pydicom
import pytest

from registry.trust.errors import Invalid
from tests.validators.dicom_made import noise, volume_of, write_series
from validators.contract.dicom_series import read_picture

DOSE, WEIGHT, HALF_LIFE = 370e6, 74.0, 6586.2


def pet(folder: Path, **change: object) -> list[Path]:
    """A PET series of fluorine-18, an hour after 370 MBq."""
    item = pydicom.Dataset()
    item.RadionuclideTotalDose, item.RadionuclideHalfLife = DOSE, HALF_LIFE
    item.RadiopharmaceuticalStartTime = "093000.00"
    for name in list(change):
        if name.startswith("Radio") and not name.endswith("Sequence"):
            setattr(item, name, change.pop(name))
    values = {
        "Units": "BQML", "CorrectedImage": ["ATTN", "SCAT", "DECY"], "DecayCorrection": "START",
        "PatientWeight": WEIGHT, "SeriesDate": "20240317", "SeriesTime": "103000",
        "AcquisitionDate": "20240317", "AcquisitionTime": "103005.5", "RescaleSlope": 2.5,
        "RescaleIntercept": 0, "RadiopharmaceuticalInformationSequence": [item],
    } | change  # fmt: skip
    return write_series(folder, "1", noise((3, 4, 4)), modality="PT", **values)


def test_a_dose_spread_evenly_over_the_body_has_an_uptake_value_of_one(tmp_path: Path):
    paths = pet(tmp_path)
    activity = read_picture(volume_of(paths), "rescaled").values
    uptake = read_picture(volume_of(paths), "SUV").values
    assert uptake.dtype == np.float32
    evenly = DOSE * 0.5 ** (3600 / HALF_LIFE) / (WEIGHT * 1000)  # Bq in a gram at the scan
    assert np.allclose(uptake, activity / evenly, rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "factor"),
    [
        ({"DecayCorrection": "ADMIN"}, WEIGHT * 1000 / DOSE),
        ({"Units": "GML"}, 1.0),
        ({"RadiopharmaceuticalStartTime": "233000", "SeriesTime": "003000",
          "AcquisitionTime": "003000"}, WEIGHT * 1000 / DOSE * 2 ** (3600 / HALF_LIFE)),
        ({"RadiopharmaceuticalStartDateTime": "20240317083000"},
         WEIGHT * 1000 / DOSE * 2 ** (7200 / HALF_LIFE)),
    ],
)  # fmt: skip
def test_the_decay_is_what_the_header_says(tmp_path: Path, change: dict, factor: float):
    paths = pet(tmp_path, **change)
    activity = read_picture(volume_of(paths), "rescaled").values
    assert np.allclose(read_picture(volume_of(paths), "SUV").values, activity * factor, rtol=1e-6)


@pytest.mark.parametrize(
    "change",
    [
        {"Units": "CNTS"}, {"Units": "GML", "SUVType": "LBM"}, {"CorrectedImage": ["ATTN"]},
        {"PatientWeight": None}, {"PatientWeight": 0}, {"RadionuclideTotalDose": 10.0},
        {"DecayCorrection": "NONE"}, {"SeriesTime": "113000"}, {"SeriesTime": ""},
        {"RadiopharmaceuticalStartTime": ""}, {"RadiopharmaceuticalInformationSequence": []},
    ],
)  # fmt: skip
def test_nothing_is_guessed(tmp_path: Path, change: dict):
    with pytest.raises(Invalid, match="uptake values need"):
        read_picture(volume_of(pet(tmp_path, **change)), "SUV")


def test_one_slice_without_a_dose_refuses_all(tmp_path: Path):
    paths = pet(tmp_path)
    image = pydicom.dcmread(paths[1])
    del image.PatientWeight
    image.save_as(paths[1])
    with pytest.raises(Invalid, match="uptake values need"):
        read_picture(volume_of(paths), "SUV")
