"""What it costs to verify a bundle, against hashing its files once; and how soon it is served.

    python -m bench.verify [--megabytes 200] [--rounds 5]

Prints medians over the rounds: seconds, the ratio to one pass of SHA-256 over the same files, and
the peak memory of a verification in a process of its own.
"""

import argparse
import hashlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from registry.trust.keys import pem_of
from serving.bundle.pack import write_bundle
from tests.serving import certified

_VERIFY = """
import datetime, json, sys, time
from pathlib import Path
from registry.trust.keys import load_certificate
from serving.bundle.verify import verify
root, now = load_certificate(Path(sys.argv[2])), datetime.datetime.now(datetime.UTC)
if sys.argv[3] == "replay":
    import serving.bundle.golden, serving.sandbox.process
started = time.perf_counter()
verify(Path(sys.argv[1]), root, now, replay=sys.argv[3] == "replay").raise_if_failed()
seconds = time.perf_counter() - started
# Not ru_maxrss, which a child inherits from its parent.
high = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps([seconds, int(high.split()[1]) / 1024]))
"""


def hash_once(bundle: Path) -> float:
    """Seconds for one pass of SHA-256 in blocks of 1 MiB."""
    started = time.perf_counter()
    for path in sorted(bundle.rglob("*")):
        if path.is_file():
            digest = hashlib.sha256()
            with path.open("rb", buffering=0) as stream:
                while block := stream.read(1 << 20):
                    digest.update(block)
    return time.perf_counter() - started


def verify_once(bundle: Path, root: Path, mode: str) -> tuple[float, float]:
    """(seconds, peak MiB) of one verification."""
    done = subprocess.run(
        [sys.executable, "-c", _VERIFY, str(bundle), str(root), mode],
        capture_output=True,
        check=True,
    )
    seconds, peak = json.loads(done.stdout)
    return seconds, peak


def serve_once(bundle: Path, root: Path) -> float:
    """Seconds from the start of the process to the line that says it serves."""
    started = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-m", "serving.server", str(bundle), "--root", str(root), "--port", "0"],
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        ready = next(
            time.perf_counter() - started for line in process.stderr if line.startswith("serving")
        )
        process.terminate()
    return ready


def median(rounds: int, measure: Callable[[], float]) -> float:
    """The median of `rounds` measurements."""
    return statistics.median(measure() for _ in range(rounds))


def main() -> None:
    """Make the bundle, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    tef = certified.facility()
    with tempfile.TemporaryDirectory() as place:
        root = Path(place) / "root.pem"
        root.write_bytes(pem_of(tef.root.certificate))
        bundles = {}
        for name, floats in (("small", 0), ("large", given.megabytes * 250_000)):
            files = certified.packed(certified.model(extra=floats))
            bundles[name] = write_bundle(
                certified.signed(files, tef.log, tef.ada, tef.ben), Path(place) / name
            )
        large = bundles["large"]
        size = (large / "model/model.onnx").stat().st_size / 1e6
        hashing = median(given.rounds, lambda: hash_once(large))
        print(f"model {size:.0f} MB; hash once: {hashing:.3f} s ({size / hashing:.0f} MB/s)")
        for mode, words in (("skip", "without"), ("replay", "with")):
            results = [verify_once(large, root, mode) for _ in range(given.rounds)]
            seconds = statistics.median(seconds for seconds, _ in results)
            peak = max(peak for _, peak in results)
            print(
                f"verify {words} golden replay: {seconds:.3f} s, {seconds / hashing:.2f} x hashing "
                f"once, peak {peak:.0f} MiB"
            )
        for name, bundle in bundles.items():
            ready = median(given.rounds, lambda bundle=bundle: serve_once(bundle, root))  # type: ignore[misc]
            print(f"serve, {name} model: ready after {ready:.2f} s")


if __name__ == "__main__":
    main()
