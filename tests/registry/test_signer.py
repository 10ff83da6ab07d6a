"""Keys in a token: the URI, the form of signatures, and a real token where there is one."""

import datetime as dt
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from hypothesis import given
from hypothesis import strategies as st

from registry.trust.canonical import parse_canonical
from registry.trust.dsse import add_signature, check_signature, unsigned
from registry.trust.errors import Invalid, Refused
from registry.trust.keys import Identity, issue, new_root, pem_of, save_identity
from registry.trust.sign_in import SIGN_IN_TYPE, new_sign_in
from registry.trust.signer import KeyUri, der_of, open_signer, parse_uri
from tests.registry.soft_token import PIN, soft_token


@pytest.mark.parametrize(
    ("uri", "key"),
    [
        ("pkcs11:token=ada;object=signing", KeyUri(token="ada", object="signing")),
        ("PKCS11:object=a%20b;id=%01%ff", KeyUri(object="a b", id=b"\x01\xff")),
        ("pkcs11:serial=42;id=%02;type=private", KeyUri(serial="42", id=b"\x02")),
        ("pkcs11:object=x?pin-source=file:/run/pin",
         KeyUri(object="x", pin_source=Path("/run/pin"))),
        ("pkcs11:object=x?pin-source=file:///run/pin",
         KeyUri(object="x", pin_source=Path("/run/pin"))),
        ("pkcs11:object=caf%C3%A9", KeyUri(object="café")),
    ],
)  # fmt: skip
def test_a_uri_names_a_key(uri: str, key: KeyUri) -> None:
    assert parse_uri(uri) == key


@pytest.mark.parametrize(
    "uri",
    ["pkcs11:", "pkcs11:token=ada", "ada.key", "pkcs11:object=a;object=b", "pkcs11:colour=red",
     "pkcs11:object=%zz", "pkcs11:object=", "pkcs11:object=a b", "pkcs11:object=%ff",
     "pkcs11:object=x;type=public", "pkcs11:object=x?what=ever"],
)  # fmt: skip
def test_a_uri_that_names_no_key_is_refused(uri: str) -> None:
    with pytest.raises(Invalid):
        parse_uri(uri)


@pytest.mark.parametrize("secret", ["pin-value=1234", "module-path=/tmp/evil.so", "module-name=x"])
def test_neither_a_pin_nor_a_module_is_taken_from_the_command_line(secret: str) -> None:
    with pytest.raises(Refused, match="does not belong on a command line"):
        parse_uri(f"pkcs11:object=x?{secret}")


@given(r=st.integers(1, 2**256 - 1), s=st.integers(1, 2**256 - 1))
def test_r_and_s_side_by_side_become_der(r: int, s: int) -> None:
    raw = r.to_bytes(32, "big") + s.to_bytes(32, "big")
    assert decode_dss_signature(der_of(raw)) == (r, s)


@pytest.mark.parametrize("length", [0, 63, 65, 96])
def test_a_signature_of_another_length_is_no_p_256_signature(length: int) -> None:
    with pytest.raises(Invalid, match="64 bytes"):
        der_of(bytes(length))


def test_a_key_file_signs_through_the_same_door(tmp_path: Path) -> None:
    identity = issue(new_root("tef", demo=True), "Ada", organisation="tef")
    path = save_identity(identity, tmp_path, "ada")
    with open_signer(str(path)) as signer:
        envelope = add_signature(unsigned("text/plain", b"hello"), signer)
    assert check_signature(envelope, "text/plain", identity.certificate) == b"hello"


def test_a_token_needs_its_module(tmp_path: Path) -> None:
    with (
        pytest.raises(Invalid, match="TOUCHSTONE_PKCS11_MODULE"),
        open_signer("pkcs11:object=x", {}),
    ):
        pass


