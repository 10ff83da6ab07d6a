"""`serving.server.serve` in a process of its own, with a standing and a log kept in files.

python -P -m tests.serving.hospital_program '{"directory": …, "root": …, "settings": {…}}'
"""

import dataclasses
import datetime as dt
import json
import os
import sys
from pathlib import Path
from typing import Any

from registry.trust.errors import Tampered, TouchstoneError
from registry.trust.keys import load_certificate
from serving.bundle.policy import Policy
from serving.bundle.standing import Standing, StandingOf
from serving.pilot.prediction import Prediction
from serving.server import Settings, serve


def standing_in(path: Path) -> StandingOf:
    """The standing that the file says now: {certificate: {state, reason, seconds}}, or damaged."""

    def standing_of(statement: str, at: dt.datetime) -> Standing:
        try:
            said = json.loads(path.read_bytes())
        except (OSError, ValueError) as error:
            raise Tampered("the status is damaged: fetch it again", code="bad_status") from error
        row = said.get(statement, said.get("others"))
        return Standing(
            row["state"], row["reason"], at, dt.datetime.fromisoformat(row["use_until"])
        )

    return standing_of


def say_of(path: Path, **rows: dict[str, Any]) -> None:
    """Replace the file in one step. Keyword `others` holds for all certificates not named."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(rows))
    partial.replace(path)


def row(state: str = "in_force", reason: str = "", seconds: float = 3600) -> dict[str, Any]:
    until = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=seconds)
    return {"state": state, "reason": reason, "use_until": until.isoformat()}


def main() -> int:
    given = json.loads(sys.argv[1])
    settings: dict[str, Any] = {"port": 0} | given["settings"]
    for name in ("socket", "token"):
        if name in settings:
            settings[name] = Path(settings[name])
    log = given.get("log")

    def tell(prediction: Prediction) -> None:
        line = dataclasses.asdict(prediction) | {"moment": prediction.moment.isoformat()}
        with Path(log).open("a") as stream:
            stream.write(json.dumps(line) + "\n")

    try:
        serve(
            Path(given["directory"]),
            load_certificate(Path(given["root"])),
            Settings(**settings),
            policy_of=lambda: Policy(acknowledging="Clara"),
            standing_of=standing_in(Path(given["standing"])) if "standing" in given else None,
            on_prediction=tell if log else None,
        )
    except TouchstoneError as error:
        os.write(2, f"{error.code}: {error.message}\n".encode())
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
