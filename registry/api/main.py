"""The application as a server process starts it, by this name: `registry.api.main:application`."""

import atexit
import os
from collections.abc import Callable

from starlette.types import ASGIApp

from registry.api.app import create_api, create_app
from registry.audit.log_key import make_log_key
from registry.facility import open_facility
from registry.identity.oidc_settings import read_oidc
from registry.identity.rate import read_limits
from registry.settings import Settings, read_settings
from registry.status.machine_key import make_status_key


def application() -> ASGIApp:
    """The whole application over what the environment names."""
    from registry.mlflow_gate.server import preload

    oidc, limits = read_oidc(os.environ), read_limits(os.environ)
    preload()  # takes seconds, in which somebody else may be migrating
    settings = read_settings()
    facility = open_facility(settings)
    make_log_key(settings)  # in a cluster nobody else does; without the root's key: the request
    make_status_key(settings)
    atexit.register(facility.close)
    return create_app(facility, oidc=oidc, limits=limits)


def local_application(settings: Settings) -> tuple[ASGIApp, Callable[[], None]]:
    """Our API without MLflow, for the command line in this process; and how to close it."""
    facility = open_facility(settings)
    return create_api(facility), facility.close
