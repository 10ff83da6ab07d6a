"""What the server tells a pilot's log of one answer. No heavy import: the server imports it always.

    >>> on_prediction = log.record            # a callable that takes a Prediction
    >>> on_prediction(Prediction(certificate=digest, moment=now, scores={"malignant": 0.41},
    ...                          seconds=0.018, case=accession_number))

Rules
-----
1. `case` and `patient` are the hospital's own ids and stay in memory: the log writes keyed hashes
   of them (`serving.pilot.pseudonym`). They are in no `repr`.
2. `scores` holds one number an output that is a single probability, by the contract's name.
3. `inputs` holds cheap numbers about an input (mean, standard deviation, share of equal values),
   never the input, and nothing by which a person could be found.
"""

import datetime as dt
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from registry.trust.canonical import is_digest
from registry.trust.errors import Invalid


@dataclass(frozen=True)
class Prediction:
    """One answer of a served model. certificate: digest of its signed statement.

    moment: when it was given, with a time zone. seconds: how long it took. failure: the code where
    no score could be given, else empty. Raises Invalid for what is not finite or not as said.
    """

    certificate: str
    moment: dt.datetime
    scores: Mapping[str, float] = field(repr=False)
    seconds: float
    case: str | None = field(default=None, repr=False)
    patient: str | None = field(default=None, repr=False)
    inputs: Mapping[str, float] = field(default_factory=dict, repr=False)
    failure: str = ""

    def __post_init__(self) -> None:
        if not is_digest(self.certificate):
            raise Invalid("a prediction names the certificate's digest (sha256: and 64 hex digits)")
        if self.moment.tzinfo is None:
            raise Invalid("the moment of a prediction needs a time zone")
        if not (math.isfinite(self.seconds) and self.seconds >= 0):
            raise Invalid("the seconds of a prediction must be a finite number, 0 or more")
        if not all(math.isfinite(of) for of in (*self.scores.values(), *self.inputs.values())):
            raise Invalid("scores and input summaries must be finite; leave out what is not")
        if not self.scores and not self.failure:
            raise Invalid("a prediction without any score needs a failure code")


OnPrediction = Callable[[Prediction], None]
"""The hook that a server calls after each answer. It returns at once and never raises."""
