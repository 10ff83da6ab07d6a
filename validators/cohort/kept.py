"""What of a DICOM header may become an attribute of a case, and how much is left of it.

    >>> kept_of(header, ("sex", "age"))
    {'sex': 'female', 'age': '60-69'}

Rules
-----
1. Nothing is kept unless it is asked for by name. What is kept is a word of a fixed list, never
   the header's own text: DICOM PS3.15 annex E, basic profile, with the options Retain Patient
   Characteristics (sex, age), Retain Device Identity (the manufacturer alone) and Retain
   Longitudinal Information with Modified Dates (the month of the study).
2. Ages are in bands of ten years, 90 and over in one. Age is the header's, or counted from birth
   to the study where there is none.
3. What a header does not say, or says in no known way, is `unknown`.
"""

import re
from collections.abc import Iterable

from registry.trust.errors import Invalid
from validators.contract.dicom_file import MODALITIES, Header

OPTIONS = {
    "sex": "Retain Patient Characteristics Option: sex",
    "age": "Retain Patient Characteristics Option: age in bands of ten years",
    "manufacturer": "Retain Device Identity Option: manufacturer alone",
    "study_month": "Retain Longitudinal Temporal Information with Modified Dates Option: month",
    "modality": "modality",
}
UNKNOWN = "unknown"
_SEX = {"M": "male", "F": "female", "O": "other"}
_MAKERS = {
    "GE": ("ge medical", "ge healthcare", "general electric"),
    "Siemens": ("siemens",),
    "Philips": ("philips", "adac", "marconi", "picker"),
    "Canon": ("canon", "toshiba"),
    "Hologic": ("hologic", "lorad"),
    "Fujifilm": ("fuji", "hitachi"),
    "Agfa": ("agfa",),
    "Carestream": ("carestream", "kodak"),
    "United Imaging": ("uih", "united imaging"),
    "Samsung": ("samsung", "medison"),
    "Konica Minolta": ("konica",),
    "IMS Giotto": ("ims s.", "giotto"),
    "Planmed": ("planmed",),
    "Sectra": ("sectra",),
    "Bruker": ("bruker",),
    "Esaote": ("esaote",),
    "Hamamatsu": ("hamamatsu",),
}


def kept_of(header: Header, asked: Iterable[str]) -> dict[str, str]:
    """The options that are asked for, each with one word."""
    answers = {
        "sex": _SEX.get(header.subject["PatientSex"].strip().upper(), UNKNOWN),
        "age": _age(header.subject),
        "manufacturer": _maker(header.subject["Manufacturer"]),
        "study_month": _month(header.subject["StudyDate"]),
        "modality": header.modality if header.modality in MODALITIES else UNKNOWN,
    }
    unknown = [name for name in asked if name not in answers]
    if unknown:
        raise Invalid(f"a header has no option {unknown[0]!r}; known are {', '.join(OPTIONS)}")
    return {name: answers[name] for name in asked}


def _age(subject: dict[str, str]) -> str:
    years: int | None = None
    if match := re.fullmatch(r"(\d{3})([DWMY])", subject["PatientAge"].strip()):
        years = int(int(match[1]) / {"D": 365.25, "W": 52.18, "M": 12, "Y": 1}[match[2]])
    else:
        birth, study = (_date(subject[name]) for name in ("PatientBirthDate", "StudyDate"))
        if birth and study:
            years = study[0] - birth[0] - (study[1:] < birth[1:])
    if years is None or not 0 <= years <= 130:
        return UNKNOWN
    return "90 and over" if years >= 90 else f"{years // 10 * 10}-{years // 10 * 10 + 9}"


def _maker(text: str) -> str:
    folded = text.strip().lower()
    if not folded:
        return UNKNOWN
    for name, parts in _MAKERS.items():
        if folded == name.lower() or any(part in folded for part in parts):
            return name
    return "another"


def _month(text: str) -> str:
    date = _date(text)
    return f"{date[0]:04d}-{date[1]:02d}" if date else UNKNOWN


def _date(text: str) -> tuple[int, int, int] | None:
    match = re.fullmatch(r"(\d{4})(\d{2})(\d{2})", text.strip())
    if not match:
        return None
    year, month, day = (int(part) for part in match.groups())
    return (year, month, day) if 1 <= month <= 12 and 1 <= day <= 31 and year >= 1850 else None
