"""Every command that talks to the registry: against a server, and in this very process."""

import ast
import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from registry.api import examples
from registry.cli.client import Client
from registry.cli.main import options_first
from registry.settings import Databases, read_settings
from registry.submissions import places
from registry.trust.canonical import sha256_bytes
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
from registry.trust.keys import issue, save_identity
from serving.bundle.layout import REQUIRED, UNSIGNED
from tests.registry.api_stage import EXAMPLE, PROTOCOL, Stage
from tests.registry.test_api import grow
from tests.validators.cohort_example import CONTRACT, few_scans
from validators.cohort.ingest import ingest
from validators.protocol.read import read_contract

Cli = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def stage(database: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    made = Stage(database, tmp_path_factory.mktemp("facility")).with_mlflow()
    yield made
    made.close()


@pytest.fixture(scope="module")
def server(stage: Stage) -> Iterator[str]:
    with stage.listening() as address:
        yield address


@pytest.fixture(params=["remote", "local"])
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def cli(way: str, stage: Stage, server: str, monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str]) -> Cli:  # fmt: skip
    """`cli("innovator", "status", …)`: the JSON that the command prints."""
    for name in [name for name in os.environ if name.startswith(("TOUCHSTONE_", "MLFLOW_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("TOUCHSTONE_HOME", str(stage.settings.home))
    monkeypatch.setenv("TOUCHSTONE_KEYS", str(stage.settings.keys))
    if way == "remote":
        monkeypatch.setenv("TOUCHSTONE_SERVER", server)
    else:
        for name, value in stage.database.environment("registry").items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(socket.socket, "connect", no_network)

    def run(role: str, *arguments: object) -> dict[str, Any]:
        from registry.cli.main import app

        monkeypatch.setenv("TOUCHSTONE_TOKEN", stage.secrets[role])
        capsys.readouterr()
        app([*map(str, arguments), "--json"], standalone_mode=False)
        shown: dict[str, Any] = json.loads(capsys.readouterr().out)
        return shown

    return run


def no_network(_: socket.socket, address: Any) -> None:
    raise AssertionError(f"in this process nothing is asked over the network: {address}")


def test_accounts(cli: Cli, way: str) -> None:
    assert cli("admin", "org", "add", f"sme-{way}", "--kind", "sme")["id"] == f"sme-{way}"
    issued = cli("admin", "token", "add", "--org", f"sme-{way}", "--role", "innovator",
                 "--person", "Zoe")  # fmt: skip
    assert issued["token"].startswith("tst_")
    with pytest.raises(TouchstoneError, match="exists already"):
        cli("admin", "org", "add", f"sme-{way}", "--kind", "sme")
    with pytest.raises(TouchstoneError, match="may not do"):
        cli("innovator", "org", "add", "other", "--kind", "sme")


def test_a_steward_signs_in_with_their_key_and_the_administrator_can_not(
    cli: Cli, way: str, stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import keyring
    from keyring.backends.null import Keyring as Forgetful

    before = keyring.get_keyring()
    keyring.set_keyring(Forgetful())
    try:
        key = save_identity(stage.identities["Sam"], tmp_path, "sam")
        given = cli("admin", "login", "--key", key, "--person", "Sam")
        assert (given["person"], given["role"], given["stored"]) == ("Sam", "steward", False)
        monkeypatch.setitem(stage.secrets, "signed in", given["token"])
        assert cli("signed in", "whoami")["role"] == "steward"
        path = tmp_path / "protocol.yaml"
        path.write_text(yaml.safe_dump(examples.PROTOCOL | {"version": f"signed-in-{way}"}))
        assert cli("signed in", "protocol", "lock", path)["digest"]
        for wrong, words in (
            (("--person", "Ada"), "is Sam's, not Ada's"),
            (("--role", "assessor"), "those of its enrolment"),
        ):
            with pytest.raises(TouchstoneError, match=words):
                cli("admin", "login", "--key", key, *wrong)
        with pytest.raises(TouchstoneError, match="no login of this subject is linked to Sam"):
            cli("signed in", "person", "confirm", "sam@home")
        with pytest.raises(TouchstoneError, match="may not do"):
            cli("admin", "person", "confirm", "sam@home")
        own = save_identity(issue(stage.root, "Sam", organisation="tef"), tmp_path, "forged")
        with pytest.raises(TouchstoneError, match="not enrolled"):
            cli("admin", "login", "--key", own)
    finally:
        keyring.set_keyring(before)
    for role in ("steward", "assessor"):
        with pytest.raises(TouchstoneError, match="login --key") as refusal:
            cli("admin", "token", "add", "--org", "tef", "--role", role, "--person", "Sam")
        assert refusal.value.code == "signs_in_with_key"


def test_nothing_is_signed_for_a_registry_that_gives_itself_another_name(
    stage: Stage, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when somebody between hands on the challenge of the true one."""
    from registry.cli.sign_in import sign_in

    key = save_identity(stage.identities["Sam"], tmp_path, "sam")
    monkeypatch.setenv("TOUCHSTONE_SERVER", server)
    monkeypatch.setattr(
        Client, "post", lambda *_: {"nonce": "n", "server": "https://tef.example.org"}
    )
    with pytest.raises(TouchstoneError, match=r"this registry is https://tef\.example\.org"):
        sign_in(str(key), None, show_token=False, as_json=True)


def test_cohorts(cli: Cli, way: str, tmp_path: Path) -> None:
    source = few_scans(tmp_path / "few.sqlite")
    ingest(source, tmp_path / "staged", contract=read_contract(CONTRACT), half="all")
    locked = cli("steward", "cohort", "seal", tmp_path / "staged", "--id", "few", "--version",
                 f"1-{way}")  # fmt: skip
    assert locked["version"] == f"1-{way}"
    listed = cli("innovator", "cohort", "list")["cohorts"]
    assert ("few", f"1-{way}") in {(row["id"], row["version"]) for row in listed}
    assert cli("steward", "cohort", "verify", "few", "--version", f"1-{way}")["verified"]


def test_protocols(cli: Cli, way: str, tmp_path: Path) -> None:
    path = tmp_path / "protocol.yaml"
    path.write_text(yaml.safe_dump(examples.PROTOCOL | {"version": f"1-{way}"}))
    digest = cli("steward", "protocol", "lock", path)["digest"]
    assert cli("steward", "protocol", "lock", path)["digest"] == digest
    assert digest in {row["digest"] for row in cli("innovator", "protocol", "list")["protocols"]}
    assert cli("clinician", "protocol", "show", digest)["version"] == f"1-{way}"


def test_submitting_and_waiting(cli: Cli, way: str, stage: Stage) -> None:
    model = f"net-{way}"
    stage.register(model)
    made = cli("innovator", "submit", f"models:/{model}/1", "--protocol", PROTOCOL.id,
               "--cohort", "lidc-nodules")  # fmt: skip
    assert made["state"] == "registered"
    assert made["id"] in {row["id"] for row in cli("innovator", "status")["submissions"]}
    assert cli("innovator", "status", made["id"])["id"] == made["id"]
    stage.answered.clear()

    def move() -> None:
        for state in ("intake", "queued", "technical_failure"):
            stage.worker.execute(
                "SELECT pg_sleep(0.7); UPDATE touchstone.submission SET state ="
                f" '{state}' WHERE id = '{made['id']}'"
            )

    mover = threading.Thread(target=move)
    mover.start()
    assert cli("innovator", "status", made["id"], "--watch")["state"] == "technical_failure"
    mover.join()
    if way == "remote":  # most of what it asked was answered in a few bytes
        assert ("GET", "/api/v1/submissions/{submission}", 304) in stage.answered


def test_reports_and_decisions(cli: Cli, stage: Stage, tmp_path: Path) -> None:
    submission = stage.submission()
    report = cli("assessor", "report", submission, "--out", tmp_path / "review")
    assert [Path(path).name for path in report["files"]] == ["report.json", "report.html"]
    key = save_identity(stage.identities["Ada"], tmp_path, "ada")
    shown = cli("assessor", "decide", submission, "--reject", "--reason", "no need", "--key", key)
    assert shown["decisions"] == 1


def test_the_released_report_as_pdf_is_the_bundle_s_own(
    cli: Cli, stage: Stage, tmp_path: Path
) -> None:
    certified, waiting = stage.certified(), stage.submission()
    for submission in (certified, waiting):
        stage.facility.store.put(places.bundle(submission) + "report.pdf", b"%PDF-1.7 of a report")
    for role in ("innovator", "assessor"):
        to = tmp_path / f"{role}.pdf"
        told = cli(role, "report", certified, "--pdf", to)
        assert to.read_bytes() == b"%PDF-1.7 of a report"
        assert told == {"files": [str(to)], "digest": sha256_bytes(to.read_bytes())}
    cli("assessor", "report", waiting, "--pdf", tmp_path / "before.pdf")
    for role, submission, kind in (
        ("innovator", waiting, Conflict),  # nothing is certified yet
        ("stranger", certified, (NotFound, Refused)),
        ("clinician", certified, (NotFound, Refused)),
        ("assessor", stage.submission(), NotFound),
    ):
        with pytest.raises(kind):
            cli(role, "report", submission, "--pdf", tmp_path / "none.pdf")
    assert not (tmp_path / "none.pdf").exists()


LISTS = {  # command: (who, name in the JSON, address)
    ("token", "list"): ("admin", "tokens", "/tokens"),
    ("person", "list"): ("admin", "people", "/people"),
    ("key", "list"): ("auditor", "keys", "/keys"),
    ("notices",): ("innovator", "notices", "/notices"),
    ("status",): ("innovator", "submissions", "/submissions"),
    ("audit", "list"): ("auditor", "events", "/audit/events"),
}


@pytest.mark.parametrize("command", LISTS)
def test_a_list_is_read_to_its_end_through_its_pages(
    cli: Cli, stage: Stage, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    who, name, path = LISTS[command]
    for number in range(3):
        grow(stage, path, number)
    whole = without_use(cli(who, *command)[name])
    assert len(whole) >= 3
    asked: list[str] = []
    get = Client.get

    def small(client: Client, path: str, /, **query: str) -> Any:
        asked.append(path)
        return get(client, path, **query | {"limit": "2"})

    monkeypatch.setattr(Client, "get", small)
    assert without_use(cli(who, *command)[name]) == whole
    assert len(asked) == -(-len(whole) // 2)


def without_use(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A token's last use is to the minute, and the next command uses one."""
    return [{key: value for key, value in row.items() if key != "last_used_at"} for row in rows]


def test_a_list_that_never_ends_is_refused(monkeypatch: pytest.MonkeyPatch, stage: Stage) -> None:
    client = Client(stage.settings, "tst_x")
    for answers, words in (
        ([{"items": [], "next": "A"}], "never ends"),
        ([{"items": [{}], "next": "A"}] * 2, "never ends"),
        ([{"events": [{}], "next": None}], "is not what was asked for"),
        ([{"items": ["x"], "next": None}], "is not what was asked for"),
        ([[{}]], "is not what was asked for"),
    ):
        left = iter(answers)
        monkeypatch.setattr(Client, "get", partial(_next_of, left))
        with pytest.raises(Tampered, match=words):
            list(client.items("/tokens"))


def _next_of(answers: Iterator[Any], *_: Any, **__: Any) -> Any:
    return next(answers)


def test_a_submission_whose_report_is_damaged_is_rejected_without_it(
    cli: Cli, stage: Stage, tmp_path: Path
) -> None:
    submission = stage.submission()
    path = stage.settings.home / "objects" / places.report(submission)
    path.chmod(0o600)
    path.write_bytes(b"{}")
    key = save_identity(stage.identities["Ada"], tmp_path, "ada")
    with pytest.raises(TouchstoneError, match="not the one that was assessed"):
        cli("assessor", "decide", submission, "--certify", "--reason", "good", "--key", key)
    shown = cli("assessor", "decide", submission, "--reject", "--reason", "lost", "--key", key)
    assert (shown["state"], shown["decisions"]) == ("in_review", 1)


def test_pulling_and_assessing(cli: Cli, way: str, stage: Stage, tmp_path: Path) -> None:
    stage.certified(f"pulled-{way}")
    pulled = cli("clinician", "pull", f"pulled-{way}", "--to", tmp_path / "bundle")
    assert pulled["files"] == len(REQUIRED) + 1 + len(UNSIGNED)
    assert (tmp_path / "bundle" / "model" / "model.onnx").stat().st_size == 4096
    table = tmp_path / "table.csv"
    rows = [f"{i},{i % 2},{0.9 if i % 2 else 0.1},{i},a,b" for i in range(80)]
    table.write_text("\n".join(["case,reference,score,patient,site,sex", *rows]))
    scored = cli("innovator", "assess", table, "--protocol", PROTOCOL.id, "--out", tmp_path / "out")
    assert scored["verdict"]


def calls() -> Iterator[tuple[str, str, str]]:
    """(file, method, address) of every call to the registry in the command line's source."""
    methods = {"get": "get", "items": "get", "get_bytes": "get", "watch": "get", "stream": "get",
               "post": "post", "put": "put", "patch": "patch", "delete": "delete"}  # fmt: skip
    folder = Path(__file__).parents[2] / "registry" / "cli"
    for path in sorted(folder.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                not isinstance(node, ast.Call)
                or not isinstance(node.func, ast.Attribute)
                or node.func.attr not in methods
                or not re.search(r"client\b|Client\(", ast.unparse(node.func.value))
                or not node.args
            ):
                continue
            address = node.args[0]
            if isinstance(address, ast.JoinedStr):
                parts = [part.value if isinstance(part, ast.Constant) else "{}"
                         for part in address.values]  # fmt: skip
                yield path.name, methods[node.func.attr], "".join(map(str, parts))
            elif isinstance(address, ast.Constant) and str(address.value).startswith("/"):
                yield path.name, methods[node.func.attr], str(address.value)


def test_every_address_that_a_command_asks_is_described(stage: Stage) -> None:
    described = [
        (method, path.removeprefix("/api/v1"))
        for path, item in stage.app.openapi()["paths"].items()
        for method in item
    ]
    asked = set(calls())
    assert len(asked) >= 14, "the search through the source finds nothing any more"
    for file, method, address in sorted(asked):
        pattern = re.escape(address).replace(r"\{\}", ".+")
        assert any(method == known and re.fullmatch(pattern, path) for known, path in described), (
            f"{file} asks {method} {address}"
        )


def test_the_two_options_may_stand_anywhere(stage: Stage, server: str, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text(stage.secrets["innovator"] + "\n")
    environment = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("TOUCHSTONE_", "MLFLOW_"))
    }
    environment |= {"TOUCHSTONE_TOKEN": "tst_no", "TOUCHSTONE_SERVER": "http://127.0.0.1:1"}
    for arguments in (
        ["--server", server, "--token-file", str(token), "protocol", "list", "--json"],
        ["protocol", "list", f"--server={server}", "--json", f"--token-file={token}"],
    ):
        done = subprocess.run(
            [sys.executable, "-m", "registry.cli.main", *arguments],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["protocols"]
    assert options_first(["a", "--", "--server", "x"]) == ["a", "--", "--server", "x"]


def test_a_named_server_is_asked_even_where_the_database_is_at_hand(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = stage.database.environment("registry")
    assert read_settings(environment).is_local
    assert not read_settings(environment | {"TOUCHSTONE_SERVER": "http://127.0.0.1:1"}).is_local
    assert not read_settings({"TOUCHSTONE_SERVER": "http://127.0.0.1:1"}).is_local
    assert not read_settings({}).is_local


@pytest.mark.parametrize("content", ["", "two words", "tst_é", b"\xff\xfe"])
def test_a_file_without_a_token_says_so(tmp_path: Path, content: str | bytes) -> None:
    path = tmp_path / "token"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(Invalid, match="token file"):
        read_settings({"TOUCHSTONE_TOKEN_FILE": str(path)})
    with pytest.raises(Invalid, match="can't be read"):
        read_settings({"TOUCHSTONE_TOKEN_FILE": str(tmp_path / "none")})


def test_the_token_that_login_left_in_the_keyring_is_used(
    stage: Stage, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import keyring
    from keyring.backend import KeyringBackend
    from keyring.backends.fail import Keyring as NoKeyring

    class InMemory(KeyringBackend):
        priority = 1  # type: ignore[assignment]
        kept: dict[tuple[str, str], str] = {}

        def get_password(self, service: str, username: str) -> str | None:
            return self.kept.get((service, username))

        def set_password(self, service: str, username: str, password: str) -> None:
            self.kept[service, username] = password

    settings = read_settings({"TOUCHSTONE_SERVER": server})
    before = keyring.get_keyring()
    try:
        keyring.set_keyring(NoKeyring())
        with pytest.raises(Unauthenticated, match="no token"):
            Client(settings)
        keyring.set_keyring(InMemory())
        with pytest.raises(Unauthenticated, match="no token"):
            Client(settings)
        keyring.set_password("touchstone", server, stage.secrets["auditor"])
        assert Client(settings).get("/me")["role"] == "auditor"
        # What is in the environment goes before.
        named = read_settings({"TOUCHSTONE_SERVER": server,
                               "TOUCHSTONE_TOKEN": stage.secrets["admin"]})  # fmt: skip
        assert Client(named).get("/me")["role"] == "admin"
    finally:
        keyring.set_keyring(before)


class CuttingProxy:
    """Passes requests on to a server, and cuts the connection instead of the first answers."""

    def __init__(self, server: str, cuts: int) -> None:
        host, port = server.removeprefix("http://").split(":")
        self._target = (host, int(port))
        self._cuts = cuts
        self.passed = 0
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                inward, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._pass_on, args=(inward,), daemon=True).start()

    def _pass_on(self, inward: socket.socket) -> None:
        with inward, socket.create_connection(self._target) as outward:
            threading.Thread(target=_pump, args=(inward, outward), daemon=True).start()
            answer = outward.recv(1 << 16)  # the server has acted
            self.passed += 1
            if self._cuts > 0:
                self._cuts -= 1
                inward.shutdown(socket.SHUT_RDWR)
                return
            while answer:
                inward.sendall(answer)
                answer = outward.recv(1 << 16)

    def close(self) -> None:
        self._socket.close()


def _pump(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(1 << 16):
            target.sendall(data)
    except OSError:
        pass


def test_a_command_whose_answers_are_lost_asks_again_and_doubles_nothing(
    stage: Stage, server: str
) -> None:
    stage.register("unlucky")
    proxy = CuttingProxy(server, cuts=2)
    try:
        client = Client(
            read_settings(
                {"TOUCHSTONE_SERVER": proxy.address,
                 "TOUCHSTONE_TOKEN": stage.secrets["innovator"]}
            )
        )  # fmt: skip
        made = client.post(
            "/submissions",
            {"model": "unlucky", "version": 1, "protocol": PROTOCOL.id, "cohort": "lidc-nodules"},
        )
        assert proxy.passed == 3
    finally:
        proxy.close()
    rows = stage.worker.execute(
        "SELECT id FROM touchstone.submission WHERE model_name = 'unlucky'"
    ).fetchall()
    assert [str(row[0]) for row in rows] == [made["id"]]


def test_a_server_that_stays_away_is_named_in_one_line(stage: Stage) -> None:
    client = Client(read_settings({"TOUCHSTONE_SERVER": "http://127.0.0.1:1",
                                   "TOUCHSTONE_TOKEN": "tst_x"}))  # fmt: skip
    with pytest.raises(Unavailable, match="no answer from"):
        client.post("/organisations", {})


def test_the_examples_stand_for_a_real_protocol() -> None:
    assert EXAMPLE.id == examples.PROTOCOL["id"]
