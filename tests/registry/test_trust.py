"""What two parties who do not trust each other compute alike."""

import datetime as dt
import hashlib

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given
from hypothesis import strategies as st
from securesystemslib.dsse import Envelope as ReferenceEnvelope
from securesystemslib.signer import SSlibKey

from registry.trust import canonical, certificate, dsse, keys, merkle
from registry.trust.errors import Invalid, Refused, Tampered
from tests.serving import certified

# An hour on: keys are made when a test runs, long after this line, and must be valid by then.
NOW = dt.datetime.now(dt.UTC) + dt.timedelta(hours=1)
A_DIGEST = "sha256:" + "ab" * 32
ROOT = keys.new_root("tef", demo=True)
LOG = certified.log_of(ROOT)


@pytest.fixture(scope="module")
def root() -> keys.Identity:
    return ROOT


@pytest.fixture(scope="module")
def ada(root: keys.Identity) -> keys.Identity:
    return keys.issue(root, "Ada", organisation="tef")


@pytest.fixture(scope="module")
def ben(root: keys.Identity) -> keys.Identity:
    return keys.issue(root, "Ben", organisation="tef")


FILES = {"model/model.onnx": b"model"}


def predicate(**changes: object) -> certificate.Predicate:
    return certified.predicate(FILES, LOG, **changes)


def signed(*signers: keys.Identity, **changes: object) -> dsse.Envelope:
    statement = certificate.new_statement({"model.onnx": A_DIGEST}, predicate(**changes))
    envelope = dsse.unsigned(certificate.STATEMENT_TYPE, statement)
    for signer in signers:
        envelope = dsse.add_signature(envelope, signer)
    return envelope


def test_rfc_8785_sorts_and_formats_numbers_as_the_standard_does() -> None:
    value = {"numbers": [333333333.33333329, 1e30, 4.50, 2e-3, 1e-27], "literals": [None, True]}
    expected = b'{"literals":[null,true],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27]}'
    # RFC 8785, section 3.2.2
    assert canonical.canonical(value) == expected


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 2**60, object()])
def test_what_has_no_canonical_form_is_refused(value: object) -> None:
    with pytest.raises(Invalid):
        canonical.canonical({"x": value})


def test_json_that_is_not_canonical_has_no_digest() -> None:
    with pytest.raises(Invalid, match="canonical"):
        canonical.parse_canonical(b'{"b": 1, "a": 2}')


def test_the_merkle_tree_gives_the_published_roots() -> None:
    # The reference inputs of the Certificate Transparency project (RFC 6962 tests).
    leaves = [bytes.fromhex(x) for x in ("", "00", "10", "2021", "3031", "40414243")]
    assert merkle.root([]) == hashlib.sha256(b"").digest()
    assert merkle.root(leaves[:1]).hex() == (
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"
    )
    assert merkle.root(leaves[:2]).hex() == (
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"
    )
    assert merkle.root(leaves).hex() == (
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef"
    )


@given(st.lists(st.binary(max_size=8), min_size=1, max_size=40), st.data())
def test_an_inclusion_proof_holds_for_its_leaf_and_no_other(
    leaves: list[bytes], data: st.DataObject
) -> None:
    index = data.draw(st.integers(0, len(leaves) - 1))
    path, tree = merkle.inclusion_path(index, leaves), merkle.root(leaves)
    assert merkle.includes(leaves[index], index, len(leaves), path, tree)
    assert not merkle.includes(leaves[index] + b"!", index, len(leaves), path, tree)
    assert not merkle.includes(leaves[index], index, len(leaves), [*path, tree], tree)


def test_a_certificate_needs_two_people_and_returns_what_they_signed(
    root: keys.Identity, ada: keys.Identity, ben: keys.Identity
) -> None:
    leaves = [ada.certificate, ben.certificate]
    checked = certificate.verified(signed(ada, ben), leaves, root.certificate, NOW)
    assert checked.signers == (("Ada", "tef"), ("Ben", "tef"))
    assert checked.subjects == {"model.onnx": A_DIGEST}
    for envelope in (signed(), signed(ada), signed(ada, ada)):
        with pytest.raises(Refused, match="needed"):
            certificate.verified(envelope, leaves, root.certificate, NOW)


