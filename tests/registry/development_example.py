"""A facility whose protocol has a development cohort beside the one that gates."""

import contextlib
import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from registry.pipeline.carry import carry
from registry.settings import Databases
from registry.submissions.lock import lock_protocol
from registry.submissions.review import report_for
from tests.registry.facility_example import Example, facility_example
from tests.registry.locked import lock_cohort, no_restriction
from tests.validators.cohort_example import contract, few_scans
from validators.cohort.ingest import ingest
from validators.cohort.key_store import create_keys
from validators.cohort.manifest import manifest_bytes
from validators.cohort.seal import seal

OPEN = {"cohort": "open", "development": True}
ENDPOINTS = [
    {"metric": "sensitivity", "goal": 0.1},
    {"metric": "specificity", "goal": 0.1},
    {"metric": "auc", "role": "secondary", "rule": "reported"},
]
SUBGROUPS = [{"attribute": "slice_thickness", "metric": "sensitivity", "rule": "reported"}]


@contextlib.contextmanager
def development_example(databases: Databases, home: Path) -> Iterator[Example]:
    """The facility's example with the cohort `open`, 62 cases, of which 20 trials may be made."""
    with facility_example(databases, home) as made:
        sealed(made, "open", first=2)
        made.body |= {
            "endpoints": ENDPOINTS,
            "subgroups": SUBGROUPS,
            "development_cohort": {"id": "open", "trials": 20},
        }
        yield made


def sealed(life: Example, name: str, *, first: int, keys: bool = True, every: int = 25) -> None:
    """Seal and lock a cohort of every 25th scan, as a steward does on the facility's machine."""
    settings = life.api.settings
    folder = settings.home / f"made-{name}"
    folder.mkdir()
    source = few_scans(folder / "few.sqlite", every=every, first=first)
    staged = ingest(source, folder / "staged", contract=contract(), half="all")
    own = create_keys(settings.cohort_keys if keys else folder / "keys", name, "1")
    manifest = seal(staged, life.api.store, cohort_id=name, version="1", keys=own)
    path = f"cohorts/{name}/1/manifest.json"
    life.api.store.put(path, manifest_bytes(manifest))
    lock_cohort(life.api, life.people, life.keys, path)
    no_restriction(life.api, life.people, name)


def tried(life: Example, model: bytes, who: str = "Eva") -> str:
    """A run on the development cohort, carried to its end."""
    submission = life.queued(model, who, **OPEN)
    with life.turn() as turn:
        assert carry(life.worker, turn) == "tried"
    return submission


def read(life: Example, submission: str, who: str = "Eva") -> dict[str, Any]:
    found: dict[str, Any] = json.loads(report_for(life.api, life.people[who], submission))
    return found


def locked(life: Example, **changes: Any) -> None:
    """Another protocol than the example's."""
    life.protocol = f"p-{uuid.uuid4().hex[:8]}"
    body = life.body | {"id": life.protocol} | changes
    lock_protocol(life.api, life.people["Sam"], {k: v for k, v in body.items() if v is not None})
