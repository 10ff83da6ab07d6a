"""The manifests that this worker has read, kept as they were understood.

    >>> manifest = locked_manifest(work)      # read, and checked against the record each time
    >>> known_manifest(work)                  # without reading, where it was read before

Rules
-----
1. A manifest of a million cases takes seconds to understand. It is kept by the digest of its bytes,
   which is what the record names it by; it never changes.
2. Before anything is released it is read again (`locked_manifest`): one that was damaged since is
   found. Whoever only looks whether there is something to do needs no reading.
3. The two that were used last are kept.
"""

import threading
from collections import OrderedDict
from typing import Final

from registry.pipeline.work import Work
from registry.submissions.lock import manifest_data
from validators.cohort.manifest import Manifest, parse_manifest

_MOST: Final = 2
_kept: OrderedDict[str, Manifest] = OrderedDict()
_lock = threading.Lock()


def locked_manifest(work: Work) -> Manifest:
    """The manifest of the submission's cohort, as the store has it now. Raises Tampered."""
    data = manifest_data(work.facility, work.row)
    return _understood(work.row["manifest_digest"], data)


def known_manifest(work: Work) -> Manifest:
    """The same, out of memory where this worker read it before."""
    with _lock:
        known = _kept.get(work.row["manifest_digest"])
    return known or locked_manifest(work)


def _understood(digest: str, data: bytes) -> Manifest:
    with _lock:
        manifest = _kept.pop(digest, None)
        if manifest is None:
            manifest = parse_manifest(data)
        _kept[digest] = manifest
        while len(_kept) > _MOST:
            _kept.popitem(last=False)
        return manifest