def test_two_keys_of_one_person_are_one_signer(root: keys.Identity, ada: keys.Identity) -> None:
    again = keys.issue(root, "Ada", organisation="tef")
    with pytest.raises(Refused, match="needed"):
        certificate.verified(
            signed(ada, again), [ada.certificate, again.certificate], root.certificate, NOW
        )


def test_a_changed_payload_or_signature_is_tampering(
    root: keys.Identity, ada: keys.Identity, ben: keys.Identity
) -> None:
    leaves, good = [ada.certificate, ben.certificate], signed(ada, ben)
    other = signed(
        ada,
        ben,
        overall="conditional",
        conditions=("only thick slices",),
        conditions_due=certified.NOT_AFTER,
    )
    with pytest.raises(Tampered):
        certificate.verified({**good, "payload": other["payload"]}, leaves, root.certificate, NOW)
    with pytest.raises(Tampered):
        certificate.verified(good, leaves[:1], root.certificate, NOW)


def test_signers_under_another_root_or_of_the_submitter_are_refused(
    root: keys.Identity, ada: keys.Identity
) -> None:
    stranger = keys.issue(keys.new_root("tef", demo=True), "Ben", organisation="tef")
    with pytest.raises(Refused, match="not issued by this root"):
        certificate.verified(
            signed(ada, stranger), [ada.certificate, stranger.certificate], root.certificate, NOW
        )
    own = keys.issue(root, "Eve", organisation="sme-a")
    with pytest.raises(Refused, match="whose model"):
        certificate.verified(
            signed(ada, own), [ada.certificate, own.certificate], root.certificate, NOW
        )


def test_an_expired_certificate_or_leaf_is_refused(
    root: keys.Identity, ada: keys.Identity, ben: keys.Identity
) -> None:
    leaves = [ada.certificate, ben.certificate]
    with pytest.raises(Refused, match="expired on"):
        certificate.check_in_force(predicate(), certified.NOT_AFTER)
    with pytest.raises(Refused, match="was not valid"):
        certificate.verified(
            signed(ada, ben), leaves, root.certificate, NOW + dt.timedelta(days=800)
        )


def test_a_leaf_for_servers_may_not_sign(root: keys.Identity, ada: keys.Identity) -> None:
    extensions = [
        (
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
            if isinstance(extension.value, x509.ExtendedKeyUsage)
            else extension.value,
            extension.critical,
        )
        for extension in ada.certificate.extensions
    ]
    builder = (
        x509.CertificateBuilder()
        .subject_name(ada.certificate.subject)
        .issuer_name(root.certificate.subject)
        .public_key(ada.certificate.public_key())
        .serial_number(7)
        .not_valid_before(NOW - dt.timedelta(days=1))
        .not_valid_after(NOW + dt.timedelta(days=1))
    )
    for value, critical in extensions:
        builder = builder.add_extension(value, critical)
    with pytest.raises(Refused, match="code signing"):
        keys.check_leaf(builder.sign(root.key, hashes.SHA256()), root.certificate, NOW)


def test_a_pass_is_the_least_a_certificate_can_state() -> None:
    with pytest.raises(ValueError, match="overall"):
        certificate.Predicate.model_validate(predicate().model_dump() | {"overall": "fail"})
    with pytest.raises(Refused, match="conditions"):
        signed(overall="conditional")


def test_another_implementation_of_dsse_accepts_our_envelope(ada: keys.Identity) -> None:
    reference = ReferenceEnvelope.from_dict(signed(ada))
    key = SSlibKey.from_crypto(ada.certificate.public_key(), keyid=keys.key_id(ada.certificate))
    assert list(reference.verify([key], 1)) == [keys.key_id(ada.certificate)]


def test_a_certificate_file_that_is_none_is_named(tmp_path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "root.pem").write_text("no certificate")
    with pytest.raises(Invalid, match=r"root\.pem: this is not a PEM certificate"):
        keys.load_certificate(tmp_path / "root.pem")


def test_keys_are_private_files_and_never_overwritten(
    tmp_path,
    ada: keys.Identity,  # type: ignore[no-untyped-def]
) -> None:
    path = keys.save_identity(ada, tmp_path, "ada")
    assert path.stat().st_mode & 0o777 == 0o600
    assert keys.load_identity(path).certificate == ada.certificate
    with pytest.raises(Exception, match="never overwritten"):
        keys.save_identity(ada, tmp_path, "ada")
    path.write_text("rubbish")
    with pytest.raises(Invalid, match="PEM"):
        keys.load_identity(path)
