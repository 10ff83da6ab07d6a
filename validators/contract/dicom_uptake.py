"""The standardised uptake value of PET: from Bq/ml to g/ml, by body weight.

Rules
-----
1. SUV = activity concentration x weight / dose, the dose as it was at the time to which the image
   was decayed (Boellaard R et al., FDG PET/CT: EANM procedure guidelines 2.0, Eur J Nucl Med Mol
   Imaging 2015;42:328-354, doi:10.1007/s00259-014-2961-x).
2. Images are in BQML, corrected for attenuation and decay. Decayed to the START of the series: the
   dose is decayed from its injection to the series' time, which must not be after the first
   acquisition (some scanners write the time of processing there). To ADMIN: the dose as injected.
3. Images that are in g/ml already (GML, by body weight) stay as they are. Where a header does not
   say enough, or says what can't be, there is no factor, and nothing is guessed.
"""

import re
from datetime import datetime, timedelta
from typing import Any

from pydicom.dataset import Dataset

NEEDED = ("Units", "SUVType", "CorrectedImage", "DecayCorrection", "PatientWeight", "SeriesDate",
          "SeriesTime", "AcquisitionDate", "AcquisitionTime",
          "RadiopharmaceuticalInformationSequence")  # fmt: skip
_WEIGHT, _DOSE, _HALF_LIFE = (1.0, 500.0), (1e5, 1e11), (60.0, 1e6)
_LONGEST = timedelta(days=1)


def uptake_factor(found: Dataset) -> float | None:
    """What a rescaled value is multiplied by to be an SUV, or None where it can't be known."""
    units = str(found.get("Units", ""))
    if units == "GML":
        return 1.0 if str(found.get("SUVType", "") or "BW") == "BW" else None
    corrected = set(found.get("CorrectedImage", None) or ())
    if units != "BQML" or "ATTN" not in corrected or not corrected & {"DECY", "DECAY"}:
        return None
    items: Any = found.get("RadiopharmaceuticalInformationSequence", None) or ()
    if len(items) != 1:
        return None
    weight = _within(found.get("PatientWeight", None), _WEIGHT)
    dose = _within(items[0].get("RadionuclideTotalDose", None), _DOSE)
    half_life = _within(items[0].get("RadionuclideHalfLife", None), _HALF_LIFE)
    if weight is None or dose is None or half_life is None:
        return None
    to = str(found.get("DecayCorrection", ""))
    if to == "ADMIN":
        return weight * 1000 / dose
    since = _since_injection(found, items[0])
    if to != "START" or since is None:
        return None
    return float(weight * 1000 / (dose * 2 ** (-since.total_seconds() / half_life)))


def _since_injection(found: Dataset, item: Dataset) -> timedelta | None:
    series = _moment(found.get("SeriesDate", ""), found.get("SeriesTime", ""))
    first = _moment(found.get("AcquisitionDate", ""), found.get("AcquisitionTime", ""))
    if series is None or first is None or series > first:
        return None
    whole = str(item.get("RadiopharmaceuticalStartDateTime", "") or "")
    if whole:
        injected = _moment(whole[:8], whole[8:14])
    else:
        injected = _moment(
            found.get("SeriesDate", ""), item.get("RadiopharmaceuticalStartTime", "")
        )
        if injected is not None and injected > series:  # before midnight
            injected -= timedelta(days=1)
    if injected is None or not timedelta(0) <= series - injected <= _LONGEST:
        return None
    return series - injected


def _moment(date: Any, time: Any) -> datetime | None:
    match = re.fullmatch(r"(\d{8})(\d{6})(?:\.(\d{1,6}))?", f"{date or ''}{time or ''}")
    if not match:
        return None
    try:
        moment = datetime.strptime(match[1] + match[2], "%Y%m%d%H%M%S")
    except ValueError:
        return None
    return moment + timedelta(microseconds=int((match[3] or "0").ljust(6, "0")))


def _within(value: Any, limits: tuple[float, float]) -> float | None:
    if value is None or value == "":
        return None
    number = float(value)
    return number if limits[0] <= number <= limits[1] else None
