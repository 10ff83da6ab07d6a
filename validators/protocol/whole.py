"""What the parts of a protocol must be together: rules that no part can see alone."""

from typing import TYPE_CHECKING

from registry.trust.errors import Invalid
from validators.contract.faults import fault
from validators.protocol.endpoints import measure_named
from validators.robustness.fits import check_perturbation

if TYPE_CHECKING:
    from validators.protocol.schema import Protocol


def check_further(protocol: "Protocol") -> None:
    """Raise a fault where a further question does not fit the task, contract or metrics."""
    binary = protocol.task == "binary"
    of_binary = {
        "indeterminate": protocol.indeterminate is not None,
        "robustness": bool(protocol.robustness),
        "sampling.weights": protocol.sampling is not None and protocol.sampling.weights is not None,
    }
    for name, given in of_binary.items():
        if given and not binary:
            raise fault(name, f"it is of binary questions; a {protocol.task} question has none yet")
    _check_structures(protocol)
    _check_indeterminate(protocol)
    _check_columns(protocol)
    _check_sites(protocol)
    _check_robustness(protocol)
    for place, ceiling in enumerate(protocol.leakage.ceilings if protocol.leakage else ()):
        measure = measure_named(
            protocol.measures, ceiling.metric, protocol.task, f"leakage.ceilings[{place}].metric"
        )
        asked = [endpoint.metric for endpoint in protocol.endpoints]
        if ceiling.metric not in asked or measure.direction != "higher":
            raise fault(
                f"leakage.ceilings[{place}].metric",
                f"{ceiling.metric} must be one of the endpoints, and one where more is better",
            )


def _check_structures(protocol: "Protocol") -> None:
    """Masks as reference standard are for a segmentation, of structures that they have."""
    reference = protocol.contract.reference if protocol.contract else None
    if reference is None:
        return
    if protocol.segmentation is None:
        raise fault("task", "the contract's reference standard is a mask: it must be segmentation")
    for place, structure in enumerate(protocol.segmentation.structures):
        if structure.name not in reference.structures:
            raise fault(
                f"segmentation.structures[{place}].name",
                f"the contract's reference standard has no {structure.name}; it has "
                f"{', '.join(reference.structures)}",
            )


def _check_indeterminate(protocol: "Protocol") -> None:
    asked = protocol.indeterminate
    if asked is None or protocol.threshold is None:
        return
    if not asked.low <= protocol.threshold <= asked.high:
        raise fault("indeterminate", "the locked threshold must lie in it, ends included")


def _check_columns(protocol: "Protocol") -> None:
    """Names of columns that a table could not keep apart."""
    further = list(protocol.further_columns)
    runs = [of.name for of in protocol.perturbations]
    weights = [protocol.sampling.weights] if protocol.sampling and protocol.sampling.weights else []
    named = [rule.attributes for rule in protocol.subgroups]
    attributes = {name for names in named for name in names}
    taken = {"case", "patient", "reference", "score", "failure", *attributes}
    for name in (*further, *runs, *weights):
        if name in taken:
            raise fault(
                "endpoints", f"{name!r} names two columns; give the comparator another name"
            )
        taken.add(name)


def _check_sites(protocol: "Protocol") -> None:
    for place, rule in enumerate(protocol.sites.metrics if protocol.sites else ()):
        where = f"sites.metrics[{place}]"
        if rule.metric == "failure_rate":
            raise fault(f"{where}.metric", "the failure rate is of the whole cohort")
        measure = measure_named(protocol.measures, rule.metric, protocol.task, f"{where}.metric")
        rule.check(measure, where)
    if protocol.cohort is not None and protocol.cohort.sites is not None and protocol.sites is None:
        raise fault("cohort.sites", "`sites` must name the attribute that holds the hospital")


def _check_robustness(protocol: "Protocol") -> None:
    seen: dict[str, object] = {}
    asked: set[tuple[str, str]] = set()
    for place, rule in enumerate(protocol.robustness):
        where = f"robustness[{place}]"
        perturbation = rule.perturbation
        if seen.setdefault(perturbation.name, perturbation) != perturbation:
            raise fault(where, f"two different perturbations have the name {perturbation.name}")
        if (key := (perturbation.name, rule.metric)) in asked:
            raise fault(where, "two of them ask for the same perturbation and metric")
        asked.add(key)
        if protocol.contract is not None:
            try:
                check_perturbation(protocol.contract, perturbation)
            except Invalid as error:
                raise fault(f"{where}.perturbation", error.message) from None
