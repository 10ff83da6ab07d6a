"""`cohort catalogue`."""

import sys
from pathlib import Path

from registry.cli.client import Client
from registry.cli.output import console
from registry.settings import read_settings


def catalogue(cohort: str, version: str | None, form: str, out: Path | None) -> None:
    """Fetch an entry: to a file, or to stdout as it is."""
    query = {"format": form} | ({} if version is None else {"version": version})
    data = Client(read_settings()).get_bytes(f"/cohorts/{cohort}/catalogue", **query)
    if out is None:
        sys.stdout.buffer.write(data)
        return
    out.write_bytes(data)
    console.print(str(out), markup=False)
