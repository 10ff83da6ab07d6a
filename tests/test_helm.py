"""The chart lints, renders, is valid Kubernetes to the letter, and runs nothing with privileges."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from helm_python.chart import Chart, lint
from helm_python.errors import HelmError

CHART = Path(__file__).parent.parent / "helm"
VALUES: dict[str, dict[str, Any]] = {
    "as it comes": {},
    "everything on": {
        "gpuWorker": {"enabled": True, "nodeSelector": {"gpu": "h200"}, "runtimeClassName": "kata"},
        "worker": {"runtimeClassName": "gvisor"},
        "ingress": {"enabled": True, "host": "touchstone.example", "tlsSecretName": "tls",
                    "className": "nginx"},
        "image": {"digest": "sha256:" + "a" * 64},
        "imagePullSecrets": [{"name": "pull"}],
        "storage": {"storageClassName": "fast"},
    },
    "a claim that exists": {"storage": {"existingClaim": "mine"}},
}  # fmt: skip


def manifests(values: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every rendered manifest, hooks included."""
    rendered = Chart.load(CHART).render(values, name="r", namespace="n")
    for text in rendered.values():
        yield from (document for document in yaml.safe_load_all(text) if document)


def pods(values: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The pod specs of every workload."""
    for manifest in manifests(values):
        if manifest["kind"] in ("Deployment", "Job"):
            yield manifest["spec"]["template"]["spec"]


def test_the_chart_lints() -> None:
    report = lint(CHART, strict=True)
    worst = [m for m in report["messages"] if "icon" not in str(m)]
    assert not worst, worst


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
def test_every_manifest_is_valid_to_the_letter(values: dict[str, Any]) -> None:
    kinds = []
    for manifest in manifests(values):
        kubernetes_validate.validate(manifest, "1.31", strict=True)
        kinds.append(manifest["kind"])
    assert {"Deployment", "Service", "NetworkPolicy", "Job", "PodDisruptionBudget"} <= set(kinds)
    assert ("PersistentVolumeClaim" in kinds) != ("existingClaim" in values.get("storage", {}))


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
def test_no_pod_has_a_privilege_or_a_token(values: dict[str, Any]) -> None:
    found = list(pods(values))
    assert len(found) >= 3
    for pod in found:
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["resources"]["limits"]["memory"]


def test_only_workers_hold_the_cohorts_keys_and_only_the_migration_owns_the_database() -> None:
    for manifest in manifests(VALUES["everything on"]):
        if manifest["kind"] not in ("Deployment", "Job"):
            continue
        text = yaml.safe_dump(manifest)
        component = manifest["spec"]["template"]["metadata"]["labels"][
            "app.kubernetes.io/component"
        ]
        assert ("cohort-keys" in text) == component.endswith("worker")
        assert ("TOUCHSTONE_OWNER_DATABASE_URL" in text) == (component == "migrate")


@pytest.mark.parametrize(
    "values",
    [
        {"registy": {"replicas": 1}},
        {"registry": {"replicas": -1}},
        {"image": {"digest": "sha256:short"}},
        {"storage": {"size": "plenty"}},
        {"ingress": {"enabled": True, "host": "h"}},
    ],
)
def test_values_that_make_no_sense_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(HelmError):
        list(manifests(values))


def test_the_chart_has_the_version_of_the_project() -> None:
    import tomllib

    project = tomllib.loads((CHART.parent / "pyproject.toml").read_text())["project"]
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["version"] == chart["appVersion"] == project["version"]
