"""Cases seen before: found without names, to the pixel or nearly, and held for a person."""

import hashlib
import hmac
import pickle
import time
from typing import Any, get_args

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from registry.trust.errors import Invalid, Refused
from tests.validators.made import table_of
from validators.intervals.auc import area
from validators.leakage.evidence import (
    LeakageEvidence,
    LeakageOutcome,
    leakage_evidence,
    of_exact_pixels,
    of_implausible_result,
    of_near_pictures,
    of_patients,
)
from validators.leakage.identifiers import LinkingKey, linked, overlap
from validators.leakage.perceptual import near_duplicates, perceptual_hash, picture_of
from validators.leakage.pixels import exact_duplicates, is_flat, pixel_digest

KEY = LinkingKey(bytes(range(32)))


def test_patients_are_found_however_their_identifiers_are_written():
    cohort = linked(KEY, ["LIDC-IDRI-0012", "LIDC-IDRI-0013", "LIDC-IDRI-0013", "Ｘ１"])
    other = linked(KEY, ["lidc idri 0012 ", "x1", "LIDC-IDRI-14"])
    found = overlap(cohort, other)
    assert (found.first, found.second, found.shared) == (3, 3, 2)


def test_leading_zeros_and_accents_tell_patients_apart():
    assert overlap(linked(KEY, ["0012", "rené"]), linked(KEY, ["12", "rene"])).shared == 0


def test_a_token_is_hmac_under_the_key_and_not_a_hash_anybody_can_try_out():
    (token,) = linked(KEY, ["A-1"]).tokens
    assert token == hmac.new(bytes(range(32)), b"patient\0a1", hashlib.sha256).digest()
    assert token not in {hashlib.sha256(text).digest() for text in (b"A-1", b"a1", b"patient\0a1")}
    (other,) = linked(LinkingKey(b"k" * 32), ["A-1"]).tokens
    assert other != token


def test_lists_under_different_keys_are_refused_not_found_disjoint():
    with pytest.raises(Refused, match="different keys"):
        overlap(linked(KEY, ["a"]), linked(LinkingKey(b"k" * 32), ["a"]))


def test_the_key_and_the_tokens_show_nowhere():
    secret = b"0123456789abcdef0123456789abcdef"
    key = LinkingKey(secret)
    made = linked(key, ["Patient Zero"])
    for text in (repr(key), repr(made), str(made), key.fingerprint):
        assert secret.decode() not in text
        assert secret.hex() not in text
        assert "ero" not in text
        assert not any(token.hex() in text or repr(token) in text for token in made.tokens)
    with pytest.raises(TypeError):
        pickle.dumps(key)
    with pytest.raises(Invalid, match="32 bytes"):
        LinkingKey(b"short")


def test_an_identifier_without_a_letter_is_invalid_by_number_alone():
    with pytest.raises(Invalid, match="2 of 3") as caught:
        linked(KEY, ["---", "secret-name", "  "])
    assert "secret" not in caught.value.message


def test_pixels_are_compared_by_type_shape_and_value_not_by_memory():
    image = np.arange(12, dtype=np.int16).reshape(3, 4)
    digest = pixel_digest(image)
    assert pixel_digest(np.asfortranarray(image)) == digest
    assert pixel_digest(image.astype(">i2")) == digest
    assert pixel_digest(np.repeat(image, 2, axis=0)[::2]) == digest
    others = [image.astype(np.int32), image.reshape(4, 3), image.T, image + np.int16(1)]
    assert digest not in {pixel_digest(other) for other in others}
    zeros = [np.array([0.0, np.nan], np.float32), np.array([-0.0, -np.nan], np.float32)]
    assert pixel_digest(zeros[0]) == pixel_digest(zeros[1])


def test_exact_duplicates_are_counted_within_and_across():
    found = exact_duplicates(["a", "b", "a", "c", "a"], ["c", "d", "c", "b"])
    assert (found.cases, found.within, found.across) == (5, 2, 2)
    assert found.pairs_within == ((0, 2), (0, 4))
    assert found.pairs_across == ((1, 3), (3, 0))
    assert "pairs" not in repr(found)
    assert exact_duplicates(["a", "b"]).within == 0
    assert is_flat(np.zeros((3, 3)))
    assert not is_flat(np.eye(3))


def pictures(n: int, seed: int = 0, size: int = 96) -> list[NDArray[np.float64]]:
    """Unrelated smooth pictures of 16-bit range."""
    rng = np.random.default_rng(seed)
    made = [ndimage.gaussian_filter(rng.normal(size=(size, size)), size / 16) for _ in range(n)]
    return [(image - image.min()) / np.ptp(image) * 4000 - 1000 for image in made]


def bits_apart(one: Any, other: Any) -> int:
    first, second = perceptual_hash(one), perceptual_hash(other)
    assert first is not None
    assert second is not None
    return (first ^ second).bit_count()


def changes(image: NDArray[np.float64]) -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(7)
    lowest, width = image.min(), np.ptp(image)
    return {
        "another scale and type": np.rint((image - lowest) / width * 255).astype(np.uint8),
        "gamma": ((image - lowest) / width) ** 1.3,
        "half the resolution": image[::2, ::2],
        "blur": ndimage.gaussian_filter(image, 1.0),
        "noise": image + 0.03 * width * rng.normal(size=image.shape),
    }


