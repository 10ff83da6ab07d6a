"""What a person reads who gives the facility something wrong: one line, and nothing lost."""

import contextlib
import hashlib
import json
import os
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
import psycopg
import pytest
import yaml
from onnx import TensorProto, helper, numpy_helper

from demo.stage import TOUCHSTONE, CommandFailed, Person
from demo.story import COHORT, Story


def model_file(
    folder: Path, name: str, nodes: list[Any], constants: list[Any], **inputs: Any
) -> Path:
    """A small ONNX file over the cohort's contract."""
    shapes = {"image": ["N", 1, 64, 64], "descriptors": ["N", 8]} | inputs
    graph = helper.make_graph(
        nodes,
        "model",
        [helper.make_tensor_value_info(k, TensorProto.FLOAT, v) for k, v in shapes.items()],
        [helper.make_tensor_value_info("probability", TensorProto.FLOAT, ["N", 1])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path = folder / f"{name}.onnx"
    onnx.save(model, path)
    return path


def linear(folder: Path, name: str, weight: float = 0.1, **inputs: Any) -> Path:
    """A model that reads the descriptors; its scores mean little and are well formed."""
    first = next(key for key in ({"descriptors": 1} | inputs) if key != "image")
    return model_file(
        folder,
        name,
        [helper.make_node("Gemm", [first, "w", "b"], ["z"]),
         helper.make_node("Sigmoid", ["z"], ["probability"])],
        [numpy_helper.from_array(np.full((8, 1), weight, np.float32), "w"),
         numpy_helper.from_array(np.array([-4 * weight * 8], np.float32), "b")],
        **inputs,
    )  # fmt: skip


def submit(story: Story, path: Path) -> dict[str, Any]:
    """`touchstone submit PATH --wait` as SME A."""
    return story.stage.touchstone(
        story.people["Eva"], "submit", path, "--protocol", story.protocol["id"],
        "--cohort", COHORT, "--wait",
    )  # fmt: skip


def spent(story: Story, submission: str) -> int:
    """Attempts that SME A has used."""
    shown = story.stage.touchstone(story.people["Eva"], "status", submission)
    return int(shown["attempts"]["spent"])


def test_a_file_that_intake_refuses_is_named_and_costs_no_attempt(
    story: Story, tmp_path: Path
) -> None:
    (tmp_path / "text.onnx").write_text("this is no model, but long enough to be looked at")
    (tmp_path / "pointer.onnx").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 12\n"
    )
    (tmp_path / "empty.onnx").touch()
    wrong = linear(tmp_path, "wrong-input", descriptions=["N", 8], descriptors=["N", 8])
    for path, words in (
        (tmp_path / "text.onnx", "ONNX"),
        (tmp_path / "pointer.onnx", "LFS"),
        (tmp_path / "empty.onnx", "empty"),
        (wrong, "descri"),
    ):
        message, shown = outcome_of(story, path)
        assert words in message
        if shown:
            assert shown["state"] == "technical_failure"
            assert shown["outcome"] is None
            assert spent(story, shown["id"]) == 0


def outcome_of(story: Story, path: Path) -> tuple[str, dict[str, Any]]:
    """(the refusal or failure in words, the submission if one was made)."""
    try:
        shown = submit(story, path)
    except CommandFailed as refused:
        return str(refused), {}
    return shown["failure"]["message"] if shown["failure"] else "", shown


def test_a_model_that_answers_nan_fails_every_case_and_shows_no_number(
    story: Story, tmp_path: Path
) -> None:
    path = model_file(
        tmp_path,
        "nan",
        [helper.make_node("Gemm", ["descriptors", "w"], ["z"]),
         helper.make_node("Log", ["z"], ["probability"])],
        [numpy_helper.from_array(np.full((8, 1), -1, np.float32), "w")],
    )  # fmt: skip
    shown = submit(story, path)
    assert shown["outcome"] == "not_pass", shown
    assert set(shown) & {"verdict", "report_digest", "cohort_root"} == set()
    report = story.stage.touchstone(story.people["Eva"], "report", shown["id"])
    assert "endpoints" not in report
    assert "case_flow" not in report
    assert spent(story, shown["id"]) == 1


def test_a_submission_of_somebody_else_is_not_found(story: Story, tmp_path: Path) -> None:
    submission = submit(story, linear(tmp_path, "wrong", other=["N", 8], descriptors=["N", 8]))[
        "id"
    ]
    with pytest.raises(CommandFailed, match="that you may see"):
        story.stage.touchstone(story.people["Finn"], "status", submission)
    with pytest.raises(CommandFailed, match="that you may see"):
        story.stage.touchstone(story.people["Finn"], "report", submission)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"treshold": 0.5}, "did you mean 'threshold'"),
        ({"endpoints": [{"metric": "sensitivty", "goal": 0.8}]}, "sensitiv"),
        ({"endpoints": [{"metric": "sensitivity", "goal": 1.2}]}, "can't be met"),
        ({"cohort": {"id": COHORT, "positives": 10**6}}, "needs 1000000 positive cases"),
        ({"cohort": {"id": "nowhere"}}, "lock the cohort first"),
    ],
)
def test_a_protocol_with_a_fault_is_refused_with_its_place(
    story: Story, tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    from demo.journey import HERE

    protocol = yaml.safe_load((HERE / "protocol.yaml").read_text()) | {"id": "faulty"} | change
    path = tmp_path / "protocol.yaml"
    path.write_text(yaml.safe_dump(protocol))
    with pytest.raises(CommandFailed, match=words):
        story.stage.touchstone(story.people["Sam"], "protocol", "lock", path)


def test_a_locked_protocol_is_not_locked_again_with_another_text(
    story: Story, tmp_path: Path
) -> None:
    from demo.journey import HERE

    protocol = yaml.safe_load((HERE / "protocol.yaml").read_text()) | {"attempts": 9}
    path = tmp_path / "protocol.yaml"
    path.write_text(yaml.safe_dump(protocol))
    with pytest.raises(CommandFailed, match="raise its version"):
        story.stage.touchstone(story.people["Sam"], "protocol", "lock", path)


@pytest.mark.parametrize("token", [None, "tst_wrong", "not a token at all"])
def test_without_a_good_token_nothing_is_answered(story: Story, token: str | None) -> None:
    nobody = story.stage.person("nobody", token)
    with pytest.raises(CommandFailed, match="token"):
        story.stage.touchstone(nobody, "status")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    answer = httpx.get(f"{story.stage.server}/api/v1/submissions", headers=headers)
    assert answer.status_code == 401
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] == "unauthenticated"


