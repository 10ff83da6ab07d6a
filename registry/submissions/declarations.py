"""A maker's declaration in the store, under its digest; the record holds the digest.

    >>> digest = keep(facility, declaration)
    >>> declaration_of(facility, row)

What is asked for and what is allowed in it is in `validators.declaration`.
"""

from registry.database.record import Row
from registry.facility import Facility
from registry.storage.store import ObjectStore
from registry.submissions import places
from registry.trust.canonical import canonical, parse_canonical, sha256_bytes
from registry.trust.errors import Tampered
from validators.declaration import Declaration, parse_declaration


def keep(facility: Facility, declaration: Declaration | None) -> str | None:
    """Write it once, by its digest; returns the digest, None for none."""
    if declaration is None:
        return None
    data = canonical(declaration.model_dump(mode="json"))
    facility.store.put(places.declaration(declaration.digest), data)
    return declaration.digest


def declaration_of(facility: Facility, row: Row) -> Declaration | None:
    """The declaration of a submission; Tampered unless it is the one that came with it."""
    return declaration_in(facility.store, row["declaration_digest"])


def declaration_in(store: ObjectStore, digest: str | None) -> Declaration | None:
    """The declaration of this digest, or None for none."""
    if digest is None:
        return None
    data = store.get(places.declaration(digest))
    if sha256_bytes(data) != digest:
        raise Tampered("the stored declaration is not the one that came with the submission")
    return parse_declaration(parse_canonical(data))
