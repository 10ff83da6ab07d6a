"""A multipart body (RFC 7578 and RFC 2387, as DICOMweb's STOW-RS sends it), and what its parts say.

    curl localhost:8500/v1/predict -F case=p-17 -F ct=@1.dcm -F ct=@2.dcm -F age=61
    curl localhost:8500/v1/predict -F p-17/ct=@a.dcm -F p-17/age=61 -F p-18/ct=@b.dcm -F p-18/age=48

Rules
-----
1. A part of a form is called INPUT, or CASE/INPUT where there are several cases. Files are images;
   the others are the contract's numbers, one a part (NAME, or NAME.0, NAME.1, …), and `case`, the
   pseudonym of the only case.
2. Parts of multipart/related have no names: every series or picture is a case by itself, which
   does for contracts of one image and no number.
3. Files stay where they lie in the body; nothing of them is looked at here. File names are never
   read.
4. A message names a part by its place or by an input of the contract, and never what it holds.
"""

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from email.message import Message
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser

from registry.trust.errors import Invalid
from serving.problems import TooLarge, UnsupportedType
from serving.reading.process import File
from serving.wire import LARGEST_BATCH, case_names
from validators.contract.schema import Contract, Tensor

# It quotes bytes of the body.
logging.getLogger("python_multipart").setLevel(logging.CRITICAL + 1)

MOST_PARTS: Final = 8192
_LONGEST_TEXT: Final = 64
_NUMBER: Final = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?", re.ASCII)
_CASE: Final = "case"


@dataclass(frozen=True)
class Part:
    """One part of the body: its name (empty where it has none), whether a file, its bytes."""

    name: str = field(repr=False)
    file: bool
    data: memoryview = field(repr=False)


@dataclass(frozen=True)
class Form:
    """Files, and the numbers of each case by input ([cases, ...]); names of cases, if given."""

    files: tuple[File, ...] = field(repr=False)
    numbers: Mapping[str, NDArray[Any]] = field(repr=False)
    names: tuple[str, ...] | None = field(repr=False)


def read_form(contract: Contract, content_type: str, body: bytearray) -> Form:
    """What the body says. Raises Invalid, TooLarge, UnsupportedType."""
    kind, boundary = _boundary(content_type)
    parts = _parts(body, boundary)
    if kind == "multipart/related":
        parts = [Part("", True, part.data) for part in parts]
    if not any(part.file for part in parts):
        raise Invalid("the request holds no file", code="bad_request")
    if kind == "multipart/related" and _numbers_of(contract):
        raise Invalid(
            "the contract takes numbers beside the image: send multipart/form-data with a part "
            "for each",
            code="input_names",
        )
    several = any("/" in part.name for part in parts)
    if several and not all("/" in part.name for part in parts):
        raise Invalid(
            "either all parts are called CASE/INPUT or none is", code="input_names"
        )  # else nobody knows whose a number is
    return _named(contract, parts) if several else _unnamed(contract, parts)


def _named(contract: Contract, parts: Sequence[Part]) -> Form:
    names = tuple(dict.fromkeys(part.name.split("/", 1)[0] for part in parts))
    if len(names) > LARGEST_BATCH:
        raise TooLarge(f"a request holds at most {LARGEST_BATCH} cases")
    case_names(names, len(names))
    place = {name: number for number, name in enumerate(names)}
    files, texts = [], [dict[str, str]() for _ in names]
    for part in parts:
        case, _, name = part.name.partition("/")
        if part.file:
            files.append(File(part.data, place[case], name))
        else:
            _add(texts[place[case]], name, part)
    return Form(tuple(files), _numbers(contract, texts), names)


def _unnamed(contract: Contract, parts: Sequence[Part]) -> Form:
    text: dict[str, str] = {}
    for part in parts:
        if not part.file:
            _add(text, part.name, part)
    name = text.pop(_CASE, None)
    names = None if name is None else case_names([name], 1)
    # With a name or a number all files are of one case; else each series is one.
    case = 0 if names is not None or _numbers_of(contract) else None
    files = tuple(File(part.data, case, part.name) for part in parts if part.file)
    return Form(files, _numbers(contract, [text]), names)


def _add(texts: dict[str, str], name: str, part: Part) -> None:
    if name in texts:
        raise Invalid("a number is given twice for one case", code="bad_request")
    if len(part.data) > _LONGEST_TEXT:
        raise Invalid("a part that is no file is longer than a number", code="bad_request")
    texts[name] = bytes(part.data).decode("ascii", "replace").strip()


def _numbers_of(contract: Contract) -> list[Tensor]:
    return [tensor for tensor in contract.inputs if tensor.image is None]


