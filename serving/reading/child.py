"""The locked process that reads the files of one request: codecs meet hostile bytes in here.

Rules
-----
1. Everything is imported, and every codec used once, before the lockdown: nothing can be opened
   after it.
2. One request, one answer, and the process ends: what a file broke in here never meets the next
   patient's.
3. A refusal is the text of an Invalid; of anything else its type alone is told.
"""

import importlib
import os
import socket
from collections.abc import Mapping
from typing import Any

from serving.sandbox import framing
from serving.sandbox.lockdown import SOCKET_FD, load_libraries, lock_down

_MODULES = (
    "PIL.JpegImagePlugin",
    "PIL.Jpeg2KImagePlugin",
    "PIL.PngImagePlugin",
    "PIL.TiffImagePlugin",
    "encodings.ascii",
    "encodings.idna",
    "encodings.iso8859_1",
    "encodings.latin_1",
    "pydicom.charset",
    "pydicom.pixels.decoders",
    "pydicom.pixels.decoders.gdcm",
    "pydicom.pixels.decoders.pillow",
    "pydicom.pixels.decoders.rle",
    "serving.reading.cases",
    "validators.contract.schema",
)


def main(descriptor: int, shared: int) -> None:
    """Lock this process down, read one request from the socket `descriptor`, answer it, and end."""
    os.close(shared)
    if descriptor != SOCKET_FD:
        os.dup2(descriptor, SOCKET_FD)
        os.close(descriptor)
    sock = socket.socket(fileno=SOCKET_FD)
    seccomp, landlock = load_libraries()
    warm_up()
    request, _ = framing.receive(sock, 0)
    try:
        level = lock_down(
            seccomp,
            landlock,
            memory_bytes=request["memory_bytes"],
            cpu_seconds=request["cpu_seconds"],
            landlock_cap=request["landlock_cap"],
        )
    except (OSError, RuntimeError, ValueError) as error:
        framing.send(sock, {"error": "lockdown", "detail": str(error)})
        return
    framing.send(sock, {"level": level, "versions": {}})
    try:
        asked, payload = framing.receive(sock, request["payload_limit"])
    except (framing.ClosedError, framing.ProtocolError):
        return
    except MemoryError:
        os._exit(framing.OUT_OF_MEMORY_STATUS)
    header, parts = answer(asked, payload)
    framing.send(sock, header, parts)


def answer(asked: Mapping[str, Any], payload: bytearray) -> tuple[dict[str, Any], list[Any]]:
    """The tensors of the files in `payload`, or why there are none."""
    from registry.trust.errors import Invalid
    from serving.reading.cases import Sent, tensors_of
    from validators.contract.dicom_open import guarded
    from validators.contract.schema import Contract

    contract = Contract.model_validate(asked["contract"])
    view, sent, start = memoryview(payload), [], 0
    for case, name, size in asked["files"]:
        sent.append(Sent(view[start : start + size], case, name))
        start += size
    try:
        read = guarded(
            lambda: tensors_of(contract, sent, asked["most"]), "the images can't be read"
        )
    except Invalid as error:
        code = "input_image" if error.code == Invalid.default_code else error.code
        return {"refused": error.message, "code": code}, []
    rows = [[name, array.dtype.name, list(array.shape)] for name, array in read.tensors.items()]
    parts = [array.reshape(-1).view("uint8").data for array in read.tensors.values()]
    return {"outputs": rows, "files": read.files, "noticed": read.noticed}, parts


def warm_up() -> None:
    """Import what reading needs, and decode a small image of our own by each way that there is."""
    import contextlib
    import io

    for name in _MODULES:
        with contextlib.suppress(ImportError):  # fewer compressions are read without it
            importlib.import_module(name)
    import numpy as np
    from PIL import Image

    from serving.reading.cases import Sent, _opened
    from validators.contract.dicom_file import stored
    from validators.contract.dicom_open import quiet
    from validators.contract.in_memory import InMemory
    from validators.contract.picture_file import read_picture_file

    with contextlib.suppress(ImportError):
        import gdcm  # type: ignore[import-untyped]

        gdcm.Trace.WarningOff()
        gdcm.Trace.ErrorOff()
    Image.init()
    pixels = np.arange(64, dtype=np.uint8).reshape(8, 8)
    for kind in ("PNG", "TIFF"):
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, kind)
        read_picture_file(InMemory(stream.getvalue(), "0"), "x", kind)
    with quiet():
        for data in _samples(pixels):
            opened = _opened(0, Sent(memoryview(data)))
            assert opened.header is not None
            stored(opened.header)


def _samples(pixels: Any) -> list[bytes]:
    """A DICOM file of our own: plain, run-length encoded, and as JPEG."""
    import io

    import pydicom
    from PIL import Image
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.encaps import encapsulate
    from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless, JPEGBaseline8Bit, RLELossless

    made = []
    for syntax in (ExplicitVRLittleEndian, RLELossless, JPEGBaseline8Bit, JPEG2000Lossless):
        file = Dataset()
        file.file_meta = FileMetaDataset()
        file.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        file.SOPClassUID, file.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.7", "1.2.3"
        file.SeriesInstanceUID, file.Modality = "1.2.4", "OT"
        file.Rows = file.Columns = 8
        file.SamplesPerPixel, file.PhotometricInterpretation = 1, "MONOCHROME2"
        file.BitsAllocated = file.BitsStored = 8
        file.HighBit, file.PixelRepresentation = 7, 0
        file.PixelData = pixels.tobytes()
        if syntax == RLELossless:
            file.compress(RLELossless)
        elif syntax != ExplicitVRLittleEndian:
            stream = io.BytesIO()
            Image.fromarray(pixels).save(
                stream, "JPEG" if syntax == JPEGBaseline8Bit else "JPEG2000"
            )
            file.file_meta.TransferSyntaxUID = syntax
            file.PixelData = encapsulate([stream.getvalue()])
            file["PixelData"].VR = "OB"
        whole = io.BytesIO()
        pydicom.dcmwrite(whole, file, enforce_file_format=True)
        made.append(whole.getvalue())
    return made
