"""`python -m demo`: the whole journey; see demo/journey.py.

The data directory is TOUCHSTONE_HOME if that is set, else `.touchstone-demo` here. It is made
anew each time.
"""

import os
import signal
import sys
from pathlib import Path

from demo.journey import play
from demo.stage import CommandFailed
from registry.trust.errors import TouchstoneError


def main() -> None:
    """Play; Ctrl-C stops every part. Exit status 1 when a step that must work did not."""
    home = Path(os.environ.get("TOUCHSTONE_HOME", ".touchstone-demo")).absolute()
    if home.exists() and any(home.iterdir()) and not (home / "demo-directory").exists():
        sys.exit(f"error: {home} holds something that no demo made; set TOUCHSTONE_HOME elsewhere")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        play(home)
    except (CommandFailed, TouchstoneError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("stopped; every part has been stopped too")


if __name__ == "__main__":
    main()
