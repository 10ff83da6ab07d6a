"""Which perturbations a modality has, and what each of the five severities means.

    >>> perturbation = Perturbation(kind="noise", modality="CT", severity=3, tensor="volume")
    >>> perturbation.amount, perturbation.unit
    (40.0, 'HU')

Severity 3 is what a careful site meets now and then; 5 is worse than any site should send. No
severity is meant to be typical: a protocol names one and says why.

Sources
-------
- CT noise: a scan at a quarter of the dose has twice the noise (noise goes with 1 / sqrt(dose));
  thin slices have some 10 to 40 HU. CT contrast is an error of the Hounsfield scale: the American
  College of Radiology accepts water within 5 HU (7 at most).
- MR noise is Rician (Gudbjartsson & Patz 1995). A bias field of 10 to 40 % is usual (Vovk, Pernus &
  Likar 2007); 0.1 here is BrainWeb's "20 %": from 10 % below to 10 % above.
- Radiography and mammography: quantum noise, whose variance goes with the signal; the amount is
  the relative noise at full signal (0.02 is 2,500 quanta a pixel).
- Ultrasound: speckle multiplies the signal.
- Compression: quality of the IJG scale (ITU-T T.81, annex K); 90 is what a camera writes.
- Stain: haematoxylin and eosin each stronger or weaker by this share; 5 and 20 % are the light and
  strong variation of Tellez et al. (2019).
- Blur: the standard deviation of a Gaussian in pixels of the input, within the image plane.
- Resampling: voxels this many times as long, along all axes, brought back by linear interpolation.
- Gamma: displayed intensity to this power, or to its inverse, whichever a case is dealt.
- Tables: multiples of the standard deviation of a repeated measurement, declared by the protocol.
"""

from collections.abc import Mapping
from typing import Annotated, Final, Literal, Self

from pydantic import Field, model_validator

from validators.contract.faults import fault
from validators.contract.schema import Name, Strict

Modality = Literal["CT", "MR", "radiography", "ultrasound", "pathology", "dermoscopy", "table"]
"""`radiography` is DX and MG; `pathology` and `dermoscopy` are RGB."""
Kind = Literal[
    "noise", "blur", "contrast", "resampling", "bias_field", "compression", "stain", "rounding"
]
Five = tuple[float, float, float, float, float]

_RELATIVE = "of the declared range"
_GAMMA = "power of the intensity"
_PIXELS = "pixels"
_TIMES = "times the voxel's length"
_QUALITY = "IJG quality"
_DEVIATIONS = "declared standard deviations"
_BLUR: tuple[str, Five] = (_PIXELS, (0.5, 0.75, 1.0, 1.5, 2.5))
_RESAMPLING: tuple[str, Five] = (_TIMES, (1.25, 1.5, 2.0, 3.0, 4.0))
_COMPRESSION: tuple[str, Five] = (_QUALITY, (90.0, 75.0, 50.0, 30.0, 10.0))
_CONTRAST: tuple[str, Five] = (_GAMMA, (1.1, 1.2, 1.35, 1.6, 2.0))
_RGB_NOISE: tuple[str, Five] = (_RELATIVE, (0.01, 0.02, 0.04, 0.07, 0.12))

SEVERITIES: Final[Mapping[str, Mapping[str, tuple[str, Five]]]] = {
    "CT": {
        "noise": ("HU", (10.0, 20.0, 40.0, 80.0, 160.0)),
        "blur": _BLUR,
        "contrast": ("HU of offset", (3.0, 5.0, 10.0, 20.0, 40.0)),
        "resampling": _RESAMPLING,
    },
    "MR": {
        "noise": (_RELATIVE, (0.01, 0.02, 0.04, 0.08, 0.15)),
        "blur": _BLUR,
        "contrast": _CONTRAST,
        "resampling": _RESAMPLING,
        "bias_field": ("of the intensity", (0.05, 0.1, 0.2, 0.3, 0.45)),
    },
    "radiography": {
        "noise": ("of the signal at its maximum", (0.01, 0.02, 0.04, 0.07, 0.12)),
        "blur": _BLUR,
        "contrast": _CONTRAST,
        "resampling": _RESAMPLING,
        "compression": _COMPRESSION,
    },
    "ultrasound": {
        "noise": ("of the signal", (0.05, 0.1, 0.2, 0.35, 0.6)),
        "blur": _BLUR,
        "contrast": _CONTRAST,
        "resampling": _RESAMPLING,
        "compression": _COMPRESSION,
    },
    "pathology": {
        "noise": _RGB_NOISE,
        "blur": _BLUR,
        "contrast": _CONTRAST,
        "resampling": _RESAMPLING,
        "compression": _COMPRESSION,
        "stain": ("of the stain", (0.05, 0.1, 0.2, 0.3, 0.45)),
    },
    "dermoscopy": {
        "noise": _RGB_NOISE,
        "blur": _BLUR,
        "contrast": _CONTRAST,
        "resampling": _RESAMPLING,
        "compression": _COMPRESSION,
    },
    "table": {
        "noise": (_DEVIATIONS, (0.25, 0.5, 1.0, 1.5, 2.0)),
        "rounding": (_DEVIATIONS, (0.5, 1.0, 2.0, 3.0, 4.0)),
    },
}
"""Modality, kind: the unit of the amount and its five values."""


class Perturbation(Strict):
    """One perturbation of one input tensor, as a protocol names it.

    `standard_deviations` is for tables alone: of a repeated measurement, one an element of the
    tensor, in the tensor's unit; elements with 0 are left as they are.
    """

    kind: Kind
    modality: Modality
    severity: Annotated[int, Field(ge=1, le=5)]
    tensor: Name
    standard_deviations: tuple[Annotated[float, Field(ge=0)], ...] = ()

    @model_validator(mode="after")
    def _fits_the_modality(self) -> Self:
        known = SEVERITIES[self.modality]
        if self.kind not in known:
            raise fault(
                "kind", f"{self.kind} is not defined for {self.modality}; use {', '.join(known)}"
            )
        if (self.modality == "table") != any(self.standard_deviations):
            raise fault(
                "standard_deviations",
                "a table needs one an element, above 0 at least once; images have none",
            )
        return self

    @property
    def name(self) -> str:
        """'noise_3_image': what tells it from the other perturbations of a protocol."""
        return f"{self.kind}_{self.severity}_{self.tensor}"

    @property
    def amount(self) -> float:
        """How much, in `unit`."""
        return SEVERITIES[self.modality][self.kind][1][self.severity - 1]

    @property
    def unit(self) -> str:
        """What the amount is counted in."""
        return SEVERITIES[self.modality][self.kind][0]
