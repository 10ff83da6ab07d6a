"""How much of the machine one model may use."""

from dataclasses import asdict, dataclass, replace

from registry.trust.errors import Invalid

MEBIBYTE = 1 << 20
_TIMES_ITS_SIZE = 6
_BESIDE = 1024 * MEBIBYTE


@dataclass(frozen=True)
class Limits:
    """Limits of one sandboxed process.

    wall_seconds: of one call (a batch); then the process is killed.
    load_seconds: of inspecting or loading the model.
    cpu_seconds: CPU time of the process's whole life, a backstop should the parent die.
    memory_bytes: address space beyond what the runtime itself has taken before the model came;
        checking and loading a model takes up to six times its size.
    output_bytes: the largest answer that is read back.
    """

    wall_seconds: float = 30.0
    load_seconds: float = 120.0
    cpu_seconds: int = 86_400
    memory_bytes: int = 4096 * MEBIBYTE
    output_bytes: int = 256 * MEBIBYTE

    def __post_init__(self) -> None:
        if min(asdict(self).values()) <= 0:
            raise Invalid("every limit of the sandbox must be above zero")
        if self.memory_bytes < 64 * MEBIBYTE:
            raise Invalid("memory_bytes is below 64 MiB, which no model can be loaded in")


def for_model(limits: Limits, model_bytes: int, machine_bytes: int) -> Limits:
    """`limits` with as much memory as a model of this size takes, within what the machine has.

    For a model that was certified: what is unknown yet gets no more than is set. Never less than
    `limits` have, so that beyond the machine's own a model fails by its code and not the machine.
    """
    needed = min(_TIMES_ITS_SIZE * model_bytes + _BESIDE, machine_bytes)
    return replace(limits, memory_bytes=max(limits.memory_bytes, needed))
