"""What the pipeline asks about registered versions. Does not import MLflow.

    >>> version = resolve(mlflow_url, "acme", "models:/nodule/3")
    >>> with model_directory(artifacts, mlflow_url, "acme", "nodule", version.version) as found: …
    >>> set_clinical_pilot(gate_url, "acme", "nodule", 3)

Rules
-----
1. A version leads to one directory: the sealed logged model that it was registered from.
2. The directory holds no link, and every file in it is, byte for byte, what was there at the
   registration. It may be a private copy: it is there for the length of the `with`.
3. `clinical-pilot` is written by the role `touchstone_gate`, and only with a certificate in force.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from registry.database import mlflow_gate
from registry.database.mlflow_gate import (
    RegisteredVersion,
    remove_clinical_pilot,
    set_clinical_pilot,
)
from registry.mlflow_gate.artifacts import Artifacts, Place
from registry.mlflow_gate.naming import check_model_name, check_organisation, check_version
from registry.trust.errors import Invalid, Tampered

__all__ = [
    "RegisteredVersion",
    "model_directory",
    "remove_clinical_pilot",
    "resolve",
    "set_clinical_pilot",
]

_URI = re.compile(r"models:/(?P<name>[^/@]+)/(?P<version>[1-9][0-9]{0,8}|latest)\Z")


def resolve(url: str, organisation: str, model: str) -> RegisteredVersion:
    """The version that `models:/name/3` or `models:/name/latest` names.

    Raises Invalid for another spelling, NotFound where there is no such version.
    """
    found = _URI.match(model)
    if found is None:
        raise Invalid(f"{model[:120]!a} names no model version; write models:/NAME/VERSION")
    name = found["name"]
    check_organisation(organisation)
    check_model_name(name)
    if found["version"] == "latest":
        version = mlflow_gate.latest_version(url, organisation, name)
    else:
        version = check_version(found["version"])
    return mlflow_gate.registered_version(url, organisation, name, version)


@contextmanager
def model_directory(
    artifacts: Artifacts, mlflow_url: str, organisation: str, name: str, version: int
) -> Iterator[Path]:
    """The directory of a registered version's files, checked against its seal.

    Raises NotFound where there is no such version, Tampered where a file is not what it was.
    """
    record = resolve(mlflow_url, organisation, f"models:/{name}/{version}")
    place = Place.parse(record.location.removeprefix("mlflow-artifacts:/"))
    if (place.workspace, place.holder, place.holder_id, place.parts) != (
        organisation,
        "model",
        record.model_id,
        (),
    ):
        raise Tampered(f"version {version} of {name} does not lie where it was registered")
    with artifacts.opened(organisation, place.experiment, place.holder_id) as directory:
        yield directory
