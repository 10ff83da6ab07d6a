"""A hospital that asks for witnesses, by the command line, on a bundle that one of two has seen."""

import datetime as dt
import json
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from registry.audit.witness_protocol import CALL, request_body
from registry.cli.main import app
from registry.trust.canonical import canonical
from registry.trust.keys import pem_of
from serving.bundle.layout import LOG
from serving.bundle.pack import write_bundle
from tests.registry.strict_witness import StrictWitness
from tests.serving import certified


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the bundle `b` and the pinned root."""
    made = tmp_path_factory.mktemp("hospital")
    tef = certified.facility()
    files = certified.packed(certified.model(), golden=certified.NO_GOLDEN)
    now = {"at": dt.datetime.now(dt.UTC)}
    signed = certified.signed(files, tef.log, tef.ada, tef.ben, logged=now)
    (made / "root.pem").write_bytes(pem_of(tef.root.certificate))
    with StrictWitness("witness.example/w1", made) as witness:
        witness.trust(tef.log.origin, tef.log.key.public_key())
        proof = json.loads(signed[LOG])
        note = proof["checkpoint"].encode()
        answer = httpx.post(witness.url + CALL, content=request_body(0, [], note))
        assert answer.status_code == 200
        proof["checkpoint"] += answer.text
        (made / "w1").write_text(witness.verifier_key)
        (made / "w2").write_text(StrictWitness("witness.example/w2", made).verifier_key)
    write_bundle(signed | {LOG: canonical(proof)}, made / "b")
    return made


@pytest.fixture
def asked(place: Path, tmp_path: Path) -> list[str]:
    return [
        "verify", str(place / "b"), "--root", str(place / "root.pem"), "--no-status",
        "--skip-golden", "--state", str(tmp_path), "--acknowledge", "Clara", "--json",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("witnesses", "more", "status"),
    [
        ((), (), 0), (("w1",), (), 0), (("w2",), (), 43), (("w1", "w2"), (), 43),
        (("w1", "w2"), ("--witnesses", "1"), 0), (("w1", "w2"), ("--witnesses", "2"), 43),
        (("w1",), ("--witnesses", "2"), 1),
    ],
)  # fmt: skip
def test_k_of_n_witnesses_by_the_command_line(
    place: Path, asked: list[str], witnesses: tuple[str, ...], more: tuple[str, ...], status: int
) -> None:
    named = [word for name in witnesses for word in ("--witness", (place / name).read_text())]
    done = CliRunner().invoke(app, [*asked, *named, *more])
    assert done.exit_code == status, done.output
    if status == 1:  # the question itself is wrong
        return
    said = json.loads(done.stdout.splitlines()[0])
    assert said["code"] == ("not_witnessed" if status else None)
    assert said["ok"] == (status == 0)
    seen = "seen by witness.example/w1" in str(said["steps"])
    assert seen == (status == 0 and "w1" in witnesses)
