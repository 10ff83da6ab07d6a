"""What is installed, from where, and how quickly the command line answers."""

import re
import resource
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LOCKS = sorted((ROOT / "requirements").glob("*.lock"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def pins(lock: Path) -> dict[str, str]:
    """{name: version} of a lock; the first pin where Python versions differ."""
    found: dict[str, str] = {}
    for name, version in re.findall(r"^([a-z0-9_.-]+)==([^ \\]+)", lock.read_text(), re.MULTILINE):
        found.setdefault(name, version)
    return found


def test_there_are_three_locks() -> None:
    assert [lock.name for lock in LOCKS] == ["cpu.lock", "dev.lock", "gpu.lock"]


@pytest.mark.parametrize("lock", [*LOCKS, ROOT / "requirements" / "uv.txt"], ids=lambda p: p.name)
def test_a_lock_pins_by_hash_and_names_no_host(lock: Path) -> None:
    text = lock.read_text()
    assert not re.search(r"https?:|file:|--(extra-)?index|find-links", text)
    for block in re.split(r"\n(?=[a-z0-9])", text):
        if "==" in block:
            assert "--hash=sha256:" in block, block.splitlines()[0]


def test_the_locks_agree_and_differ_only_where_they_must() -> None:
    cpu, dev, gpu = (pins(lock) for lock in LOCKS)
    assert cpu["onnxruntime"] == gpu["onnxruntime-gpu"] == "1.31.1"
    assert "onnxruntime-gpu" not in cpu
    assert "onnxruntime" not in gpu
    assert {name: dev[name] for name in cpu} == cpu
    shared = set(cpu) & set(gpu)
    assert {name: gpu[name] for name in shared} == {name: cpu[name] for name in shared}


def test_a_hospital_installs_no_mlflow_no_database_and_no_evidently() -> None:
    extras = PROJECT["optional-dependencies"]
    asked = " ".join([*PROJECT["dependencies"], *extras["hospital"], *extras["runtime"]])
    assert not re.search(r"mlflow|psycopg|evidently|procrastinate|pandas", asked)
    assert {"hospital", "assess", "server", "gpu", "demo", "dev"} <= set(extras)


def test_no_dependency_brings_a_module_of_our_names() -> None:
    ours = {"registry", "validators", "serving", "demo"}
    providers = packages_distributions()
    for name in ours:
        assert set(providers.get(name, [])) <= {"touchstone-tef"}, providers[name]


def test_the_command_line_starts_without_any_heavy_library() -> None:
    program = (
        "import sys, registry.cli.main; heavy = {'mlflow', 'psycopg', 'numpy', 'onnxruntime', "
        "'sklearn', 'bentoml', 'pydantic', 'cryptography', 'httpx', 'scipy', 'pyarrow'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True,
                          check=True, cwd=ROOT)  # fmt: skip
    assert done.stdout.strip() == "[]"


def test_help_takes_at_most_half_again_a_bare_typer_program(tmp_path: Path) -> None:
    bare = tmp_path / "bare.py"
    bare.write_text(
        "import typer\napp = typer.Typer()\n@app.command()\ndef one(x: int = 1): ...\n"
        "@app.command()\ndef two(x: int = 1): ...\napp()\n"
    )
    ours, plain = [sys.executable, "-m", "registry.cli.main"], [sys.executable, str(bare)]
    # In turns, the least of each: what else the machine does only adds.
    rounds = [(seconds([*ours, "--help"]), seconds([*plain, "--help"])) for _ in range(7)]
    least = [min(taken) for taken in zip(*rounds, strict=True)]
    assert least[0] <= 1.5 * least[1], rounds


def seconds(command: list[str]) -> float:
    """Processor time of a command that must succeed."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, capture_output=True, check=True, cwd=ROOT)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
