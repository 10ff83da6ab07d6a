"""A hospital's machine with nothing but [hospital]: verify, serve, predict, roll over.

The quick test makes its environment of what `[hospital]` needs and no more, linked out of the one
that runs the tests. The slow one installs it as a hospital would.
"""

import json
import os
import re
import signal
import subprocess
import sys
import sysconfig
import tomllib
import venv
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import httpx
import pytest
from packaging.requirements import Requirement

from tests.serving import certified
from tests.serving.hospital_made import REPOSITORY, write
from tests.serving.test_server import inputs

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
ABSENT = (
    "alembic", "boto3", "evidently", "fastapi", "flask", "mlflow", "nibabel", "pandas",
    "procrastinate", "psycopg", "pyarrow", "rdflib", "safetensors", "scipy", "sklearn", "typst",
)  # fmt: skip


def needed(extra: str) -> set[str]:
    """The distributions that touchstone-tef[extra] brings, as far as they are installed here."""
    own = PROJECT["name"]
    found: set[str] = set()
    waiting = [Requirement(text) for text in PROJECT["dependencies"]]
    waiting.append(Requirement(f"{own}[{extra}]"))
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        wanted = waiting.pop()
        name = re.sub(r"[-_.]+", "-", wanted.name).lower()
        if (name, frozenset(wanted.extras)) in seen:
            continue
        seen.add((name, frozenset(wanted.extras)))
        if name == own:
            waiting += [
                Requirement(text)
                for one in wanted.extras
                for text in PROJECT["optional-dependencies"][one]
            ]
            continue
        try:
            requires = distribution(name).requires or []
        except PackageNotFoundError:
            # The tests may run with onnxruntime-gpu in the place of onnxruntime.
            assert name == "onnxruntime", f"{name} is not installed"
            name, requires = "onnxruntime-gpu", distribution("onnxruntime-gpu").requires or []
        found.add(name)
        for text in requires:
            one = Requirement(text)
            extras = {"", *wanted.extras}
            if one.marker is None or any(one.marker.evaluate({"extra": e}) for e in extras):
                waiting.append(one)
    return found


def linked(folder: Path) -> Path:
    """A virtual environment of `needed("hospital")`; its Python."""
    venv.create(folder, symlinks=True, with_pip=False)
    python = folder / "bin" / "python"
    site = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
    for name in needed("hospital"):
        for file in distribution(name).files or ():
            top = file.parts[0]
            place = Path(str(distribution(name).locate_file(top)))
            if top != ".." and place.exists() and not (site / top).exists():
                (site / top).symlink_to(place)
    return python


def ask(python: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [python, "-P", "-m", "registry.cli.main", *map(str, arguments)],
        capture_output=True, text=True, timeout=120, check=False, cwd="/",
        env=environment(),
    )  # fmt: skip


def environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG")}
    return kept | {"PYTHONPATH": str(REPOSITORY)}


def journey(python: Path, folder: Path) -> None:
    """What a hospital does, by this Python alone."""
    program = f"import importlib.util as u; print([n for n in {ABSENT!r} if u.find_spec(n)])"
    found = subprocess.run([python, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
    tef = certified.facility()
    three = write(tef, certified.model(), folder / "nodule-3")
    root = folder / "root.pem"
    assert ask(python, "pull", "--help").returncode == 0
    known = ("--root", root, "--state", folder / "state", "--no-status")
    verified = ask(python, "verify", three, *known, "--json")
    assert verified.returncode == 0, verified.stderr
    steps = json.loads(verified.stdout)["steps"]
    assert [step["outcome"] for step in steps if step["name"] == "golden vectors"] == ["ok"]
    with Served(python, three, root) as url:
        answer = httpx.post(url + "/v1/predict", json={"inputs": inputs()}, timeout=30).json()
    assert answer["model"] == "sme-a/nodule 3"
    assert answer["mode"] == "shadow"


def switching(python: Path, folder: Path) -> None:
    """From the version of `journey` to another one, while it runs."""
    tef, root, service = certified.facility(), folder / "root.pem", folder / "service"
    three = write(tef, certified.model(), folder / "again-3")
    four = write(tef, certified.model(sign=-1.0), folder / "nodule-4", version=4)
    known = ("--root", root, "--state", folder / "state", "--no-status")
    taken = ask(python, "service", "update", service, three, *known)
    assert taken.returncode == 0, taken.stderr
    with Served(python, service, root) as url:
        moved = ask(python, "service", "update", service, four)
        assert moved.returncode == 0, moved.stderr
        after = httpx.post(url + "/v1/predict", json={"inputs": inputs()}, timeout=30).json()
        assert after["model"] == "sme-a/nodule 4"


class Served:
    """`touchstone serve` in a process of its own."""

    def __init__(self, python: Path, service: Path, root: Path) -> None:
        self.process = subprocess.Popen(
            [python, "-P", "-m", "registry.cli.main", "serve", str(service), "--root", str(root),
             "--state", str(root.parent / "state"), "--no-status", "--port", "0"],
            stderr=subprocess.PIPE, text=True, cwd="/", env=environment(),
        )  # fmt: skip

    def __enter__(self) -> str:
        lines = []
        assert self.process.stderr is not None
        for line in self.process.stderr:
            lines.append(line)
            if found := re.search(r"on (http://127\.0\.0\.1:\d+)", line):
                return found[1]
        raise AssertionError("".join(lines))

    def __exit__(self, *_: object) -> None:
        self.process.send_signal(signal.SIGINT)
        self.process.communicate(timeout=30)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "hospital"
    made.mkdir()
    return made


def test_what_the_hospital_extra_brings_is_enough(folder: Path) -> None:
    journey(linked(folder / "venv"), folder)


@pytest.mark.slow
def test_a_fresh_installation_of_the_hospital_extra_is_enough(folder: Path) -> None:
    """Needs a package index, or uv's cache."""
    uv = Path(sys.executable).with_name("uv")
    python = folder / "venv" / "bin" / "python"
    subprocess.run([uv, "venv", "-q", folder / "venv", "--python", sys.executable], check=True)
    subprocess.run(
        [uv, "pip", "install", "-q", "--python", python, "-c", REPOSITORY / "requirements/cpu.lock",
         f"{PROJECT['name']}[hospital] @ {REPOSITORY.as_uri()}"],
        check=True,
    )  # fmt: skip
    journey(python, folder)
    switching(python, folder)
