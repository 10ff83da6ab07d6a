"""Who is who in the journey, and what has come out so far."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from demo.stage import Person, Stage

COHORT = "lidc-nodules"
MODELS = {"a": "nodule-shape-and-reading", "b": "nodule-shape"}
SMES = {"a": "Eva", "b": "Finn"}


@dataclass
class Story:
    """Who is who, and what has come out so far."""

    stage: Stage
    people: dict[str, Person] = field(default_factory=dict)
    keys: Path = Path()
    protocol: dict[str, Any] = field(default_factory=dict)
    submissions: dict[str, dict[str, Any]] = field(default_factory=dict)
    reports: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def home(self) -> Path:
        """The demo's data directory."""
        return self.stage.home

    @property
    def facility(self) -> dict[str, str]:
        """The environment of people who work on the facility's own machine."""
        return {"TOUCHSTONE_HOME": str(self.home / "facility"), "TOUCHSTONE_KEYS": str(self.keys)}


def title(who: str) -> str:
    """A submission in words."""
    model = {"a": "SME A's model", "a-first": "SME A's first model", "b": "SME B's model"}
    return model[who]
