"""A picture without a place in space: a PNG or TIFF file.

    >>> picture = read_picture_file(path, "photograph", "PNG")

Rules
-----
1. One image of 8 or 16 bit grey or 8 bit RGB, as its pixels are stored. Palettes, transparency,
   several pages and turned pages are refused. Text in the file is never read.
2. Its size is checked before a pixel is decoded.
"""

import math

import numpy as np
from PIL import Image

from registry.trust.errors import Invalid
from validators.contract.dicom_file import LARGEST
from validators.contract.harmonise import Picture
from validators.contract.in_memory import File

_STARTS = {b"\x89PNG": "PNG", b"II*\0": "TIFF", b"MM\0*": "TIFF"}
_MODES = ("L", "RGB", "I;16", "I;16B")
_TURNED = 274


def kind_of(start: bytes) -> str | None:
    """`PNG` or `TIFF` by a file's first four bytes, or None."""
    return _STARTS.get(start[:4])


def read_picture_file(path: File, name: str, kind: str) -> Picture:
    """The picture; `name` is the tensor's. Raises Invalid, and what Pillow raises."""
    with path.open("rb") as stream, Image.open(stream, formats=[kind]) as image:
        if image.mode not in _MODES or getattr(image, "n_frames", 1) != 1:
            raise Invalid(f"the file of {name} is not one image in 8 or 16 bit grey or 8 bit RGB")
        if math.prod(image.size) * len(image.getbands()) > LARGEST:
            raise Invalid(f"the file of {name} has more than {LARGEST} values")
        if kind == "TIFF" and image.tag_v2.get(_TURNED, 1) != 1:  # type: ignore[attr-defined]
            raise Invalid(f"the file of {name} is stored turned; write it upright")
        pixels = np.asarray(image)
    native = pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
    channels = native[np.newaxis] if native.ndim == 2 else np.moveaxis(native, -1, 0)
    return Picture(channels[:, np.newaxis])
