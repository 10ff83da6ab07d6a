"""What must hold before a locked cohort's inputs are opened for a model.

    >>> manifest, key = open_inputs(work)
    >>> with work.start_sandbox() as sandbox:
    ...     check_level(work, sandbox)
    ...     check_host(work)

Each is asked again by every run, since another worker on another host may make the next one.
"""

from collections.abc import Iterable, Iterator

from registry.pipeline import canary
from registry.pipeline.manifests import locked_manifest
from registry.pipeline.release import release_inputs
from registry.pipeline.work import Work
from registry.submissions.cohort_life import check_lock
from registry.trust.errors import Refused, Tampered, Unavailable
from serving.calls import Model
from validators.cohort.keys import InputKey
from validators.cohort.manifest import Manifest
from validators.cohort.shard import Shard
from validators.cohort.stream import read_sealed, stream
from validators.cohort.verify import check_listed


def open_inputs(work: Work) -> tuple[Manifest, InputKey]:
    """The manifest whose root is the one in the record, and the key of its inputs, released to this
    step.

    Raises Tampered, Unavailable or Refused unless two stewards' lock holds here and now. Tampered,
    naming it, also for an object in the cohort's folder that its manifest does not list, and for a
    sealed reference standard that was changed: it is looked at before an attempt is spent, and
    stays sealed.
    """
    manifest, store = locked_manifest(work), work.facility.store
    if manifest.root != work.row["cohort_root"]:
        raise Tampered("the cohort's root is not the one that was locked")
    check_lock(work.facility, work.row)
    check_listed(manifest, store.names(work.row["manifest_path"].rpartition("/")[0]))
    read_sealed(manifest.reference, store)
    key, ends = release_inputs(work.facility, work.row, manifest)
    work.watch.until(ends)
    return manifest, key


def inputs(
    work: Work,
    manifest: Manifest,
    key: InputKey,
    only: Iterable[int],
) -> Iterator[Shard]:
    """These shards of the cohort's inputs; Unavailable before the first one after the release."""
    work.watch.check_release()
    for shard in stream(manifest, work.facility.store, key, only=only):
        yield shard
        work.watch.check_release()


def check_level(work: Work, sandbox: Model) -> None:
    """Raise Refused where this host locks a process down less than the protocol asks."""
    needed, found = work.protocol.minimum_landlock_abi, int(sandbox.level.get("landlock_abi", 0))
    if found < needed:
        raise Refused(
            f"the protocol asks for Landlock ABI {needed}, this host offers {found}; "
            "run the worker on a newer kernel",
            code="sandbox_level",
        )


def check_host(work: Work) -> None:
    """Raise Unavailable on a host that can't run our own model."""
    if not canary.sound(work.start_own_sandbox):
        raise Unavailable(
            "this host can't run the facility's own model; nothing was decrypted here",
            code="host_unsound",
        )
