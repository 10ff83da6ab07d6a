"""A mask as reference standard: staged on the image's grid, sealed apart, bound to its case."""

import csv
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from registry.storage.local import LocalStore
from registry.trust.errors import Invalid, NotFound, Refused, Tampered
from tests.validators.dicom_made import REAL, real_pair, segmentation, statement, volume_of
from tests.validators.ingest_made import sign, table
from tests.validators.masks_made import (
    SHAPE,
    contract_of_masks,
    drawn,
    hospital_of_masks,
    sealed_masks,
    staged_masks,
)
from validators.cohort.catalogue import catalogue_entry
from validators.cohort.contents import shard_bytes
from validators.cohort.erase import erase
from validators.cohort.ingest import Staged, ingest, open_staged
from validators.cohort.key_store import create_keys
from validators.cohort.manifest import (
    description_of,
    manifest_bytes,
    parse_manifest,
    root_of,
)
from validators.cohort.quality import read_quality
from validators.cohort.reference_masks import LABELS, SPACING, stream_masks
from validators.cohort.seal import put_object, seal
from validators.cohort.stream import read_reference, stream
from validators.cohort.verify import verify
from validators.contract.read import parse_contract


class Objects(dict[str, bytes]):
    def get(self, path: str) -> bytes:  # type: ignore[override]
        if path not in self:
            raise NotFound(f"there is no object {path}")
        return self[path]

    def put(self, path: str, data: bytes) -> None:
        self[path] = data


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory) -> Staged:
    return staged_masks(tmp_path_factory.mktemp("masks"))


