"""How many cores this process may use: asked in one place by whatever works on several at once."""

import math
import os
from pathlib import Path
from typing import Final

_QUOTA: Final = Path("/sys/fs/cgroup/cpu.max")


def cores(quota: Path = _QUOTA) -> int:
    """The cores that this process may use: by its affinity, and by its control group's quota."""
    own = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        allowed, period = quota.read_text().split()
        return max(1, min(own, math.ceil(int(allowed) / int(period))))
    except (OSError, ValueError):
        return own  # no quota ("max"), or not that kind of control group
