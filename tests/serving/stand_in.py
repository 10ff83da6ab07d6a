"""A device that every machine has: the CPU in the place of CUDA, with a thread like a driver's.

What it takes the place of can't exist here. All else is the real thing: the two steps of the
lockdown, the model of our own between them, IO binding, the lock, the handshake.
"""

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from serving.sandbox import launch, process, providers
from serving.sandbox.device import Held, hold

UUID = "GPU-00000000-0000-0000-0000-000000000000"
CUDA = providers.Provider("cuda", "0", 1 << 30)
PROGRAM = (
    "import sys; sys.path.insert(0, sys.argv[1]); "
    "from tests.serving.stand_in import take_the_place; take_the_place(); "
    "from {module} import main; main(int(sys.argv[2]), int(sys.argv[3]))"
)


def take_the_place() -> None:
    """In the process: CUDA is the CPU from here on, and a thread starts as the driver's would."""
    from serving.sandbox import warm_up

    _rename()
    real = warm_up.warm_up

    def with_a_thread(runtime: Any, provider: providers.Provider) -> Any:
        threading.Thread(target=threading.Event().wait, daemon=True).start()
        return real(runtime, provider)

    warm_up.warm_up = with_a_thread


def _rename() -> None:
    plain = providers.CPU
    providers.NAMES["cuda"] = plain.name
    providers.Provider.options = lambda self: {}
    entries = providers.Provider.session_entries
    providers.Provider.session_entries = lambda self: {
        name: text for name, text in entries(self).items() if "fallback" not in name
    }
    providers.Provider.place = "cpu"


@contextlib.contextmanager
def standing_in(folder: Path, module: str = "serving.sandbox.child") -> Iterator[None]:
    """On the trusted side: a device that is claimed in `folder`, and the process of `module`."""

    def claim(provider: providers.Provider) -> Held:
        return Held(replace(provider, device=UUID), "a stand-in", hold(UUID, folder))

    kept = launch._PROGRAM, process.claim, dict(providers.NAMES)
    launch._PROGRAM, process.claim = PROGRAM.format(module=module), claim
    providers.NAMES["cuda"] = providers.CPU.name
    try:
        yield
    finally:
        launch._PROGRAM, process.claim = kept[:2]
        providers.NAMES.update(kept[2])