def test_an_expired_token_says_so(story: Story) -> None:
    from registry.database.migrate import OWNER
    from registry.identity.accounts import proof_of

    database = owner_dsn(story, OWNER)
    secret = story.people["Clara"].environment["TOUCHSTONE_TOKEN"]
    digest = hashlib.sha256(proof_of(secret)).digest()
    update = "UPDATE touchstone.token SET expires_at = %s WHERE secret_hash = %s"
    with psycopg.connect(database, autocommit=True) as owner:
        owner.execute(update, ("2020-01-01", digest))
        try:
            with pytest.raises(CommandFailed, match="expired on 2020-01-01"):
                story.stage.touchstone(story.people["Clara"], "pull", "x", "--to", "nowhere")
        finally:
            owner.execute(update, ("2099-01-01", digest))


def owner_dsn(story: Story, role: str) -> str:
    """The owner's address of the running database, from the files of the facility."""
    home = story.home / "facility"
    password = json.loads((home / "database-roles.json").read_text())[role]
    environment = Path(f"/proc/{registry_pid(story)}/environ").read_bytes().decode().split("\0")
    app = next(v for v in environment if v.startswith("TOUCHSTONE_DATABASE_URL="))
    host = app.rpartition("?")[2]
    return f"postgresql://{role}:{password}@/touchstone?{host}"


def registry_pid(story: Story) -> int:
    """The process that listens on the facility's port."""
    port = story.stage.server.rpartition(":")[2]
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"server" in words and port.encode() in words:
                return int(entry.name)
    raise AssertionError("the registry is not running")


def test_a_role_does_what_its_row_says_and_no_more(story: Story, tmp_path: Path) -> None:
    stage, people = story.stage, story.people
    for person, command in (
        ("Eva", ["org", "add", "x", "--kind", "sme"]),
        ("Ada", ["protocol", "lock", str(protocol_file())]),
        ("Clara", ["status"]),
        ("Sam", ["submit", "models:/x/1", "--protocol", "p", "--cohort", "c"]),
    ):
        with pytest.raises(CommandFailed, match=r"may not do|no registered|takes:"):
            stage.touchstone(people[person], *command)
    admin = stage.person("admin", **story.facility)
    admin.environment["TOUCHSTONE_TOKEN"] = (story.keys / "admin.token").read_text().strip()
    with pytest.raises(CommandFailed, match="may not do"):
        stage.touchstone(admin, "status")


def protocol_file() -> Path:
    """The demo's protocol."""
    from demo.journey import HERE

    return HERE / "protocol.yaml"


def test_a_second_facility_on_the_same_directory_or_port_is_refused(
    story: Story, tmp_path: Path
) -> None:
    tmp_path.chmod(0o711)
    port = story.stage.server.rpartition(":")[2]
    other = story.stage.person("other", TOUCHSTONE_HOME=str(tmp_path / "h"),
                               TOUCHSTONE_KEYS=str(tmp_path / "k"))  # fmt: skip
    done = run(other, "up", "--port", port)
    assert done.returncode == 1
    assert f"port {port}" in done.stderr
    assert "--port" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        another = str(free.getsockname()[1])
    done = run(story.stage.person("again", **story.facility), "up", "--port", another)
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1


