"""The gate's rules that need no server: names, paths, files, and registering from a path."""

import string
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from registry.mlflow_gate import naming
from registry.mlflow_gate.refusal import without_database_talk
from registry.mlflow_gate.register import register_path
from registry.mlflow_gate.routes import plain_path
from registry.mlflow_gate.sealed import ArtifactFolder, Place
from registry.mlflow_gate.versions import model_directory
from registry.trust.errors import (
    Conflict,
    Invalid,
    NotFound,
    Refused,
    Tampered,
    TouchstoneError,
    Unauthenticated,
    Unavailable,
)
from tests.registry.mlflow_server import Gate, network

MODEL = "m-" + "0" * 32
HOME = f"workspaces/acme/1/models/{MODEL}/artifacts"
LOWER = set(string.ascii_lowercase + string.digits + "-")


@given(st.text(max_size=80))
@example("dev-x\n")
@example("dev-")
@example("clinical-pilot")
def test_an_alias_is_dev_and_plain_letters_or_refused(alias: str) -> None:
    plain = alias.startswith("dev-") and 5 <= len(alias) <= 64 and set(alias) <= LOWER
    if plain:
        naming.check_alias(alias)
    else:
        with pytest.raises(Refused):
            naming.check_alias(alias)


@given(st.text(alphabet="touchsTOUCHSnev.\u00ad\u200b ｔо\n", max_size=16))
@example("touchstone")
@example("\u0442ouchstone.verdict")  # Cyrillic
@example("touch-stone")
@example("t o u c h s t o n e")
@example("my touchstone")
def test_a_tag_that_reads_touchstone_is_reserved(key: str) -> None:
    letters = "".join(c for c in key.lower() if c in string.ascii_lowercase + string.digits)
    if key and key.isascii() and key.isprintable() and not letters.startswith("touchstone"):
        naming.check_tag(key)
    else:
        with pytest.raises(Refused):
            naming.check_tag(key)


@given(st.binary(max_size=60).map(lambda tail: b"/api/2.0/mlflow/" + tail))
def test_a_path_that_passes_means_what_it_spells(raw: bytes) -> None:
    try:
        path = plain_path(raw)
    except Refused:
        return
    assert path.encode() == raw
    assert not {"", ".", ".."} & set(path[1:].split("/"))
    assert not set("%\\;?#\0\n ") & set(path)


@given(st.text(alphabet="ab./\\%\0é ~-", max_size=30))
def test_a_place_never_leaves_its_home(tail: str) -> None:
    try:
        place = Place.parse(f"{HOME}/{tail}")
    except Invalid:
        return
    assert place.path.as_posix() == f"{HOME}/{tail}".rstrip("/")
    assert Path("/root", place.path).resolve() == Path("/root", place.path)


@pytest.mark.parametrize("path", ["", "x", "workspaces/acme", f"/{HOME}/x", f"{HOME}x",
                                  HOME.replace("m-0", "M-0") + "/x", HOME + "/x/"])  # fmt: skip
def test_other_places_do_not_exist(path: str) -> None:
    with pytest.raises(Invalid):
        Place.parse(path)


def publish(folder: ArtifactFolder, name: str, content: bytes) -> None:
    with folder.incoming() as (_, temporary):
        temporary.write_bytes(content)
        folder.publish(temporary, Place.parse(f"{HOME}/{name}"))


def read(folder: ArtifactFolder) -> None:
    with folder.opened("acme", "1", MODEL):
        pass


