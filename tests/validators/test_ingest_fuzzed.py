"""Damaged and hostile files: no crash, no file elsewhere, no memory without bound."""

import gzip
import io
import os
import struct
import subprocess
import sys
import warnings
import zipfile
import zlib
from functools import lru_cache
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pydicom.data
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom.uid import DeflatedExplicitVRLittleEndian

from registry.trust.errors import Invalid
from tests.validators.dicom_made import (
    IN_STACK,
    TIME,
    enhanced,
    header,
    noise,
    save,
    segmentation,
    statement,
    with_pixels,
    write_series,
)
from tests.validators.ingest_made import CT, made_contract, table
from validators.cohort.dicom_mask import read_mask
from validators.cohort.image_file import read_image
from validators.cohort.ingest import ingest
from validators.contract.dicom_file import read_header
from validators.contract.dicom_series import parts_of, read_picture
from validators.contract.harmonise import tensor_of

KINDS = ("ct", "bare", "4d", "seg", "nii", "nii.gz", "png", "tif", "bigendian")
CONTRACT = made_contract(CT)


@lru_cache
def originals(folder: str) -> dict[str, bytes]:
    """A sound file of each kind."""
    here = Path(folder)
    paths = write_series(here / "ct", "1", noise((3, 8, 8)))
    paths.sort(key=lambda p: pydicom.dcmread(p).ImagePositionPatient[2])
    mask = np.zeros((3, 8, 8), dtype=np.uint8)
    mask[1, 2:5, 2:5] = 1
    segmentation(paths, mask, here / "seg")
    frames = [{"height": place, "indices": [place, time]} for time in (1, 2) for place in (1, 2, 3)]
    enhanced(here / "4d", frames, (IN_STACK, TIME))
    nibabel.save(nibabel.Nifti1Image(noise((4, 5, 6)), np.eye(4)), here / "v.nii")
    Image.fromarray(noise((16, 16)).astype(np.uint16)).save(here / "p.png")
    Image.fromarray(noise((16, 16)).astype(np.uint8)).save(here / "p.tif")
    shipped = Path(pydicom.data.__file__).parent / "test_files/MR_small_bigendian.dcm"
    nifti = (here / "v.nii").read_bytes()
    return {
        "ct": paths[1].read_bytes(), "bare": paths[1].read_bytes()[132:],
        "4d": (here / "4d").read_bytes(), "seg": (here / "seg").read_bytes(), "nii": nifti,
        "nii.gz": gzip.compress(nifti, mtime=0), "png": (here / "p.png").read_bytes(),
        "tif": (here / "p.tif").read_bytes(), "bigendian": shipped.read_bytes(),
        **{f"slice {n}": path.read_bytes() for n, path in enumerate(paths)},
    }  # fmt: skip


@st.composite
def damages(draw: st.DrawFn) -> list[tuple[str, float, bytes]]:
    place = st.floats(0, 1, exclude_max=True)
    kind = st.sampled_from(["put", "cut", "insert", "drop"])
    return draw(st.lists(st.tuples(kind, place, st.binary(min_size=1, max_size=8)),
                         min_size=1, max_size=6))  # fmt: skip


def damaged(data: bytes, harm: list[tuple[str, float, bytes]]) -> bytes:
    made = bytearray(data)
    for kind, share, given_bytes in harm:
        place = int(share * len(made))
        if kind == "put":
            made[place : place + len(given_bytes)] = given_bytes
        elif kind == "cut":
            del made[place:]
        elif kind == "insert":
            made[place:place] = given_bytes
        else:
            del made[place : place + len(given_bytes)]
    return bytes(made)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=250, deadline=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
