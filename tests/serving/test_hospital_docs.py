"""What docs/hospitals.md and docs/ say of certificates is what the program does."""

import base64
import json
import re
import shutil
import subprocess
from pathlib import Path

import jsonschema
import pytest

from registry.trust import published
from registry.trust.certificate import PREDICATE, new_statement
from registry.trust.keys import pem_of
from serving.bundle.exits import EXITS
from serving.bundle.pack import subjects, write_bundle
from tests.serving import certified

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "hospitals.md").read_text(encoding="utf-8")


def test_the_published_schema_is_the_one_that_the_code_makes() -> None:
    assert published.SCHEMA_FILE.read_text(encoding="utf-8") == published.schema_text()


@pytest.mark.parametrize("overall", ["pass", "conditional"])
def test_a_certificate_fits_the_published_schema(overall: str) -> None:
    files = certified.packed(certified.model(), golden=certified.NO_GOLDEN)
    more = {} if overall == "pass" else {
        "conditions": ("thin slices",), "conditions_due": certified.NOT_AFTER}  # fmt: skip
    predicate = certified.predicate(files, certified.facility().log, overall=overall, **more)
    statement = json.loads(new_statement(subjects(files), predicate))
    assert statement["predicateType"] == PREDICATE
    schema = json.loads(published.SCHEMA_FILE.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator(schema).validate(statement["predicate"])
    for name in ("results", "code", "preprocessing", "execution", "regulatory_references"):
        without = {k: v for k, v in statement["predicate"].items() if k != name}
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.Draft202012Validator(schema).validate(without)


def test_the_table_of_exit_statuses_is_the_programs() -> None:
    rows = re.findall(r"^\| (\d\d) \| ([^|]+) \| ([^|]+) \|$", PAGE, re.MULTILINE)
    told = {int(status): (means.strip(), set(re.findall(r"`(\w+)`", codes)))
            for status, means, codes in rows}  # fmt: skip
    mine = {status: (means, set(codes)) for status, (means, codes) in EXITS.items()}
    assert {status: told.get(status) for status in mine} == mine
    codes = [code for _, codes in EXITS.values() for code in codes]
    assert len(codes) == len(set(codes)), "a code has one status"


def test_the_openssl_commands_of_the_page_work(tmp_path: Path) -> None:
    """Word for word, in a folder with a bundle and the root."""
    if not all(map(shutil.which, ("openssl", "jq"))):
        pytest.skip("openssl and jq are not both here")
    tef = certified.facility()
    files = certified.packed(certified.model(), golden=certified.NO_GOLDEN)
    write_bundle(certified.signed(files, tef.log, tef.ada, tef.ben), tmp_path / "nodule-net")
    (tmp_path / "root.pem").write_bytes(pem_of(tef.root.certificate))
    section = PAGE.partition("## With openssl alone")[2].partition("\n## ")[0]
    commands = re.findall(r"```bash\n(.*?)```", section, re.DOTALL)
    assert commands
    done = subprocess.run(
        ["sh", "-eu", "-c", "\n".join(commands)], cwd=tmp_path, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Verified OK") == 2
    assert done.stdout.count(": OK") == 2
    assert done.stdout.count("Code Signing") == 2
    envelope = json.loads((tmp_path / "nodule-net/certificate.json").read_bytes())
    envelope["signatures"][1]["sig"] = base64.b64encode(b"x" * 70).decode()
    (tmp_path / "nodule-net/certificate.json").write_text(json.dumps(envelope))
    done = subprocess.run(
        ["sh", "-eu", "-c", "\n".join(commands)], cwd=tmp_path, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode != 0
