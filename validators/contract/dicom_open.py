"""Open a file that says it is DICOM, whatever is in it.

Rules
-----
1. Whatever pydicom raises becomes Invalid: one line without a value of the file. Its own messages
   quote the file, so they are not passed on, and neither are its warnings.
2. Deflated files are refused: how far they unfold can't be known before.
3. A file without preamble, or that names no transfer syntax, is read where its pixels are not
   compressed: exactly as many bytes as the header says.
"""

import contextlib
import logging
import re
import warnings
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import pydicom
from pydicom.dataset import Dataset
from pydicom.filereader import _read_file_meta_info, read_dataset, read_preamble
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from registry.trust.errors import Invalid
from validators.contract.in_memory import File

_FIRST = re.compile(
    # The first element of a bare data set: file meta, or group 0008 up to its class and instance;
    # then its explicit representation, or a short length.
    rb"(\x02\0[\0\x01\x02\x10]\0|\x08\0[\0\x01\x05\x08\x12-\x16\x18]\0)"
    rb"((UL|CS|UI|DA|TM|OB)|[\0-\xff][\0-\x03]\0\0)"
    rb"|\0\x08\0[\0\x01\x05\x08\x12-\x16\x18](UL|CS|UI|DA|TM)",
    re.DOTALL,
)
Result = TypeVar("Result")


def is_dicom(path: File) -> bool:
    """Whether the file has DICOM's preamble, or begins as a data set does without one."""
    with path.open("rb") as stream:
        start = stream.read(132)
    return start[128:] == b"DICM" or _is_bare(start)


def _is_bare(start: bytes) -> bool:
    return start[128:] != b"DICM" and _FIRST.match(start) is not None


def guarded(read: Callable[[], Result], what: str) -> Result:
    """What `read` gives; whatever it raises becomes Invalid, without the file's own words."""
    try:
        with quiet():
            return read()
    except Invalid:
        raise
    except MemoryError as error:
        raise Invalid(f"{what}: it needs more memory than there is") from error
    except Exception as error:  # noqa: BLE001
        # pydicom and its decoders raise nearly everything on a damaged file.
        raise Invalid(f"{what} ({type(error).__name__})") from None


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No warning and no log of pydicom: they quote values of the file."""
    logger = logging.getLogger("pydicom")
    before, validation = logger.level, pydicom.config.settings.reading_validation_mode
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logger.setLevel(logging.CRITICAL + 1)
        pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
        try:
            yield
        finally:
            logger.setLevel(before)
            pydicom.config.settings.reading_validation_mode = validation


def dataset(path: File, **how: Any) -> Dataset:
    """The file, opened by pydicom; a deflated one is not."""
    with path.open("rb") as stream:
        start = stream.read(132)
        bare = _is_bare(start)
        stream.seek(0)
        if not bare:
            read_preamble(stream, False)
            meta: Dataset = _read_file_meta_info(stream)
        elif start.startswith(b"\x02\0"):  # the file meta, always in explicit little endian
            meta = read_dataset(
                stream, False, True, stop_when=lambda tag, vr, size: tag > 0x0002FFFF
            )
        else:
            meta = Dataset()
        if meta.get("TransferSyntaxUID", "") == DeflatedExplicitVRLittleEndian:
            raise Invalid("the file is deflated; write it in another transfer syntax")
        stream.seek(0)
        return pydicom.dcmread(stream, force=bare, **how)


def plain_syntax(found: Dataset, values: int) -> UID:
    """The transfer syntax of a file that names none. values: how many its header tells of."""
    plain = "PixelData" in found and not found["PixelData"].is_undefined_length
    size = values * int(found.BitsAllocated) // 8
    if not plain or len(found.PixelData) not in (size, size + 1):
        raise Invalid(
            "the file names no transfer syntax and its pixels are not plain: write it anew"
        )
    implicit, little = found.original_encoding
    if not little:
        return ExplicitVRBigEndian
    return ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
