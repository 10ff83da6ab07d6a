"""`touchstone login`, `logout`, `whoami` and `token`: the real commands, at a real provider."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.oidc.conftest import CLINIC_GROUP, SME_GROUP, Stage
from tests.oidc.provider import Person, wait_for


class Machine:
    """A person's machine, with or without a keyring."""

    def __init__(self, stage: Stage, folder: Path, *, keyring: bool = True) -> None:
        backend = (
            "tests.oidc.file_keyring.FileKeyring" if keyring else "keyring.backends.null.Keyring"
        )
        self._out = folder / "out"
        self.keyring = folder / "keyring.json"
        self._environment = {
            **{key: value for key, value in os.environ.items() if "TOUCHSTONE" not in key},
            "TOUCHSTONE_SERVER": stage.registry.url,
            "TOUCHSTONE_HOME": str(folder / "home"),
            "TOUCHSTONE_KEYS": str(folder / "keys"),
            "PYTHON_KEYRING_BACKEND": backend,
            "TESTS_KEYRING": str(self.keyring),
            "COLUMNS": "200",
        }

    def start(self, *arguments: str, **environment: str) -> "subprocess.Popen[bytes]":
        with self._out.open("wb") as out:
            return subprocess.Popen(
                [sys.executable, "-m", "registry.cli.main", *arguments],
                env={**self._environment, **environment},
                stdout=out,
                stderr=subprocess.STDOUT,
            )

    def run(self, *arguments: str, **environment: str) -> tuple[int, str]:
        """One command; its status and what it says."""
        status = self.start(*arguments, **environment).wait(60)
        return status, self._out.read_text()

    def log_in(self, subject: str, *arguments: str, refuse: bool = False) -> tuple[int, str]:
        """`touchstone login`, with somebody who enters the code."""
        command = self.start("login", *arguments)
        address = wait_for("the address", r"(?m)^open +(\S+)$", self._out).group(1)
        code = wait_for("the code", r"(?m)^code +(\S+)$", self._out).group(1)
        Person(subject).enter_code(address, code, refuse=refuse)
        return command.wait(60), self._out.read_text()


@pytest.fixture
def machine(stage: Stage, tmp_path: Path) -> Machine:
    """A machine with a keyring."""
    return Machine(stage, tmp_path)


@pytest.fixture(autouse=True)
def people(stage: Stage) -> None:
    """Who logs in."""
    stage.provider.account("carl", [SME_GROUP], name="Carl")
    stage.provider.account("both-2", [SME_GROUP, CLINIC_GROUP], name="Both Two")


def held(machine: Machine) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(machine.keyring.read_text())
    return found


def test_a_login_shows_where_to_go_keeps_the_token_unseen_and_a_logout_ends_it(
    stage: Stage, machine: Machine
) -> None:
    status, said = machine.run("whoami")
    assert status == 1
    assert "touchstone login" in said
    status, said = machine.log_in("carl")
    assert status == 0, said
    assert "logged in: Carl (innovator, sme-a)" in said
    assert "tst_" not in said
    [token] = held(machine).values()
    assert machine.run("whoami") == (
        0, f"Carl: innovator of sme-a (sme) at {stage.registry.url}\n",
    )  # fmt: skip
    status, said = machine.run("token", "list", "--json")
    assert [row["person"] for row in json.loads(said)["tokens"]] == ["Carl"]
    status, said = machine.run("logout", "--json")
    assert (status, set(json.loads(said))) == (0, {"revoked"})
    assert held(machine) == {}
    assert stage.registry.me(token).status_code == 401
    assert machine.run("logout")[1] == "you are not logged in here\n"


def test_without_a_keyring_the_token_is_shown_once_with_what_to_do(
    stage: Stage, tmp_path: Path
) -> None:
    machine = Machine(stage, tmp_path, keyring=False)  # a keyring that takes and forgets
    status, said = machine.log_in("carl")
    assert status == 0
    assert "no keyring" in said
    token = said.rpartition("export TOUCHSTONE_TOKEN=")[2].split()[0]
    assert stage.registry.me(token).json()["person"] == "Carl"
    assert machine.run("whoami")[0] == 1
    assert machine.run("whoami", TOUCHSTONE_TOKEN=token)[0] == 0


def test_who_says_no_at_the_provider_is_not_logged_in(machine: Machine) -> None:
    status, said = machine.log_in("carl", refuse=True)
    assert status == 1
    assert "access_denied" in said
    assert not machine.keyring.exists()


def test_a_role_may_be_chosen_on_the_command_line(machine: Machine) -> None:
    status, said = machine.log_in("both-2")
    assert status == 1
    assert "choose one (--org, --role)" in said
    status, said = machine.log_in("both-2", "--role", "clinician")
    assert (status, "clinician, clinic" in said) == (0, True), said


def test_a_token_that_is_revoked_says_so_on_the_next_command(
    stage: Stage, machine: Machine
) -> None:
    assert machine.log_in("carl")[0] == 0
    status, said = machine.run("token", "list", "--json")
    live = [row["id"] for row in json.loads(said)["tokens"] if row["revoked_at"] is None]
    for token in live:
        assert stage.registry.ask("DELETE", f"/tokens/{token}", stage.registry.admin).is_success
    status, said = machine.run("whoami")
    assert (status, "revoked" in said) == (1, True)
    status, said = machine.run("logout")
    assert (status, "over already" in said) == (0, True)


def test_administrators_link_list_and_withdraw_by_command(stage: Stage, machine: Machine) -> None:
    admin = {"TOUCHSTONE_TOKEN": stage.registry.admin}
    status, said = machine.run(
        "person", "add", "Wanda", "--org", "tef", "--role", "auditor", "--subject", "wanda",
        "--json", **admin,
    )  # fmt: skip
    assert status == 0, said
    person = json.loads(said)["id"]
    assert "auditor of tef" in machine.run("person", "list", **admin)[1]
    status, said = machine.run("person", "add", "X", "--org", "tef", "--role", "auditor", **admin)
    assert (status, "either the subject or the e-mail" in said) == (1, True)
    assert machine.log_in("wanda")[0] == 0
    assert "auditor of tef" in machine.run("whoami")[1]
    status, _ = machine.run(
        "person", "withdraw", person, "--org", "tef", "--role", "auditor", **admin
    )
    assert status == 0
    assert machine.run("whoami")[0] == 1
    assert "(withdrawn)" in machine.run("person", "list", **admin)[1]
    status, said = machine.run("token", "list", **admin)
    assert "Wanda" in said
    assert "revoked" in said


def test_a_device_login_is_completed_once_however_many_ask(stage: Stage) -> None:
    device = stage.registry.ask("POST", "/login/device", json={}).json()
    assert "device_code" not in device
    ask = {"handle": device["handle"]}
    assert stage.registry.ask("POST", "/login/device/token", json=ask).status_code == 202
    Person("carl").enter_code(device["verification_uri"], device["user_code"])
    answers: list[int] = []

    def poll() -> None:
        answers.append(stage.registry.ask("POST", "/login/device/token", json=ask).status_code)

    threads = [threading.Thread(target=poll) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers.count(200) == 1
    assert set(answers) <= {200, 202, 401, 503}
    assert stage.registry.ask("POST", "/login/device/token", json=ask).status_code == 401


def test_a_handle_is_not_a_browsers_state_and_not_a_guess(stage: Stage) -> None:
    started = stage.registry.ask("GET", "/login")
    state = started.headers["location"].partition("state=")[2].partition("&")[0]
    for handle in (state, "x"):
        answer = stage.registry.ask("POST", "/login/device/token", json={"handle": handle})
        assert answer.status_code == 401
