"""The application as a server process starts it, by this name: `registry.api.main:application`."""

import atexit
from typing import Any

from registry.api.app import create_app
from registry.facility import open_facility
from registry.mlflow_gate.server import preload
from registry.settings import read_settings


def application() -> Any:
    """The whole application over what the environment names."""
    preload()  # takes seconds, in which somebody else may be migrating
    facility = open_facility(read_settings())
    atexit.register(facility.close)
    return create_app(facility)