@pytest.fixture(scope="module")
def token(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Mapping[str, str], Identity]]:
    """A SoftHSM token that holds Ada's key and certificate, and the settings that lead to it."""
    home = tmp_path_factory.mktemp("softhsm")
    ada = issue(new_root("tef", demo=True), "Ada", organisation="tef")
    key = home / "ada.p8"
    key.write_bytes(ada.key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ))  # fmt: skip
    certificate = home / "ada.pem"
    certificate.write_bytes(pem_of(ada.certificate))
    with soft_token(home, "ada") as made:
        made.run("--import", str(key), "--token", "ada", "--label", "signing", "--id", "01",
                 "--pin", PIN)  # fmt: skip
        made.look_again()
        yield made.environment() | {"TOUCHSTONE_PKCS11_CERTIFICATE": str(certificate)}, ada


def test_a_key_that_never_leaves_its_token_signs_what_everybody_verifies(
    token: tuple[Mapping[str, str], Identity], tmp_path: Path
) -> None:
    environment, ada = token
    pin = tmp_path / "pin"
    pin.write_text(PIN + "\n")
    for uri in ("pkcs11:token=ada;object=signing", "pkcs11:id=%01;token=ada",
                f"pkcs11:object=signing?pin-source=file:{pin}"):  # fmt: skip
        with open_signer(uri, environment) as signer:
            envelope = add_signature(unsigned("text/plain", b"hello"), signer)
        assert check_signature(envelope, "text/plain", ada.certificate) == b"hello"


def test_a_key_in_a_token_signs_in(token: tuple[Mapping[str, str], Identity]) -> None:
    environment, ada = token
    with open_signer("pkcs11:token=ada;object=signing", environment) as signer:
        envelope = new_sign_in(
            signer, nonce="n", server="https://tef.example", date=dt.datetime.now(dt.UTC)
        )
    said = parse_canonical(check_signature(envelope, SIGN_IN_TYPE, ada.certificate))
    assert (said["person"], said["facility"], said["purpose"]) == ("Ada", "tef", "sign-in")


def test_a_token_refuses_a_wrong_pin_a_wrong_name_and_a_wrong_certificate(
    token: tuple[Mapping[str, str], Identity], tmp_path: Path
) -> None:
    environment, _ = token
    other = tmp_path / "other.pem"
    other.write_bytes(pem_of(issue(new_root("x", demo=True), "Ada", organisation="x").certificate))
    for changes, uri, words in (
        ({"TOUCHSTONE_PKCS11_PIN": "0000-wrong"}, "pkcs11:token=ada;object=signing",
         "refused the PIN"),
        ({}, "pkcs11:token=ben;object=signing", "0 tokens fit"),
        ({}, "pkcs11:token=ada;object=other", "0 private keys"),
        ({"TOUCHSTONE_PKCS11_CERTIFICATE": str(other)}, "pkcs11:token=ada;object=signing",
         "does not belong to the certificate"),
        ({"TOUCHSTONE_PKCS11_CERTIFICATE": ""}, "pkcs11:token=ada;object=signing",
         "no certificate lies beside"),
    ):  # fmt: skip
        settings = {**environment, **changes}
        with pytest.raises((Invalid, Refused), match=words), open_signer(uri, settings):
            pass


def test_a_certificate_in_the_token_is_found_beside_its_key(
    token: tuple[Mapping[str, str], Identity],
) -> None:
    import pkcs11
    from pkcs11.util.x509 import decode_x509_certificate

    environment, ada = token
    der = ada.certificate.public_bytes(serialization.Encoding.DER)
    library = pkcs11.lib(environment["TOUCHSTONE_PKCS11_MODULE"])
    with library.get_token(token_label="ada").open(rw=True, user_pin=PIN) as session:
        session.create_object(
            decode_x509_certificate(der)
            | {pkcs11.Attribute.TOKEN: True, pkcs11.Attribute.LABEL: "signing",
               pkcs11.Attribute.ID: b"\x01"}
        )  # fmt: skip
    without = {key: value for key, value in environment.items() if "CERTIFICATE" not in key}
    with open_signer("pkcs11:token=ada;object=signing", without) as signer:
        assert signer.certificate == ada.certificate
        public = signer.certificate.public_key()
        assert isinstance(public, ec.EllipticCurvePublicKey)
        public.verify(signer.sign(b"x"), b"x", ec.ECDSA(hashes.SHA256()))
