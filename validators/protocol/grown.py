"""Documents that gained fields after some of them had been locked: see `validators.contract`."""

from validators.contract.strict import Grown

__all__ = ["Grown"]