def test_the_same_picture_otherwise_stored_is_near_and_unrelated_ones_are_not():
    images = pictures(200)
    for name in changes(images[0]):
        near = [bits_apart(image, changes(image)[name]) <= 6 for image in images[:40]]
        assert np.mean(near) >= 0.9, name
    hashes = np.array([perceptual_hash(image) for image in images], dtype=np.uint64)
    found = near_duplicates(hashes)
    assert 200 * 199 // 2 == 19_900, "the pairs that the docstring speaks of"
    assert found.within == 0


def test_a_mirrored_picture_is_not_found():
    """A limit that the docstring states."""
    assert min(bits_apart(image, image[:, ::-1]) for image in pictures(20)) > 6


def test_a_flat_picture_has_no_hash():
    assert perceptual_hash(np.full((40, 40), 7)) is None
    with pytest.raises(Invalid, match="rows, columns"):
        perceptual_hash(np.zeros((2, 3, 4)))


def test_a_case_s_picture_is_its_middle_slice():
    volume = np.zeros((1, 5, 8, 9))
    volume[0, 2] = np.arange(72).reshape(8, 9)
    assert (picture_of(volume) == volume[0, 2]).all()
    assert (picture_of(volume[:, 2]) == volume[0, 2]).all()
    assert picture_of(np.ones((3, 8, 9))).shape == (8, 9)
    with pytest.raises(Invalid, match="neither"):
        picture_of(np.zeros(4))


@pytest.mark.parametrize("distance", [0, 3, 6, 20])
def test_the_search_finds_what_all_pairs_by_hand_show(distance):
    rng = np.random.default_rng(distance)
    centres = rng.integers(0, 2**64, 12, dtype=np.uint64)

    def drawn(n: int) -> NDArray[np.uint64]:
        flips = np.zeros(n, dtype=np.uint64)
        for bit in range(64):
            flips |= (rng.random(n) < 0.05).astype(np.uint64) << np.uint64(bit)
        return centres[rng.integers(0, 12, n)] ^ flips * (rng.random(n) < 0.8)

    first, second = drawn(70), drawn(50)
    both = [int(h) for h in np.concatenate([first, second])]
    near = {
        (a, b): (both[a] ^ both[b]).bit_count()
        for a in range(70)
        for b in range(a + 1, 120)
        if (both[a] ^ both[b]).bit_count() <= distance
    }
    found = near_duplicates(first, second, distance=distance)
    within = [pair for pair in near if pair[1] < 70]
    assert (found.within, found.across) == (len(within), len(near) - len(within))
    assert found.cases == len({n for pair in near for n in pair if n < 70})
    assert {(a, b): d for a, b, d in found.listed.tolist()} == near
    assert found.listed[:, 2].tolist() == sorted(near.values())


def test_a_hundred_thousand_hashes_are_searched_in_seconds():
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**64, 100_000, dtype=np.uint64)
    hashes[50_000:50_100] = hashes[:100] ^ np.uint64(0b10110)
    started = time.process_time()
    found = near_duplicates(hashes)
    assert time.process_time() - started < 10
    assert (found.within, found.cases) == (100, 200)


def test_many_alike_are_counted_in_full_and_listed_in_part():
    same = np.full(3000, 77, dtype=np.uint64)
    found = near_duplicates(same, np.full(10, 76, dtype=np.uint64))
    assert found.within == 3000 * 2999 // 2
    assert found.across == 30_000
    assert found.cases == 3000
    assert len(found.listed) == 10_000
    assert near_duplicates(np.empty(0, np.uint64)).within == 0
    with pytest.raises(Invalid, match="bits"):
        near_duplicates(same, distance=40)


def all_searches(*, leaks: bool) -> LeakageEvidence:
    images = pictures(6)
    if leaks:
        images[5] = images[0] + 0.0
    hashes = np.array([perceptual_hash(image) for image in images], dtype=np.uint64)
    table = table_of(np.random.default_rng(1), 400, auc=0.9)
    score = table.reference * 0.8 + 0.1 if leaks else table.score
    low, _ = area(score.astype(float), table.positive).gating(0.025)
    return leakage_evidence(
        (
            of_patients(overlap(linked(KEY, ["a", "b"]), linked(KEY, ["b" if leaks else "c"])),
                        "development list 3"),
            of_exact_pixels(exact_duplicates([pixel_digest(i) for i in images]), "itself"),
            of_near_pictures(near_duplicates(hashes), "itself"),
            of_implausible_result("AUC", low, 0.97, 400),
        )
    )  # fmt: skip


def test_what_is_found_is_held_for_review_and_never_fails():
    assert get_args(LeakageOutcome) == ("clear", "held_for_review")
    found = all_searches(leaks=True)
    assert found.outcome == "held_for_review"
    assert {finding.outcome for finding in found.findings} == {"held_for_review"}
    clear = all_searches(leaks=False)
    assert clear.outcome == "clear"
    assert {finding.outcome for finding in clear.findings} == {"clear"}


def test_the_evidence_holds_counts_alone():
    found = all_searches(leaks=True)
    assert LeakageEvidence.model_validate_json(found.model_dump_json()) == found
    for finding in found.findings:
        assert all(isinstance(count, int) for count in finding.counts.values())