@given(harm=damages())
def test_a_damaged_file_is_read_or_refused_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, kind: str, harm
):
    sound = originals(str(tmp_path_factory.getbasetemp() / "sound"))
    path = tmp_path / "damaged"
    path.write_bytes(damaged(sound[kind], harm))
    slices = []
    for number in range(3):
        slices.append(tmp_path / f"slice{number}")
        slices[-1].write_bytes(sound[f"slice {number}"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            if kind in ("ct", "bare", "4d", "bigendian"):
                for volume in parts_of([read_header(p) for p in (path, *slices[::2])]).volumes:
                    values = "stored" if kind == "4d" else "HU"
                    tensor_of(read_picture(volume, values), CONTRACT.inputs[0])
            elif kind == "seg":
                (volume,) = parts_of([read_header(p) for p in slices]).volumes
                read_mask(read_header(path), volume)
            else:
                read_image(path, "x")
        except Invalid as error:
            refused = str(error)
        else:
            refused = ""
    assert "\n" not in refused
    assert "Geheim" not in refused
    assert len(refused) < 200


@pytest.mark.parametrize(
    "name", ["693_J2KI.dcm", "SC_rgb_jpeg_gdcm.dcm", "MR_small_RLE.dcm",
             "SC_rgb_jpeg_lossy_gdcm.dcm",
             "MR_small_jpeg_ls_lossless.dcm"]
)  # fmt: skip
def test_damaged_compressed_files_cost_themselves_alone(tmp_path: Path, name: str):
    shipped = Path(pydicom.data.__file__).parent / "test_files" / name
    source = tmp_path / "src"
    statement(source)
    data, rng, rows = shipped.read_bytes(), np.random.default_rng(7), []
    whole = pydicom.dcmread(shipped)
    start = data.index(b"\xe0\x7f\x10\x00")
    for number in range(24):
        made = bytearray(data)
        for _ in range(number):
            made[rng.integers(start + 20, len(made))] = rng.integers(256)
        (source / f"{number:02d}.dcm").write_bytes(made)
        rows.append({"case": f"c{number:02d}", "patient": f"p{number}", "reference": number % 2,
                     "image": f"{number:02d}.dcm"})  # fmt: skip
    table(source / "cases.csv", rows)
    channels = 3 if whole.SamplesPerPixel == 3 else 1
    contract = made_contract(
        {"name": "x", "dtype": "float32", "shape": [channels, whole.Rows, whole.Columns],
         "image": {"modality": [whole.Modality]}}
    )  # fmt: skip
    before = sorted(tmp_path.rglob("*"))
    staged = ingest(source, tmp_path / "out", contract=contract, half="all")
    assert staged.cases + sum(staged.meta["case_flow"].values()) == 24
    assert staged.table()["case"].to_pylist()[0] == "c00"
    after = sorted(p for p in tmp_path.rglob("*") if "out" not in p.relative_to(tmp_path).parts)
    assert before == after


def png_bomb() -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        body = name + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    size = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    pixels = zlib.compressobj(9)
    packed = pixels.compress(b"\0" * 100_000_000) + pixels.flush()
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")
    )


def nifti_bomb(count: tuple[int, int, int], unpacked: int) -> bytes:
    made = nibabel.Nifti1Header()
    made.set_data_dtype(np.float64)
    made.set_data_shape(count)
    made["magic"], made["vox_offset"] = b"n+1\0", 352
    text = io.BytesIO()
    with gzip.GzipFile(fileobj=text, mode="wb", mtime=0) as stream:
        stream.write(made.binaryblock + b"\0" * 4)
        for _ in range(unpacked >> 20):
            stream.write(b"\0" * (1 << 20))
    return text.getvalue()


def zip_slip() -> bytes:
    text = io.BytesIO()
    with zipfile.ZipFile(text, "w") as archive:
        archive.writestr("../../escaped", "x")
    return text.getvalue()


def deflated(folder: Path) -> Path:
    made = with_pixels(header("1", 1), np.zeros((512, 512), np.int16))
    made.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    return save(made, folder / "deflated")


READ = """
import resource, sys
from pathlib import Path
from registry.trust.errors import Invalid
from validators.contract.dicom_file import read_header, stored
from validators.contract.dicom_open import is_dicom
from validators.cohort.image_file import read_image
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
path = Path(sys.argv[1])
try:
    stored(read_header(path)) if is_dicom(path) else read_image(path, "x")
    said = "read"
except Invalid as error:
    said = str(error)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
print(said)
"""


@pytest.mark.parametrize(
    ("bomb", "said"),
    [
        ("png", ""), ("nifti that unpacks to 2 GB", "read"),
        ("nifti that promises 4 GB", "cut short"),
        ("nifti of more voxels than there are", "voxels"), ("zip", "ZIP archive"),
        ("deflated", "deflated"), ("dicom of many rows", "more than"),
        ("dicom of many frames", "more than"), ("dicom of a long element", ""),
    ],
)  # fmt: skip
def test_a_bomb_takes_little_memory_and_writes_nothing(tmp_path: Path, bomb: str, said: str):
    here = tmp_path / "in" / "deep"
    here.mkdir(parents=True)
    path = here / "bomb"
    if bomb == "deflated":
        path = deflated(here)
    elif bomb.startswith("dicom"):
        made = with_pixels(header("1", 1), noise((4, 4)))
        if "rows" in bomb:
            made.Rows = made.Columns = 65535
        elif "frames" in bomb:
            made.NumberOfFrames = 2**31 - 1
        save(made, path)
        if "element" in bomb:
            path.write_bytes(path.read_bytes().replace(b"CHEST ", b"")
                             + b"\xfc\xff\xfc\xffOB\0\0\xf0\xff\xff\xff")  # fmt: skip
    else:
        path.write_bytes({
            "png": png_bomb, "nifti that unpacks to 2 GB": lambda: nifti_bomb((2, 2, 2), 2 << 30),
            "nifti that promises 4 GB": lambda: nifti_bomb((1 << 9, 1 << 10, 1 << 10), 1 << 20),
            "nifti of more voxels than there are": lambda: nifti_bomb((9999, 9999, 9999), 0),
            "zip": zip_slip,
        }[bomb]())  # fmt: skip
    before = sorted(tmp_path.rglob("*"))
    ran = subprocess.run([sys.executable, "-W", "ignore", "-c", READ, str(path)],
                         capture_output=True, text=True, timeout=120)  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    kilobytes, answer = ran.stdout.splitlines()
    assert said in answer
    assert int(kilobytes) < 200_000
    assert sorted(tmp_path.rglob("*")) == before


def test_links_pipes_and_odd_names_in_a_source_are_no_way_out(tmp_path: Path):
    source = tmp_path / "src"
    statement(source)
    outside = write_series(tmp_path / "outside", "1", noise((2, 8, 8)))
    (source / "link.dcm").symlink_to(outside[0])
    (source / "folder").symlink_to(tmp_path / "outside")
    os.mkfifo(source / "pipe")
    (source / os.fsdecode(b"name-\xff.dcm")).write_bytes(b"\0" * 128 + b"DICM" + b"\xff" * 99)
    write_series(source / "own", "2", noise((2, 8, 8)))
    reference = table(tmp_path / "r.csv", [{"patient": "P1", "reference": 1},
                                           {"patient": "P2", "reference": 0}])  # fmt: skip
    staged = ingest(source, tmp_path / "out", contract=CONTRACT, half="all", reference=reference)
    assert staged.table()["patient"].to_pylist() == ["P2"]
    assert "\\udcff" in (staged.path / "left_out.csv").read_text()
