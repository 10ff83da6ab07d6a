"""Any one case of a sealed cohort, at the cost of one shard however large the cohort is.

    >>> cases = Cases(manifest, store, input_key, before_decrypt=spend_the_attempt)
    >>> cases[4711].inputs["image"].shape
    (1, 1, 64, 64)

Rules
-----
1. The shard is checked as `stream` checks it, and `before_decrypt` called once in all, after the
   first shard was found intact and before it is decrypted.
2. Positions are those of the manifest's `case_digests` and of the table of reference standards.
3. The shard that was read last is kept, for cases that lie beside each other.
"""

from bisect import bisect_right
from collections.abc import Callable
from itertools import accumulate

from validators.cohort.keys import InputKey
from validators.cohort.manifest import Manifest, check_manifest
from validators.cohort.objects import ObjectReader
from validators.cohort.shard import Shard
from validators.cohort.stream import check_input_key, open_shard, read_sealed


class Cases:
    """The cases of a cohort by position. Raises as `stream` does; IndexError beyond the last."""

    def __init__(
        self,
        manifest: Manifest,
        reader: ObjectReader,
        input_key: InputKey,
        *,
        before_decrypt: Callable[[], None] = lambda: None,
    ) -> None:
        check_input_key(manifest, input_key)
        check_manifest(manifest)
        self._entries, self._reader, self._key = manifest.shards, reader, input_key
        self._firsts = list(accumulate((entry.cases for entry in self._entries), initial=0))
        self._before_decrypt: Callable[[], None] | None = before_decrypt
        self._last: Shard | None = None

    def __len__(self) -> int:
        return self._firsts[-1]

    def __getitem__(self, position: int) -> Shard:
        """The case as a shard of one; its `index` is that of the shard that it lies in."""
        if not 0 <= position < len(self):
            raise IndexError(f"there is no case {position} among {len(self)}")
        index = bisect_right(self._firsts, position) - 1
        shard = self._shard(index)
        row = position - self._firsts[index]
        inputs = {name: array[row : row + 1] for name, array in shard.inputs.items()}
        return Shard(index, (shard.cases[row],), inputs)

    def _shard(self, index: int) -> Shard:
        if self._last is not None and self._last.index == index:
            return self._last
        entry = self._entries[index]
        sealed = read_sealed(entry, self._reader)
        if self._before_decrypt is not None:
            self._before_decrypt()
            self._before_decrypt = None
        self._last, _ = open_shard(index, entry, self._key, sealed)
        return self._last
