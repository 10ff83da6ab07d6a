"""A facility that runs, as a person starts it: one for all tests of the journeys."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.journey import facility_at_work
from demo.story import Story


@pytest.fixture(scope="session")
def story() -> Iterator[Story]:
    """`touchstone up` with people, the locked LIDC cohort and the demo's protocol."""
    home = Path(tempfile.mkdtemp(prefix="touchstone-journey-"))
    home.chmod(0o711)
    try:
        with facility_at_work(home / "demo") as made:
            yield made
    finally:
        shutil.rmtree(home, ignore_errors=True)