def _numbers(contract: Contract, texts: Sequence[Mapping[str, str]]) -> dict[str, NDArray[Any]]:
    columns = {tensor.name: _columns(tensor) for tensor in _numbers_of(contract)}
    known = {column for names in columns.values() for column in names}
    if any(set(text) != known for text in texts):
        wanted = ", ".join(sorted(known)) or "none"
        raise Invalid(
            f"the parts that are no files must be exactly, for each case: {wanted}",
            code="input_names",
        )
    return {
        tensor.name: np.stack(
            [_number(tensor, [text[name] for name in columns[tensor.name]]) for text in texts]
        )
        for tensor in _numbers_of(contract)
    }


def _columns(tensor: Tensor) -> tuple[str, ...]:
    if tensor.shape in ((), (1,)):
        return (tensor.name,)
    if len(tensor.shape) != 1:
        raise Invalid(
            f"{tensor.name} has {len(tensor.shape)} axes: send tensors as JSON", code="input_names"
        )
    return tuple(f"{tensor.name}.{number}" for number in range(tensor.shape[0]))


def _number(tensor: Tensor, texts: Sequence[str]) -> NDArray[Any]:
    if not all(_NUMBER.fullmatch(text) for text in texts):
        raise Invalid(f"a value of {tensor.name} is no number", code="input_dtype")
    values = np.array([float(text) for text in texts])
    dtype = np.dtype(tensor.dtype)
    with np.errstate(all="ignore"):
        made = values.astype(dtype)
    if dtype.kind in "iub" and (made.astype(np.float64) != values).any():
        raise Invalid(f"a value of {tensor.name} is no {tensor.dtype}", code="input_dtype")
    return made.reshape(tensor.shape)


def _boundary(content_type: str) -> tuple[str, bytes]:
    message = Message()
    message["content-type"] = content_type
    boundary = message.get_param("boundary")
    if not isinstance(boundary, str) or not 0 < len(boundary) <= 70 or not boundary.isascii():
        raise UnsupportedType("a multipart body needs its boundary in Content-Type")
    return message.get_content_type(), boundary.encode()


def _parts(body: bytearray, boundary: bytes) -> list[Part]:
    """The parts, their bytes as views of the body wherever they lie in one piece."""
    view = memoryview(body)
    parts: list[Part] = []
    header: list[bytearray] = [bytearray(), bytearray()]
    headers: dict[str, str] = {}
    pieces: list[memoryview] = []
    ended = False

    def part_begin() -> None:
        if len(parts) >= MOST_PARTS:
            raise TooLarge(f"the request has more than {MOST_PARTS} parts")
        headers.clear()
        pieces.clear()

    def header_begin() -> None:
        header[0].clear()
        header[1].clear()

    def header_field(data: bytes, start: int, end: int) -> None:
        header[0].extend(data[start:end])

    def header_value(data: bytes, start: int, end: int) -> None:
        header[1].extend(data[start:end])

    def header_end() -> None:
        name, value = (bytes(text).decode("utf-8", "replace") for text in header)
        headers[name.lower().strip()] = value.strip()

    def part_data(data: bytes, start: int, end: int) -> None:
        whole = view if data is body else memoryview(data)  # else a piece that the parser kept
        pieces.append(whole[start:end])

    def part_end() -> None:
        data = pieces[0] if len(pieces) == 1 else memoryview(b"".join(pieces))
        parts.append(_part(headers, data))

    def over() -> None:
        nonlocal ended
        ended = True

    parser = MultipartParser(
        boundary,
        {
            "on_part_begin": part_begin,
            "on_part_data": part_data,
            "on_part_end": part_end,
            "on_header_begin": header_begin,
            "on_header_field": header_field,
            "on_header_value": header_value,
            "on_header_end": header_end,
            "on_end": over,
        },
    )
    try:
        parser.write(body)  # type: ignore[arg-type]
        parser.finalize()
    except FormParserError as error:
        raise Invalid("the multipart body is damaged", code="bad_multipart") from error
    if not ended:
        raise Invalid("the multipart body has no end: send it again", code="bad_multipart")
    return parts


def _part(headers: Mapping[str, str], data: memoryview) -> Part:
    disposition = Message()
    disposition["content-disposition"] = headers.get("content-disposition", "")
    disposition["content-type"] = headers.get("content-type", "text/plain")
    name = disposition.get_param("name", "", "content-disposition")
    given = disposition.get_param("filename", None, "content-disposition")
    file = given is not None or disposition.get_content_maintype() != "text"
    if headers.get("content-transfer-encoding", "binary").lower() not in ("binary", "8bit", "7bit"):
        raise UnsupportedType("a part is encoded; send its bytes as they are")
    return Part(name if isinstance(name, str) else "", file, data)