@pytest.fixture(scope="module")
def cohort(staged: Staged, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return sealed_masks(staged, tmp_path_factory.mktemp("sealed"))


def test_masks_are_staged_on_the_grid_of_their_image_apart_from_it(staged: Staged):
    inputs = load_file(staged.block(0))
    masks = load_file(staged.path / "masks-00000.safetensors")
    assert list(inputs) == ["ct"]
    for number in range(staged.cases):  # the first from NIfTI with other axes, the rest DICOM-SEG
        assert (masks[LABELS][number] == drawn(number)).all(), number
        organ = inputs["ct"][number, 0][drawn(number) == 1]
        assert organ.min() > inputs["ct"][number, 0][drawn(number) == 0].max() - 50
    assert (masks[SPACING] == [2.0, 0.5, 0.75]).all()
    assert read_quality(staged)["masks"] == {
        "organ": 8, "lesion": 6, "no structure: the mask is empty": 0
    }  # fmt: skip


def test_a_mask_goes_the_way_of_its_image(tmp_path: Path):
    source = hospital_of_masks(tmp_path / "h", 2, nifti=0)
    asked = contract_of_masks((3, 8, 8), spacing_mm=[4.0, 1.0, 0.75], resample="linear")
    staged = ingest(source, tmp_path / "staged", contract=asked, half="all")
    masks = load_file(staged.path / "masks-00000.safetensors")
    # 6 slices of 2 mm become 3 of 4 mm: the new centres lie half way, the upper slice counts.
    thin = drawn(0)[[1, 3, 5]][:, [1, 3, 5, 7, 9, 11]]
    expected = np.pad(thin[:, :, 1:9], [(0, 0), (1, 1), (0, 0)])
    assert (masks[LABELS][0] == expected).all()
    assert (masks[SPACING][0] == [4.0, 1.0, 0.75]).all()


def test_what_is_no_mask_of_its_case_is_left_out_with_a_reason(tmp_path: Path):
    source = hospital_of_masks(tmp_path / "h", 6, nifti=1)
    with (source / "cases.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    rows[1]["reference"] = ""
    rows[2]["reference"] = rows[3]["reference"]  # another patient's
    one = np.zeros((*SHAPE, 1), dtype=np.uint8)
    volume = volume_of(sorted((source / "p04").iterdir()))
    in_order = [plane.header.path for plane in volume.planes]
    segmentation(in_order, one + 1, source / "p04.seg")  # the lesion was not drawn
    over = np.ones((*SHAPE, 2), dtype=np.uint8)
    volume = volume_of(sorted((source / "p05").iterdir()))
    segmentation([plane.header.path for plane in volume.planes], over, source / "p05.seg")
    table(source / "cases.csv", rows)
    staged = ingest(source, tmp_path / "staged", contract=contract_of_masks(), half="all")
    assert staged.meta["case_flow"] == {
        "the reference standard is missing": 1,
        "mask and image have different frames of reference": 1,
        "the segmentation has no segment of lesion": 1,
        "two structures of the mask share a voxel; a map of labels can't hold it": 1,
    }
    assert staged.table()["case"].to_pylist() == ["p00", "p03"]


def test_a_contract_says_what_does_not_fit():
    good = contract_of_masks().model_dump(mode="json")
    for change, said in (
        ({"reference": {"grid_of": "mr", "structures": {"a": 1}}}, "reference.grid_of"),
        ({"reference": {"grid_of": "ct", "structures": {"a": 1, "b": 1}}}, "same number"),
        ({"outputs": [{"name": "labels", "dtype": "uint8", "shape": [1, 6, 12, 9]}]}, "the grid"),
        ({"outputs": [{"name": "labels", "dtype": "float32", "shape": [1, 6, 12, 10]}]},
         "whole numbers"),
    ):  # fmt: skip
        with pytest.raises(Invalid, match=said):
            parse_contract(good | change)
    assert "reference" not in parse_contract(
        good | {"reference": None, "score": "p",
                "outputs": [{"name": "p", "dtype": "float32", "shape": [1]}]}
    ).model_dump(mode="json")  # fmt: skip


def test_masks_are_sealed_under_the_reference_key_alone_in_the_order_of_the_cases(
    cohort: Any, staged: Staged
):
    manifest, store, keys = cohort
    assert parse_manifest(manifest_bytes(manifest)) == manifest
    assert manifest.structures == {"organ": 1, "lesion": 2}
    assert (manifest.counts.cases, manifest.counts.positives) == (8, 8)
    verify(manifest, store, None)
    verify(manifest, store, keys)
    with pytest.raises(Refused):
        next(stream_masks(manifest, store, keys.inputs()))
    with pytest.raises(Refused):
        next(stream(manifest, store, keys.reference()))  # type: ignore[arg-type]
    rows = read_reference(manifest, store, keys.reference())
    assert set(rows.column_names) == {"case", "patient", "reference", "site"}
    by_case = {}
    for shard in stream_masks(manifest, store, keys.reference()):
        for case, labels, digest in zip(shard.cases, shard.labels, shard.digests(), strict=True):
            by_case[case] = (labels, digest)
    assert [by_case[case][1] for case in rows["case"].to_pylist()] == rows["reference"].to_pylist()
    order = [case for shard in stream(manifest, store, keys.inputs()) for case in shard.cases]
    assert order == list(by_case)
    for shard in stream(manifest, store, keys.inputs()):
        for case, values in zip(shard.cases, shard.inputs["ct"], strict=True):
            lesion = by_case[case][0] == 2
            if lesion.any():  # the very mask of this image
                assert values[0][lesion].min() > values[0][~lesion].max() - 100
    again = LocalStore(staged.path.parent / "again")
    assert seal(staged, again, cohort_id="organs", version="1", keys=keys,
                shard_size=2 * 2 * int(np.prod(SHAPE))) == manifest  # fmt: skip


def swapped(manifest: Any, store: Any, keys: Any, first: int, second: int) -> tuple[Any, Objects]:
    """A cohort whose owner of all keys exchanged two masks, and made objects and root fit."""
    objects = Objects({o.path: store.get(o.path) for o in manifest.objects})
    shards = list(stream_masks(manifest, store, keys.reference()))
    rows = [(n, row) for n, shard in enumerate(shards) for row in range(len(shard.cases))]
    (n, row), (m, other) = rows[first], rows[second]
    one, two = shards[n].labels[row].copy(), shards[m].labels[other].copy()
    shards[n].labels[row], shards[m].labels[other] = two, one
    entries = {entry.path: entry for entry in manifest.objects}
    for shard in shards:
        plain = shard_bytes(shard.cases, {LABELS: shard.labels, SPACING: shard.spacing})
        entries[shard.path] = put_object(
            objects, shard.path, "reference-masks", len(shard.cases), plain, keys.reference()
        )
    listed = tuple(entries.values())
    root = root_of(description_of(manifest), listed, manifest.case_digests)
    return manifest.model_copy(update={"objects": listed, "root": root}), objects


def test_two_masks_exchanged_are_found_and_named(cohort: Any):
    manifest, store, keys = cohort
    labels = [of for shard in stream_masks(manifest, store, keys.reference())
              for of in shard.labels]  # fmt: skip
    for first in range(8):
        for second in range(first + 1, 8):
            if (labels[first] == labels[second]).all():
                continue  # their exchange changes nothing
            forged, objects = swapped(manifest, store, keys, first, second)
            assert forged.root != manifest.root
            with pytest.raises(Tampered, match=f"reference-masks/{first // 2:05d}"):
                verify(forged, objects, keys)


def test_masks_exchanged_before_sealing_give_another_root(cohort: Any, tmp_path: Path):
    manifest, _, keys = cohort
    staged = staged_masks(tmp_path)
    block = staged.path / "masks-00000.safetensors"
    arrays = load_file(block)
    arrays[LABELS][[0, 1]] = arrays[LABELS][[1, 0]]
    save_file(arrays, block)
    store = LocalStore(tmp_path / "objects")
    other = seal(open_staged(staged.path), store, cohort_id="organs", version="1", keys=keys,
                 shard_size=2 * 2 * int(np.prod(SHAPE)))  # fmt: skip
    assert other.root != manifest.root
    assert sum(a != b for a, b in zip(other.case_digests, manifest.case_digests, strict=True)) == 2


def test_whatever_is_done_to_a_mask_object_is_noticed(cohort: Any):
    manifest, store, keys = cohort
    whole = Objects({o.path: store.get(o.path) for o in manifest.objects})
    one, two = (entry.path for entry in manifest.masks[:2])
    for changed in (
        {one: whole[one][:-1] + bytes([whole[one][-1] ^ 1])},
        {one: whole[one][:-1]},
        {one: whole[two], two: whole[one]},
        {one: None},
    ):
        objects = Objects({p: d for p, d in (whole | changed).items() if d is not None})
        for with_keys in (keys, None):
            with pytest.raises(Tampered, match=one):
                verify(manifest, objects, with_keys)
    fewer = tuple(entry for entry in manifest.objects if entry.path != manifest.masks[-1].path)
    root = root_of(description_of(manifest), fewer, manifest.case_digests)
    with pytest.raises(Tampered, match="masks"):
        verify(manifest.model_copy(update={"objects": fewer, "root": root}), whole, None)


def test_a_patient_is_erased_with_his_masks(cohort: Any, tmp_path: Path):
    manifest, store, keys = cohort
    folder = tmp_path / "keys"
    new_keys = create_keys(folder, "organs", "2", after=keys)
    after = erase(manifest, store, keys, store, new_keys, patients={"P2"})
    assert (after.counts.cases, after.structures) == (6, manifest.structures)
    verify(after, store, new_keys)
    kept = {case for shard in stream_masks(after, store, new_keys.reference())
            for case in shard.cases}  # fmt: skip
    assert len(kept) == 6


def test_the_catalogue_shows_cases_and_patients_and_no_class(cohort: Any):
    manifest, _, _ = cohort
    counts = manifest.counts.model_copy(
        update={"cases": 60, "patients": 40, "positives": 55, "negatives": 5}
    )
    groups = {"site": {"a": counts.model_copy(update={"cases": 60, "negatives": 5})}}
    large = manifest.model_copy(update={"counts": counts, "attributes": groups})
    entry = catalogue_entry(large, k=10)
    assert (entry.cases.count, entry.patients.count) == (60, 40)
    assert (entry.positives.known, entry.negatives.known, entry.attributes) == (None, None, {})


@real_pair
def test_the_real_pair_is_sealed_with_its_mask_at_the_right_place(tmp_path: Path):
    source = tmp_path / "pair"
    statement(source)
    (source / "ct").mkdir()
    for path in (REAL / "dicom/ct_77654033").iterdir():
        (source / "ct" / path.name).write_bytes(path.read_bytes())
    (source / "seg.dcm").write_bytes((REAL / "dicom/seg_image_ct_binary.dcm").read_bytes())
    table(source / "cases.csv",
          [{"case": "a", "patient": "p", "image": "ct", "reference": "seg.dcm"}])  # fmt: skip
    asked = contract_of_masks((4, 16, 16), {"first": 1}, orientation=None)
    staged = ingest(source, tmp_path / "staged", contract=asked, half="all", keep=("sex",))
    report = read_quality(staged)
    assert report["noted"]["missing slices"] == 161  # its gap
    assert any("not equally far apart" in reason for reason in report["review"])
    sign(staged)
    keys = create_keys(tmp_path / "keys", "pair", "1")
    store = LocalStore(tmp_path / "objects")
    manifest = seal(staged, store, cohort_id="pair", version="1", keys=keys)
    verify(manifest, store, keys)
    (shard,) = stream_masks(manifest, store, keys.reference())
    volume = volume_of(sorted((REAL / "dicom/ct_77654033").iterdir()))
    seg = highdicom.seg.segread(REAL / "dicom/seg_image_ct_binary.dcm")
    instances = [plane.header.instance for plane in volume.planes]
    theirs = seg.get_pixels_by_source_instance(instances, combine_segments=True)
    assert theirs.any()
    assert (shard.labels[0] == theirs).all()
    data = b"".join(path.read_bytes() for path in staged.path.iterdir())
    for image in (p.header for p in volume.planes):
        assert image.patient.encode() not in data
        assert image.instance.encode() not in data
