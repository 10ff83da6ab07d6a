"""A hospital's pilot by the command line: outcomes, page, what is shared, and who sees it."""

import datetime as dt
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from registry.cli.main import app
from registry.cli.submissions import _print_one
from registry.identity.accounts import authenticate
from registry.settings import Databases
from registry.submissions import certified as certified_models
from registry.trust.canonical import canonical, parse_canonical
from registry.trust.dsse import payload_of
from registry.trust.errors import Refused
from serving.pilot.certified import read_certified
from serving.pilot.log import PredictionLog
from tests.registry.api_stage import Stage
from tests.serving.pilot import made

# In the morning, so that 300 minutes are of one day whenever this runs.
LATELY = (dt.datetime.now(dt.UTC) - dt.timedelta(days=75)).replace(hour=8)


@pytest.fixture(scope="module")
def stage(database: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    stage = Stage(database, tmp_path_factory.mktemp("facility")).with_log()
    yield stage
    stage.close()


def test_a_hospital_watches_sees_what_it_would_send_and_sends_that(
    stage: Stage,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bundle = made.bundle(tmp_path / "bundle", performance=made.TRUE)
    known = parse_canonical(payload_of(json.loads((bundle / "certificate.json").read_bytes())))
    subjects = {of["name"]: "sha256:" + of["digest"]["sha256"] for of in known["subject"]}
    submission = stage.certified(subjects=subjects)
    (bundle / "certificate.json").write_bytes(canonical(stage.envelope_of(submission)))
    clara = authenticate(stage.facility.record, stage.secrets["clinician"])
    certified_models.listing(stage.facility, clara, stage.model_of(submission))

    score, reference = made.scores(np.random.default_rng(30), 300)
    with PredictionLog(tmp_path / "state" / "pilot") as log:
        for number in range(300):
            moment = LATELY + dt.timedelta(minutes=number)
            of = made.prediction(read_certified(bundle), number, float(score[number]),
                                 moment=moment)  # fmt: skip
            log.record(of)
    lines = "".join(f"ACC-{of:05d},{reference[of]},{'FM'[of % 2]}\n" for of in range(300))
    (tmp_path / "of.csv").write_text("case,reference,sex\n" + lines)

    monkeypatch.setenv("TOUCHSTONE_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("TOUCHSTONE_TOKEN", stage.secrets["clinician"])
    runner = CliRunner()

    def run(*words: str) -> dict[str, object]:
        done = runner.invoke(app, [*words, "--json"], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        found: dict[str, object] = json.loads(done.output)
        return found

    taken = run("pilot", "outcomes", str(bundle), str(tmp_path / "of.csv"))
    assert (taken["references"], taken["attributes"]) == (300, ["sex"])
    page = tmp_path / "page.html"
    shown = run("pilot", "report", str(bundle), "--to", str(page))
    assert shown == {"page": str(page), "answers": 300, "outcomes": 300, "alarms": []}
    assert "No alarm" in page.read_text()

    seen = run("pilot", "share", str(bundle), "--preview")
    run("pilot", "key", "clinic")
    with stage.listening() as address:
        monkeypatch.setenv("TOUCHSTONE_SERVER", address)
        with pytest.raises(Refused, match="not what you saw"):
            run("pilot", "share", str(bundle), "--send", "sha256:" + "0" * 64)
        sent = run("pilot", "share", str(bundle), "--send", str(seen["digest"]))
        assert (sent["submission"], sent["patients"]) == (submission, 300)
        with pytest.raises(Refused, match="fewer than 10 new patients"):
            run("pilot", "share", str(bundle), "--preview")
        monkeypatch.setenv("TOUCHSTONE_TOKEN", stage.secrets["steward"])
        (row,) = run("pilots")["pilots"]  # type: ignore[misc, has-type]
        assert (row["hospital"], row["report"]) == ("clinic", seen["report"])
        shown = run("status", submission)
        last = {"hospital": "clinic", "last_month": sent["last_month"], "patients": 300}
        assert shown["pilots"] == [last | {"alarms": []}]
        assert run("status", stage.submission()).get("pilots") is None
        capsys.readouterr()
        _print_one(shown | {"pilots": [last | {"alarms": ["sensitivity"]}]})
        said = " ".join(capsys.readouterr().out.split())
        assert f"clinic until {sent['last_month']}: ALARM: sensitivity (300 patients)" in said
        (tmp_path / "state" / "pilot" / "pilot.key").unlink()  # the disk died
        monkeypatch.setenv("TOUCHSTONE_TOKEN", stage.secrets["clinician"])
        run("pilot", "key", "clinic")
        told = run("pilot", "announce", "--reason", "the disk died")
        assert (told["hospital"], told["agreed_by"], told["pinned"]) == ("clinic", [], False)
        for person, pinned in (("Ada", False), ("Ben", True)):
            monkeypatch.setenv("TOUCHSTONE_TOKEN", stage.sign_in(person))
            assert run("pilot", "agree", str(told["key"]))["pinned"] is pinned
    gone = run("pilot", "forget", str(bundle), "--days", "30")
    assert gone["predictions"] == 1
    assert run("pilot", "report", str(bundle), "--to", str(page))["answers"] == 0
