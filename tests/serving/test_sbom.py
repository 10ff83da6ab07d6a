"""What ran a model is told package by package, the same bytes each time."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from registry.trust.canonical import canonical, sha256_bytes
from serving.bundle.sbom import Runtime, Software, digests_of, installed, runtime_sbom
from tests.serving.certified import NOW

ROOT = Path(__file__).parents[2]
LOCK = (ROOT / "requirements" / "cpu.lock").read_text()


@pytest.fixture(scope="module")
def here() -> Runtime:
    return installed("touchstone-tef", "hospital")


def test_the_hospitals_software_is_listed_with_versions_digests_and_licences(here: Runtime) -> None:
    import numpy
    import onnxruntime

    bom = runtime_sbom(here, ran={}, issued=NOW, lock=LOCK, code="sha256:" + "c" * 64)
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(bom)) is None
    parts = {of["name"]: of for of in bom["components"]}
    assert parts["numpy"]["version"] == numpy.__version__
    assert parts["onnxruntime"]["version"] == onnxruntime.__version__
    assert {"bentoml", "cryptography", "pydantic", "CPython"} <= set(parts)
    assert not {"mlflow", "psycopg", "evidently", "pytest"} & set(parts)
    allowed = digests_of(LOCK)[("numpy", numpy.__version__)]
    told = [of["content"] for of in parts["numpy"]["externalReferences"][0]["hashes"]]
    assert sorted(told) == list(allowed)
    assert len(told) > 10
    unlicensed = [name for name, of in parts.items() if "licenses" not in of]
    assert len(unlicensed) < len(parts) / 10


def test_what_each_needs_is_in_the_list(here: Runtime) -> None:
    bom = runtime_sbom(here, ran={}, issued=NOW)
    graph = {of["ref"]: of.get("dependsOn", []) for of in bom["dependencies"]}
    assert set(graph) == {of["bom-ref"] for of in bom["components"]} | {here.root.reference}
    assert all(need in graph for needs in graph.values() for need in needs)
    reached: set[str] = set()
    pending = [here.root.reference]
    while pending:
        one = pending.pop()
        if one not in reached:
            reached.add(one)
            pending += graph[one]
    assert reached == set(graph)


def test_what_ran_elsewhere_goes_before_what_is_installed_here() -> None:
    root = Software("touchstone-tef", "0.1.0", None, ("numpy", "onnx"))
    here = Runtime(root, (Software("numpy", "2.0"),), ("onnx",))
    bom = runtime_sbom(here, ran={"numpy": "2.1", "onnx": "1.20", "cuda": "13"}, issued=NOW)
    parts = {of["name"]: of["version"] for of in bom["components"]}
    assert (parts["numpy"], parts["onnx"]) == ("2.1", "1.20")
    assert bom["compositions"][0]["aggregate"] == "incomplete"
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(bom)) is None


def test_another_process_gives_the_same_bytes(here: Runtime) -> None:
    program = (
        "import datetime as dt, sys; from pathlib import Path\n"
        "from registry.trust.canonical import canonical, sha256_bytes\n"
        "from serving.bundle.sbom import installed, runtime_sbom\n"
        "bom = runtime_sbom(installed('touchstone-tef', 'hospital'), ran={},\n"
        "    issued=dt.datetime.fromisoformat(sys.argv[1]), lock=Path(sys.argv[2]).read_text())\n"
        "print(sha256_bytes(canonical(bom)))"
    )
    place = str(ROOT / "requirements" / "cpu.lock")
    done = subprocess.run([sys.executable, "-c", program, NOW.isoformat(), place],
                          capture_output=True, text=True, check=True, cwd=ROOT)  # fmt: skip
    mine = runtime_sbom(here, ran={}, issued=NOW, lock=LOCK)
    assert done.stdout.strip() == sha256_bytes(canonical(mine))
