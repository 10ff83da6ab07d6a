"""What things may be called: aliases, models, tags, sources, organisations.

    >>> check_alias("dev-shape-only")
    >>> check_alias("clinical-pilot")
    Traceback (most recent call last):
    registry.trust.errors.Refused: the alias 'clinical-pilot' is set by a certificate alone; …

Rules
-----
1. Every rule is an ASCII allow-list matched to the last character: MLflow's own patterns accept a
   trailing newline and letters of other scripts that look the same.
2. `clinical-pilot` is never set through MLflow, by anyone.
"""

import re

from registry.trust.errors import Invalid, Refused

CLINICAL_PILOT = "clinical-pilot"

_ALIAS = re.compile(r"dev-[a-z0-9-]{1,60}\Z")
_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}\Z")
_TAG = re.compile(r"[ -~]{1,250}\Z")
_NO_LETTER = re.compile(r"[^a-z0-9]")
_SOURCE = re.compile(r"models:/(m-[0-9a-f]{32})\Z")
_ORGANISATION = re.compile(r"[a-z0-9][a-z0-9-]{0,61}[a-z0-9]\Z")
_RESERVED_ORGANISATIONS = {"default", "workspaces", "api", "ajax-api", "static-files"}
_RESERVED_PREFIXES = ("touchstone", "mlflowprompt")


def check_alias(alias: str) -> None:
    """Raise Refused unless an innovator may set, move or remove this alias."""
    if _ALIAS.match(alias):
        return
    if alias == CLINICAL_PILOT:
        raise Refused(
            f"the alias '{CLINICAL_PILOT}' is set by a certificate alone; "
            "submit the version with `touchstone submit` to have it assessed",
            code="alias_reserved",
        )
    raise Refused(
        f"the alias {alias!a} is not allowed; "
        "use 'dev-' and 1 to 60 lower-case letters, digits or hyphens",
        code="alias_not_allowed",
    )


def check_model_name(name: str) -> None:
    """Raise Invalid unless `name` can name a registered model."""
    if not _MODEL.match(name):
        raise Invalid(
            f"the model name {name!a} is not allowed; use 1 to 100 letters, digits, '.', '_' or "
            "'-', beginning with a letter or digit",
            code="model_name",
        )


def check_tag(key: str) -> None:
    """Raise Refused for a tag key that only Touchstone may write, or that could look like one."""
    if not _TAG.match(key):
        raise Refused(
            f"the tag {key[:80]!a} is not allowed; use 1 to 250 plain ASCII characters",
            code="tag_not_allowed",
        )
    if _NO_LETTER.sub("", key.lower()).startswith(_RESERVED_PREFIXES):
        raise Refused(
            f"the tag {key!a} is reserved; choose a key that does not begin with 'touchstone'",
            code="tag_reserved",
        )


def model_id_of(source: str) -> str:
    """The logged model that a version is made from; raises Refused for every other source."""
    found = _SOURCE.match(source)
    if found is None:
        raise Refused(
            f"the source {source[:80]!a} is not allowed; a version is registered from a model "
            "logged here (models:/m-…), for instance with "
            "mlflow.onnx.log_model(…, registered_model_name=…)",
            code="source_not_allowed",
        )
    return found.group(1)


def check_organisation(organisation: str) -> None:
    """Raise Invalid unless an organisation's id can be an MLflow workspace."""
    if not _ORGANISATION.match(organisation) or organisation in _RESERVED_ORGANISATIONS:
        raise Invalid(
            f"the organisation {organisation!a} can't have a workspace in MLflow; "
            "use 2 to 63 lower-case letters, digits or hyphens, not "
            + ", ".join(sorted(_RESERVED_ORGANISATIONS)),
            code="organisation_name",
        )


def check_version(version: object) -> int:
    """The number of a version; raises Invalid unless it is a whole number from 1 on."""
    text = str(version)
    if not re.match(r"[1-9][0-9]{0,8}\Z", text):
        raise Invalid(f"{text[:40]!a} is not a model version; give a whole number from 1 on")
    return int(text)
