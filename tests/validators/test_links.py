"""What finds a sealed cohort's patients again: for the facility alone, and as long as it may."""

import csv
import os
import signal
import stat
import sys
from pathlib import Path

import pytest

from registry.trust.errors import Invalid, NotFound, Refused
from tests.validators.dicom_made import ROOT, noise, write_series
from tests.validators.ingest_made import CT, hospital, made_contract, sealed, table
from validators.cohort.ingest import Staged, ingest
from validators.cohort.quality import read_quality
from validators.leakage.identifiers import LinkingKey
from validators.leakage.link_index import LinkIndex
from validators.leakage.links import Links, links_of, tokens_of
from validators.leakage.pictures import pictures_of
from validators.leakage.seen import Known

KEY = LinkingKey(b"k" * 32)


def links(staged: Staged) -> Links:
    patients = staged.table()["patient"].to_pylist()
    return links_of(KEY, patients, pictures_of(staged.blocks()))


@pytest.fixture
def index(tmp_path: Path) -> LinkIndex:
    return LinkIndex(tmp_path / "links", KEY)


def made(*patients: str) -> Links:
    return Links(
        KEY.fingerprint,
        tuple(next(iter(tokens_of(KEY, [patient])), b"") for patient in patients),
        tuple(bytes([n + 1]) * 16 for n in range(len(patients))),
        tuple(7 << n if n else None for n in range(len(patients))),
    )


def test_what_is_kept_is_read_again_and_says_nothing_without_the_key(
    index: LinkIndex, tmp_path: Path
) -> None:
    kept = made("P2", "P1", "", "P2")
    index.keep("open", "1", kept)
    index.keep("other", "1", made("P1"))
    found = index.read("open", "1")
    rows = sorted(zip(kept.patients, kept.pixels, kept.hashes, strict=True))
    assert list(zip(found.patients, found.pixels, found.hashes, strict=True)) == rows
    assert index.versions() == [("open", "1"), ("other", "1")]
    path = tmp_path / "links/open/1.links"
    data = path.read_bytes()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not any(token in data for token in (*kept.patients, *kept.pixels) if token)
    assert "P1" not in repr(kept) + repr(index)
    (tmp_path / "links/other/1.links").write_bytes(data)
    with pytest.raises(Invalid, match="damaged"):
        index.read("other", "1")
    with pytest.raises(Refused, match="another linking key"):
        LinkIndex(tmp_path / "links", LinkingKey(b"o" * 32)).read("open", "1")
    with pytest.raises(Refused, match="another linking key"):
        LinkIndex(tmp_path / "links", LinkingKey(b"o" * 32)).keep("open", "1", kept)
    with pytest.raises(NotFound):
        index.read("open", "2")
    with pytest.raises(Invalid, match="can't name"):
        index.read("../open", "1")


def test_who_is_erased_is_found_in_no_version_and_nothing_of_a_destroyed_one(
    index: LinkIndex, tmp_path: Path
) -> None:
    index.keep("open", "1", made("P1", "P2", "P1"))
    index.keep("open", "2", made("P1", "P3"))
    index.keep("other", "1", made("P1"))
    (tmp_path / "links/open/.new-left").write_bytes(b"half written")
    assert index.erase("open", "2", "3", {"p1"})
    found = {version: set(index.read("open", version).patients) for version in "123"}
    assert found == {
        "1": tokens_of(KEY, ["P2"]), "2": tokens_of(KEY, ["P3"]), "3": tokens_of(KEY, ["P3"])
    }  # fmt: skip
    assert not index.erase("none", "1", "2", {"p1"})
    index.destroy("open", "1")
    index.destroy("open", "1")
    assert index.versions() == [("open", "2"), ("open", "3"), ("other", "1")]
    assert sorted(p.name for p in (tmp_path / "links/open").iterdir()) == ["2.links", "3.links"]


def killed_at(change: int, folder: Path) -> bool:
    """Erase and destroy in a process that ends before its `change`th change on the disk."""
    child = os.fork()
    if child == 0:
        left = change

        def before(event: str, given: tuple[object, ...]) -> None:
            nonlocal left
            changes = event in ("open", "os.rename", "os.remove", "os.mkdir")
            if changes and str(given[0]).startswith(str(folder)):
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        index = LinkIndex(folder, KEY)
        sys.addaudithook(before)
        try:
            index.erase("open", "1", "2", {"p1"})
            index.destroy("open", "1")
            os._exit(0)
        finally:
            os._exit(1)
    ended = os.waitpid(child, 0)[1]
    assert ended == 0 or os.WTERMSIG(ended) == signal.SIGKILL
    return ended != 0


def test_a_kill_at_any_change_leaves_what_can_be_done_again(tmp_path: Path) -> None:
    kills = 0
    for change in range(1, 100):
        folder = tmp_path / str(change)
        index = LinkIndex(folder, KEY)
        index.keep("open", "1", made("P1", "P2"))
        if not killed_at(change, folder):
            break
        kills += 1
        for name, version in index.versions():
            try:
                index.read(name, version)
            except Invalid:  # overwritten, on its way out
                assert version == "1"
                assert ("open", "2") in index.versions()
        if ("open", "2") not in index.versions():
            assert index.erase("open", "1", "2", {"p1"})
        index.destroy("open", "1")
        assert [p.name for p in (folder / "open").iterdir()] == ["2.links"]
        assert set(index.read("open", "2").patients) == tokens_of(KEY, ["P2"])
    assert kills >= 10


def test_staged_cases_are_held_against_all_that_was_sealed_without_being_asked(
    index: LinkIndex, tmp_path: Path
) -> None:
    source, reference = hospital(tmp_path, 4)
    asked = {"contract": made_contract(CT), "half": "all"}
    first = ingest(source, tmp_path / "first", reference=reference, **asked)
    assert read_quality(first)["seen_before"] is None
    index.keep("open", "1", links(first))
    write_series(source / "new", "200", noise((4, 8, 8), 50), PatientID="p 101")
    near = noise((4, 8, 8), 2) + (noise((4, 8, 8), 9) % 3)
    write_series(source / "alike", "201", near, PatientID="X")
    few = table(tmp_path / "few.csv", [
        {"series": f"{ROOT}.{n}", "reference": n % 2} for n in (100, 200, 201)
    ])  # fmt: skip
    uses = {"open": "development"}
    known = Known(index, lambda: uses)
    second = ingest(source, tmp_path / "second", reference=few, known=known, **asked)
    seen = read_quality(second)["seen_before"]
    (version,) = seen["versions"]
    assert version.pop("pairs_that_look_alike") >= 2
    assert version == {
        "cohort": "open", "version": "1", "use": "development",
        "patients": 2, "cases": 2, "same_pixels": 1,
    }  # fmt: skip
    with (second.path / "seen_before.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    found = {(row["case"].rpartition(".")[2], row["what"]) for row in rows}
    assert found >= {("100", "patient"), ("200", "patient"), ("100", "same pixels"),
                     ("201", "looks alike")}  # fmt: skip
    page = (second.path / "quality.html").read_text()
    assert "open 1" in page
    assert "P100" not in page + (second.path / "quality.json").read_text()
    sealed(second, tmp_path, "seen")

    (tmp_path / "links/open/1.links").write_bytes(b"rubbish")
    third = ingest(source, tmp_path / "second", reference=few, known=known, **asked)
    seen = read_quality(third)["seen_before"]
    assert (seen["compared"], len(seen["not_compared"])) == (0, 1)
    assert "is damaged" in seen["not_compared"][0]["reason"]
    assert not (third.path / "seen_before.csv").exists()
