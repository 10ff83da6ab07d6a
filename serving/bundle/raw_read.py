"""From the files of a golden case to the model's inputs, by the code of an ingest.

    >>> image_of(contract.inputs[0], {"00.dcm": b"…"}).shape
    (1, 96, 256, 256)

Rules
-----
1. DICOM by `validators.contract.dicom_*`, a PNG by `picture_file`, then `harmonise`: as an ingest.
   Nothing here decides what is done to a pixel.
2. The files were signed over, so they are read in this process.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

from numpy.typing import NDArray

from registry.trust.errors import Invalid
from validators.contract.dicom_file import read_header
from validators.contract.dicom_open import guarded
from validators.contract.dicom_series import parts_of, read_picture
from validators.contract.harmonise import tensor_of
from validators.contract.in_memory import InMemory
from validators.contract.picture_file import read_picture_file
from validators.contract.schema import Tensor


def image_of(tensor: Tensor, files: Mapping[str, bytes]) -> NDArray[Any]:
    """The tensor of one case, in the type that the model takes. Raises Invalid."""
    assert tensor.image is not None
    if len(files) == 1 and next(iter(files)).endswith(".png"):
        (data,) = files.values()
        read = partial(read_picture_file, InMemory(data, "0"), tensor.name, "PNG")
        picture = guarded(read, f"the picture of {tensor.name} can't be read")
        return tensor_of(picture, tensor).astype(tensor.dtype)
    parts = parts_of(read_header(InMemory(data, name)) for name, data in files.items())
    if parts.refused:
        raise Invalid(parts.refused[0][1])
    if len(parts.volumes) != 1 or parts.volumes[0].first.modality not in tensor.image.modality:
        raise Invalid(f"the files of {tensor.name} are not one image that its contract takes")
    picture = read_picture(parts.volumes[0], tensor.image.values)
    return tensor_of(picture, tensor).astype(tensor.dtype)