def run(who: Person, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command whose refusal is looked at closely."""
    return subprocess.run(
        [*TOUCHSTONE, *arguments], env=who.environment, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["decide", "x", "--certify", "--reject", "--reason", "r", "--key", "k"], 2),
        (["nonsense"], 2),
        (["submit", "models:/a/latest", "--protocol", "p", "--cohort", "c"], 1),
        (["submit", "/nonexistent", "--protocol", "p", "--cohort", "c"], 1),
        (["verify", "/nonexistent", "--root", "/nonexistent.pem"], 1),
        (["assess", "/nonexistent.csv", "--protocol", "/no.yaml", "--out", "o"], 1),
    ],
)
def test_usage_is_2_and_a_mistake_is_1_with_one_line(
    story: Story, arguments: list[str], status: int
) -> None:
    done = run(story.people["Eva"], *arguments)
    assert done.returncode == status
    assert "Traceback" not in done.stderr
    if status == 1:
        assert len(done.stderr.strip().splitlines()) == 1
        assert done.stderr.startswith("error: ")


def test_a_server_that_is_not_there_is_named(story: Story) -> None:
    lost = story.stage.person("lost", "tst_x", TOUCHSTONE_SERVER="http://127.0.0.1:9")
    with pytest.raises(CommandFailed, match="is it running"):
        story.stage.touchstone(lost, "status")


def test_postgres_killed_under_way_costs_time_and_nothing_else(
    story: Story, tmp_path: Path
) -> None:
    path = linear(tmp_path, "survivor")
    eva = story.people["Eva"]
    shown = story.stage.touchstone(
        eva, "submit", path, "--protocol", story.protocol["id"], "--cohort", COHORT
    )
    before = postgres_pid(story)
    os.kill(before, signal.SIGKILL)
    deadline = time.monotonic() + 90
    state = "unknown"
    while time.monotonic() < deadline and state not in ("in_review", "technical_failure"):
        time.sleep(0.5)
        with contextlib.suppress(CommandFailed):
            state = story.stage.touchstone(eva, "status", shown["id"])["state"]
    assert state == "in_review"
    assert postgres_pid(story) != before
    assert story.stage.touchstone(eva, "status", shown["id"])["outcome"] is not None


def test_a_worker_killed_under_way_is_replaced_and_the_run_ends(
    story: Story, tmp_path: Path
) -> None:
    path = linear(tmp_path, "second-survivor", 0.2)
    eva = story.people["Eva"]
    shown = story.stage.touchstone(
        eva, "submit", path, "--protocol", story.protocol["id"], "--cohort", COHORT
    )
    os.kill(worker_pid(story), signal.SIGKILL)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        state = story.stage.touchstone(eva, "status", shown["id"])["state"]
        if state in ("in_review", "technical_failure"):
            break
        time.sleep(0.5)
    assert state == "in_review"


def postgres_pid(story: Story) -> int:
    """The server's process id, from its own file."""
    folder = story.home / "facility" / "postgres"
    files = [*folder.rglob("postmaster.pid")]
    if not files:
        place = Path((folder / "data-is-in").read_text().strip())
        files = [*place.rglob("postmaster.pid")]
    return int(files[0].read_text().splitlines()[0])


def worker_pid(story: Story) -> int:
    """The worker of this facility."""
    home = f"TOUCHSTONE_HOME={story.home / 'facility'}".encode()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
                if b"worker" in words and home in (entry / "environ").read_bytes():
                    return int(entry.name)
            except OSError:
                continue
    raise AssertionError("no worker is running")


def test_when_all_attempts_are_spent_no_more_are_taken_and_the_numbers_open(
    story: Story, tmp_path: Path
) -> None:
    eva, path = story.people["Eva"], linear(tmp_path, "one-more", 0.3)
    while spent(story, latest(story)) < 3:
        submit(story, path)
    with pytest.raises(CommandFailed, match="are spent or under way"):
        submit(story, path)
    report = story.stage.touchstone(eva, "report", latest(story))
    assert report["endpoints"]
    assert "curves" not in report or report["curves"] is None


def latest(story: Story) -> str:
    """SME A's latest submission that was assessed."""
    rows = story.stage.touchstone(story.people["Eva"], "status")["submissions"]
    return str(next(row["id"] for row in rows if row["outcome"]))


def test_a_table_is_assessed_by_the_protocol_that_is_locked(story: Story, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    rows = ["case,patient,reference,score,slice_thickness,contrast_used"]
    for number in range(900):
        truth = int(random.random() < 0.4)
        score = np.clip(random.normal(0.75 if truth else 0.1, 0.12), 0, 1)
        group = f"{random.choice(['thin', 'thick'])},{random.choice(['yes', 'no'])}"
        rows.append(f"c{number},p{number // 2},{truth},{score:.4f},{group}")
    table = tmp_path / "table.csv"
    table.write_text("\n".join(rows) + "\n")
    outputs = []
    for folder in ("first", "second"):
        shown = story.stage.touchstone(
            story.people["Eva"], "assess", table, "--protocol", story.protocol["id"],
            "--out", tmp_path / folder,
        )  # fmt: skip
        assert shown["verdict"] in ("pass", "conditional", "insufficient_evidence")
        outputs.append((tmp_path / folder / "report.json").read_bytes())
    assert outputs[0] == outputs[1]
    with pytest.raises(CommandFailed, match="no locked protocol"):
        story.stage.touchstone(
            story.people["Eva"], "assess", table, "--protocol", "nonesuch", "--out", tmp_path / "x"
        )
