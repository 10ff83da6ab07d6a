"""A bundle arrives complete, or not at all."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.trust.canonical import canonical, sha256_bytes
from registry.trust.errors import Conflict, Invalid, Refused, Tampered, Unavailable
from serving.bundle.layout import check_path
from serving.bundle.pack import bundle_files, download, subjects, write_bundle
from serving.bundle.verify import verify
from tests.serving import certified
from tests.serving.certified import NOW, Facility

Files = dict[str, bytes]


@pytest.fixture(scope="module")
def tef() -> Facility:
    return certified.facility()


@pytest.fixture(scope="module")
def signed_over() -> Files:
    return certified.packed(certified.model(extra=50_000))


@pytest.fixture(scope="module")
def files(tef: Facility, signed_over: Files) -> Files:
    return certified.signed(signed_over, tef.log, tef.ada, tef.ben)


def manifest_of(files: Files) -> dict[str, dict[str, Any]]:
    return {p: {"digest": sha256_bytes(d), "size": len(d)} for p, d in files.items()}


class Server:
    """Serves `files` as the registry does; may hang up, or lie."""

    def __init__(self, files: Files) -> None:
        self.files = dict(files)
        self.asked: list[tuple[str, int]] = []
        self.hang_up_after: int | None = None

    def fetch(self, path: str, start: int) -> Iterator[bytes]:
        self.asked.append((path, start))
        data = self.files[path][start:]
        sent = 0
        for at in range(0, len(data), 1000):
            if self.hang_up_after is not None and sent >= self.hang_up_after:
                raise Unavailable("connection lost")
            yield data[at : at + 1000]
            sent += 1000


def leftovers(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


# -- packing -----------------------------------------------------------------------------------


def test_the_subjects_are_every_file_but_the_signatures(files: Files, signed_over: Files) -> None:
    assert set(subjects(files)) == set(files) - {
        "certificate.json", "signers.pem", "enrolments.json", "log.json",
    }  # fmt: skip
    assert subjects(files) == {path: sha256_bytes(data) for path, data in signed_over.items()}


def test_what_a_bundle_does_not_hold_is_not_packed(signed_over: Files) -> None:
    def pack(**changes: Any) -> Files:
        given = {
            "model_files": {"model.onnx": b"m"},
            "contract": signed_over["contract.json"],
            "protocol": signed_over["protocol.json"],
            "report": signed_over["report.json"],
            "label": "label",
            "golden": {p: signed_over[p] for p in signed_over if p.startswith("golden/")},
        }
        return bundle_files(**(given | changes))

    assert set(pack(model_files={"model.onnx": b"m", "w-1.data": b"d"})) == {
        "contract.json", "protocol.json", "report.json", "model-label.txt", "model/model.onnx",
        "model/w-1.data", "golden/inputs.bin", "golden/expected.json",
    }  # fmt: skip
    documents = {
        "model-card.xml": b"<?xml version='1.0'?><AppliedModelCard/>",
        "report.pdf": b"%PDF-1.7",
        "reference-summary.json": b"{}",
    }
    assert documents.items() <= pack(documents=documents).items()
    assert set(documents) <= set(subjects(pack(documents=documents)))
    refused: list[dict[str, Any]] = [
        {"documents": {"model-card.xml": b"[]"}},
        {"documents": {"report.pdf": b"<html>"}},
        {"documents": {"ml-bom.json": b"[]"}},
        {"documents": {"sbom.json": b"{} "}},
        {"documents": {"contract.json": b"{}"}},
        {"documents": {"notes.txt": b""}},
        {"model_files": {}},
        {"model_files": {"model.onnx": b"m", "model.pkl": b"p"}},
        {"model_files": {"model.onnx": b"m", "../x.data": b"d"}},
        {"golden": {}},
        {"report": b"{}  "},
        {"report": canonical({"schema_id": "touchstone/report/v1"})},
        {"contract": canonical([1])},
        {"protocol": b"not json"},
    ]
    for changes in refused:
        with pytest.raises((Invalid, Refused)):
            pack(**changes)


PARTS = st.text(alphabet="abAB09._-/\\:*? \n\t\0é~$", min_size=1, max_size=12)


@given(path=PARTS)
def test_a_name_that_is_let_through_stays_inside_on_every_system(path: str) -> None:
    try:
        check_path(path)
    except Invalid:
        return
    assert not Path(path).is_absolute()
    assert os.path.normpath(path) == path
    assert not any(character in path for character in '\\:*?"<>| \n\t\0~$')
    for part in path.split("/"):
        assert part not in ("", ".", "..")
        assert not part.startswith(".")
        assert not part.endswith((".", " "))


def test_writing_is_complete_or_absent(files: Files, tmp_path: Path) -> None:
    target = write_bundle(files, tmp_path / "b")
    assert {p.relative_to(target).as_posix(): p.read_bytes()
            for p in target.rglob("*") if p.is_file()} == files  # fmt: skip
    with pytest.raises(Conflict):
        write_bundle(files, target)
    (tmp_path / "empty").mkdir()
    with pytest.raises(Conflict):
        write_bundle(files, tmp_path / "empty")
    (tmp_path / "dangling").symlink_to("nowhere")
    with pytest.raises(Conflict):
        write_bundle(files, tmp_path / "dangling")
    assert leftovers(tmp_path) == ["b", "dangling", "empty"]


def test_a_write_that_fails_leaves_nothing(files: Files, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way of a directory")
    with pytest.raises(Unavailable):
        write_bundle(files, tmp_path / "file" / "b")

    small = {"a": b"1", "b": object()}
    with pytest.raises(TypeError):
        write_bundle(small, tmp_path / "b")  # type: ignore[arg-type]
    assert leftovers(tmp_path) == ["file"]


# -- fetching ----------------------------------------------------------------------------------


def test_a_download_is_the_bundle_and_verifies(files: Files, tef: Facility, tmp_path: Path) -> None:
    server = Server(files)
    told: list[tuple[int, int]] = []
    target = download(
        manifest_of(files), server.fetch, tmp_path / "b",
        on_progress=lambda here, total: told.append((here, total)),
    )  # fmt: skip
    assert verify(target, tef.root.certificate, NOW, certified.TAKES, replay=False).ok
    assert leftovers(tmp_path) == ["b"]
    assert told[-1][0] == told[-1][1] == sum(map(len, files.values()))
    assert [here for here, _ in told] == sorted(here for here, _ in told)


def test_a_download_goes_on_where_it_stopped(files: Files, tmp_path: Path) -> None:
    server = Server(files)
    server.hang_up_after = 20_000
    with pytest.raises(Unavailable):
        download(manifest_of(files), server.fetch, tmp_path / "b")
    assert not (tmp_path / "b").exists()
    first = dict(server.asked)
    server.asked.clear()
    server.hang_up_after = None
    download(manifest_of(files), server.fetch, tmp_path / "b")
    again = dict(server.asked)
    assert again["model/model.onnx"] == 20_000
    assert set(first) & set(again) == {"model/model.onnx"}, "finished files are not fetched twice"
    assert (tmp_path / "b/model/model.onnx").read_bytes() == files["model/model.onnx"]


def test_a_connection_that_ends_early_without_an_error_is_noticed(
    files: Files, tmp_path: Path
) -> None:
    def short(path: str, start: int) -> list[bytes]:
        return [files[path][start:-1]]

    with pytest.raises(Unavailable) as raised:
        download(manifest_of(files), short, tmp_path / "b")
    assert raised.value.code == "interrupted"


def test_a_changed_byte_on_the_way_is_refused_by_name(files: Files, tmp_path: Path) -> None:
    server = Server(files)
    changed = bytearray(files["model/model.onnx"])
    changed[77] ^= 1
    server.files["model/model.onnx"] = bytes(changed)
    with pytest.raises(Tampered, match=r"model/model\.onnx") as raised:
        download(manifest_of(files), server.fetch, tmp_path / "b")
    assert raised.value.code == "file_changed"
    assert not (tmp_path / "b").exists()
    server.files = dict(files)
    assert download(manifest_of(files), server.fetch, tmp_path / "b").exists()


def test_wrong_bytes_of_an_earlier_attempt_are_fetched_anew(files: Files, tmp_path: Path) -> None:
    partial = tmp_path / ".b.partial"
    (partial / "model").mkdir(parents=True)
    (partial / "model/model.onnx").write_bytes(b"x" * 5000)
    (partial / "report.json").write_bytes(b"y" * 100_000)  # longer than it should be
    (partial / "old.txt").write_text("of another version")
    (partial / "golden").symlink_to(tmp_path)
    (partial / "other").mkdir()
    (partial / "contract.json").symlink_to(tmp_path / "outside")
    server = Server(files)
    target = download(manifest_of(files), server.fetch, tmp_path / "b")
    assert {p.relative_to(target).as_posix(): p.read_bytes()
            for p in target.rglob("*") if p.is_file()} == files  # fmt: skip
    assert ("model/model.onnx", 5000) in server.asked
    assert ("model/model.onnx", 0) in server.asked
    assert leftovers(tmp_path) == ["b"]
    assert not any(path.is_symlink() for path in target.rglob("*"))


def test_a_server_that_ignores_where_to_start_does_no_harm(files: Files, tmp_path: Path) -> None:
    server = Server(files)
    server.hang_up_after = 20_000
    with pytest.raises(Unavailable):
        download(manifest_of(files), server.fetch, tmp_path / "b")
    target = download(manifest_of(files), lambda path, _: [files[path]], tmp_path / "b")
    assert (target / "model/model.onnx").read_bytes() == files["model/model.onnx"]


def test_a_server_that_sends_without_end_is_cut_off(files: Files, tmp_path: Path) -> None:
    sent = 0

    def endless(path: str, start: int) -> Iterator[bytes]:
        nonlocal sent
        while sent < 64 << 20:  # endless enough, and kind to the disk should this fail
            sent += 1 << 20
            yield bytes(1 << 20)

    with pytest.raises(Tampered):
        download(manifest_of(files), endless, tmp_path / "b")
    assert sent <= 2 << 20


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"../evil": {"digest": "sha256:" + "0" * 64, "size": 1}}, Invalid),
        ({"/abs": {"digest": "sha256:" + "0" * 64, "size": 1}}, Invalid),
        ({".git/config": {"digest": "sha256:" + "0" * 64, "size": 1}}, Invalid),
        ({"REPORT.json": {"digest": "sha256:" + "0" * 64, "size": 1}}, Invalid),
        ({"CERTIFICATE.json": {"digest": "sha256:" + "0" * 64, "size": 1}}, Invalid),
        ({"report.json/x": {"digest": "sha256:" + "0" * 64, "size": 1}}, Invalid),
        ({"report.json": {"digest": "md5:0", "size": 1}}, Invalid),
        ({"report.json": {"digest": "sha256:" + "0" * 64, "size": -1}}, Invalid),
        ({"report.json": {"digest": "sha256:" + "0" * 64, "size": 1 << 50}}, Invalid),
        ({"report.json": {"digest": "sha256:" + "0" * 64, "size": True}}, Invalid),
        ({"report.json": None}, Invalid),
        ({"model/evil.so": {"digest": "sha256:" + "0" * 64, "size": 1}}, Refused),
        ({"certificate.json": "absent"}, Invalid),
        ({"golden/inputs.bin": "absent"}, Invalid),
    ],
    ids=str,
)
def test_a_hostile_list_writes_nothing(
    files: Files, tmp_path: Path, change: dict[str, Any], error: type[Exception]
) -> None:
    manifest = {p: f for p, f in (manifest_of(files) | change).items() if f != "absent"}
    server = Server(files)
    with pytest.raises(error):
        download(manifest, server.fetch, tmp_path / "b")
    assert server.asked == []
    assert leftovers(tmp_path) == []


def test_an_existing_directory_is_never_touched(files: Files, tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "mine.txt").write_text("mine")
    with pytest.raises(Conflict):
        download(manifest_of(files), Server(files).fetch, tmp_path / "b")
    assert leftovers(tmp_path / "b") == ["mine.txt"]


def test_two_pulls_into_one_place_do_not_mix(files: Files, tmp_path: Path) -> None:
    server, started, go_on = Server(files), threading.Event(), threading.Event()

    def slow(path: str, start: int) -> Iterator[bytes]:
        started.set()
        go_on.wait(30)
        yield from server.fetch(path, start)

    first = threading.Thread(target=download, args=(manifest_of(files), slow, tmp_path / "b"))
    first.start()
    assert started.wait(30)
    with pytest.raises(Conflict) as raised:
        download(manifest_of(files), server.fetch, tmp_path / "b")
    assert raised.value.code == "already_pulling"
    go_on.set()
    first.join(30)
    assert (tmp_path / "b").is_dir()


def test_a_full_disk_is_told_in_one_line_and_nothing_is_lost(files: Files, tmp_path: Path) -> None:
    """A real limit: the process may write files of 100 kB at most."""
    program = """
import json, resource, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from registry.trust.errors import TouchstoneError
from serving.bundle.pack import download
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
source = Path(sys.argv[1])
manifest = json.loads((source / "manifest").read_text())
names = {path: source / path.replace("/", "_") for path in manifest}
try:
    download(manifest, lambda path, start: [names[path].read_bytes()[start:]], source / "b")
except TouchstoneError as error:
    print(error.code, error.message)
"""
    for path, data in files.items():
        (tmp_path / path.replace("/", "_")).write_bytes(data)
    (tmp_path / "manifest").write_text(json.dumps(manifest_of(files)))
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path), str(Path(__file__).parents[2])],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.startswith("not_written ")
    assert "pull again to go on" in done.stdout
    assert not (tmp_path / "b").exists()
    server = Server(files)
    download(manifest_of(files), server.fetch, tmp_path / "b")
    assert ("model/model.onnx", 100_000) in server.asked
