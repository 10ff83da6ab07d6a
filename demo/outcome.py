"""What came out: the table on the screen, and demo.json for programs."""

import json
import sys
from typing import Any

from rich.table import Table

from demo.story import Story, title


def outcome_of(story: Story) -> dict[str, Any]:
    """Print the outcome; write and return demo.json."""
    table = Table(title="Outcome", title_justify="left")
    for heading in ("model", "verdict", "state", "rules that did not pass"):
        table.add_column(heading, overflow="fold")
    submissions = []
    for who, report in story.reports.items():
        verdict, model = report["verdict"], story.submissions[who]["model"]
        missed = [r["id"] for r in verdict["rules"] if r["gating"] and r["outcome"] != "pass"]
        state = story.submissions[who]["state"]
        name = f"{model['name']} {model['version']}"
        table.add_row(name, verdict["overall"], state, "\n".join(missed) or "none")
        submissions.append({"model": name, "sme": who[0], "id": story.submissions[who]["id"],
                            "verdict": verdict["overall"], "state": state,
                            "rules": verdict["rules"]})  # fmt: skip
    story.stage.console.print(table)
    paths = {f"report on {title(who)}": str(story.home / f"review-{who}" / "report.html")
             for who in story.reports}  # fmt: skip
    paths |= {"hospital's bundle": str(story.home / "hospital"),
              "everything, for programs": str(story.home / "demo.json")}  # fmt: skip
    for name, path in paths.items():
        story.stage.console.print(f"{name}: {path}", soft_wrap=True, markup=False)
    outcome = {
        "steps": story.stage.steps,
        "submissions": submissions,
        "refusals": story.stage.refusals,
        "paths": paths,
        "urls": {"registry": story.stage.server},
        "seconds": round(sum(step["seconds"] for step in story.stage.steps), 1),
        "python": sys.version.split()[0],
    }
    (story.home / "demo.json").write_text(json.dumps(outcome, indent=2) + "\n")
    return outcome