def test_of_many_uploads_to_one_name_one_wins(tmp_path: Path) -> None:
    folder = ArtifactFolder(tmp_path)
    outcomes: list[str] = []

    def upload(content: bytes) -> None:
        try:
            publish(folder, "model.onnx", content)
            outcomes.append("stored")
        except Conflict:
            outcomes.append("refused")

    threads = [threading.Thread(target=upload, args=(bytes([n]) * 9000,)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["refused"] * 15 + ["stored"]
    assert len(set((tmp_path / HOME / "model.onnx").read_bytes())) == 1


def test_a_seal_and_uploads_take_turns(tmp_path: Path) -> None:
    """Whatever order they come in, the seal names exactly the files that are there."""
    folder = ArtifactFolder(tmp_path)
    publish(folder, "model.onnx", b"x")

    def upload(number: int) -> None:
        try:
            publish(folder, f"more-{number}", b"y")
        except Refused:
            return

    threads = [threading.Thread(target=upload, args=(n,)) for n in range(30)]
    for thread in threads:
        thread.start()
    sealed = folder.seal("acme", "1", MODEL)
    for thread in threads:
        thread.join()
    assert set(sealed) == {path.name for path in (tmp_path / HOME).iterdir()}
    with folder.opened("acme", "1", MODEL) as directory:
        assert directory == tmp_path / HOME
    assert folder.seal("acme", "1", MODEL) == sealed


def test_a_sealed_model_that_changed_is_named(tmp_path: Path) -> None:
    folder = ArtifactFolder(tmp_path)
    publish(folder, "model.onnx", b"x")
    with pytest.raises(NotFound):
        read(folder)
    folder.seal("acme", "1", MODEL)
    (tmp_path / HOME / "second").hardlink_to(tmp_path / HOME / "model.onnx")
    with pytest.raises(Tampered, match="second name"):
        read(folder)
    (tmp_path / HOME / "second").unlink()
    (tmp_path / HOME / "model.onnx").unlink()
    with pytest.raises(Tampered, match=r"model\.onnx"):
        read(folder)


def test_what_cut_off_uploads_left_is_removed(tmp_path: Path) -> None:
    folder = ArtifactFolder(tmp_path)
    (tmp_path / ".incoming" / "old").write_bytes(b"x")
    folder.discard_stale(time.time() - 60)
    assert (tmp_path / ".incoming" / "old").exists()
    folder.discard_stale(time.time() + 60)
    assert not (tmp_path / ".incoming" / "old").exists()


def test_a_full_disk_is_said_in_a_sentence(tmp_path: Path, monkeypatch: Any) -> None:
    import errno

    folder = ArtifactFolder(tmp_path)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.link", full)
    with pytest.raises(Unavailable, match="disk is full"):
        publish(folder, "model.onnx", b"x")


def test_sql_is_cut_out_of_an_answer() -> None:
    body = b'{"error_code": "X", "message": "it exists. Error: (psycopg.errors.E) d\\n[SQL: S]"}'
    assert without_database_talk(body) == (
        b'{"error_code": "X", "message": "it exists; nothing was changed"}'
    )
    assert b"psycopg" not in without_database_talk(b"<html>psycopg</html>")
    assert without_database_talk(b"{}") == b"{}"


def test_importing_the_gate_does_not_import_mlflow() -> None:
    code = (
        "import sys; from registry.mlflow_gate import app, front, register, routes, versions;"
        "assert 'mlflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_a_bare_onnx_file_is_registered_from_its_path(gate: Gate, tmp_path: Path) -> None:
    import onnx

    onnx.save(network(), tmp_path / "net.onnx")
    told: list[tuple[int, int]] = []
    arguments = ("bare", gate.url, gate.tokens["sme-a"])
    assert register_path(tmp_path / "net.onnx", *arguments, progress=lambda *n: told.append(n)) == 1
    assert register_path(tmp_path / "net.onnx", *arguments) == 2
    assert told[-1][0] == told[-1][1] == (tmp_path / "net.onnx").stat().st_size
    with model_directory(gate.kept, gate.databases.mlflow, "sme-a", "bare", 2) as directory:
        assert (directory / "model.onnx").read_bytes() == (tmp_path / "net.onnx").read_bytes()


def test_mlflows_own_folder_is_registered_from_its_path(gate: Gate, tmp_path: Path) -> None:
    import mlflow.onnx

    mlflow.onnx.save_model(network(), tmp_path / "net", pip_requirements=["onnx"])
    assert register_path(tmp_path / "net", "folder", gate.url, gate.tokens["sme-a"]) == 1
    with model_directory(gate.kept, gate.databases.mlflow, "sme-a", "folder", 1) as directory:
        names = {path.name for path in directory.iterdir()}
    assert names == {path.name for path in (tmp_path / "net").iterdir()}


def test_what_can_not_be_registered_is_said_in_a_sentence(gate: Gate, tmp_path: Path) -> None:
    (tmp_path / "empty.onnx").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "net.onnx").write_bytes(b"x")
    (tmp_path / "folder" / "model.onnx").symlink_to(tmp_path / "net.onnx")
    token = gate.tokens["sme-a"]
    cases: list[tuple[str, str, str, str, type[TouchstoneError]]] = [
        ("absent.onnx", "n", gate.url, token, Invalid),
        ("empty.onnx", "n", gate.url, token, Invalid),
        (".", "n", gate.url, token, Invalid),
        ("folder", "n", gate.url, token, Invalid),
        ("net.onnx", "a/b", gate.url, token, Invalid),
        ("net.onnx", "n", gate.url, "wrong", Unauthenticated),
        ("net.onnx", "n", gate.url, gate.tokens["clinic"], NotFound),
        ("net.onnx", "n", gate.url, gate.tokens["tef"], Refused),
        ("net.onnx", "n", "http://127.0.0.1:1", token, Unavailable),
    ]
    for path, name, url, secret, kind in cases:
        with pytest.raises(kind) as raised:
            register_path(tmp_path / path, name, url, secret)
        assert len(raised.value.message) > 20
