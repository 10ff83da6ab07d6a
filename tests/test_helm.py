"""The chart lints, renders, is valid Kubernetes to the letter, and runs nothing with privileges."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from helm_python.chart import Chart, lint
from helm_python.errors import HelmError

from registry.storage.s3_settings import read_s3
from registry.trust.checkpoint import verifier_key

CHART = Path(__file__).parent.parent / "helm"
WITNESS = verifier_key("witness.example/w1", Ed25519PrivateKey.generate().public_key(), 4)
VALUES: dict[str, dict[str, Any]] = {
    "as it comes": {},
    "everything on": {
        "gpuWorker": {"enabled": True, "nodeSelector": {"gpu": "h200"}, "runtimeClassName": "kata",
                      "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
                      "image": {"digest": "sha256:" + "b" * 64}},
        "networkPolicy": {"database": [{"ipBlock": {"cidr": "10.1.2.3/32"}}],
                          "clients": [{"namespaceSelector": {}}]},
        "worker": {"runtimeClassName": "gvisor"},
        "ingress": {"enabled": True, "host": "touchstone.example", "tlsSecretName": "tls",
                    "className": "nginx"},
        "image": {"digest": "sha256:" + "a" * 64},
        "imagePullSecrets": [{"name": "pull"}],
        "storage": {"storageClassName": "fast"},
        "login": {"issuer": "https://login.example", "clientId": "touchstone",
                  "clientSecretName": "oidc", "groups": [
                      {"value": "urn:x#y", "organisation": "sme-a", "role": "innovator"}]},
    },
    "objects in S3": {
        "objectStorage": {"endpoint": "https://s3.example:9000", "objectsBucket": "tef-objects",
                          "objectsSecretName": "s3-objects", "artifactsBucket": "tef-artifacts",
                          "artifactsSecretName": "s3-artifacts", "caSecretName": "s3-ca"},
        "networkPolicy": {"objectStoragePort": 9000,
                          "objectStorage": [{"ipBlock": {"cidr": "10.9.9.9/32"}}],
                          "database": [{"ipBlock": {"cidr": "10.1.2.3/32"}}]},
        "gpuWorker": {"enabled": True},
    },
    "keys in a KMS": {
        "keyEncryption": {"name": "kms:alias/cohorts",
                          "kms": {"endpoint": "https://kms.example", "region": "eu-central-1",
                                  "credentialsSecretName": "kms"}},
        "networkPolicy": {"keyEncryptionPort": 9000,
                          "keyEncryption": [{"ipBlock": {"cidr": "10.7.7.7/32"}}],
                          "database": [{"ipBlock": {"cidr": "10.1.2.3/32"}}]},
        "gpuWorker": {"enabled": True},
        "witnesses": f"# ours\nneeded 1\n{WITNESS} https://witness.example/api\n",
        "catalogue": {"publisher": {"name": "TEF: \"north\"", "contact": {
            "email": "tef@tef.example"}}, "minimum_group": 20},
    },
    "keys in a token": {
        "keyEncryption": {"name": "pkcs11:token=tef;object=wrap",
                          "pkcs11": {"module": "/opt/hsm/libhsm.so", "pinSecretName": "hsm"}},
        "networkPolicy": {"keyEncryptionPort": 9000,
                          "keyEncryption": [{"ipBlock": {"cidr": "10.7.7.7/32"}}],
                          "database": [{"ipBlock": {"cidr": "10.1.2.3/32"}}]},
    },
    "models on one machine": {
        "inference": {"enabled": True, "tokenSecretName": "inference", "runtimeClassName": "kata",
                      "nodeSelector": {"gpu": "h200"}, "image": {"digest": "sha256:" + "c" * 64},
                      "resources": {"limits": {"memory": "64Gi", "nvidia.com/gpu": 1}}},
        "linking": {"keySecretName": "linking"},
        "gpuWorker": {"enabled": True},
        "networkPolicy": {"database": [{"ipBlock": {"cidr": "10.1.2.3/32"}}]},
    },
    "claims that exist": {"storage": {"existingClaim": "mine"},
                          "cohortKeys": {"existingClaim": "vault"}},
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


@pytest.mark.parametrize("version", ["1.28", kubernetes_validate.latest_version()])
@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
def test_every_manifest_is_valid_to_the_letter(values: dict[str, Any], version: str) -> None:
    kinds = []
    for manifest in manifests(values):
        kubernetes_validate.validate(manifest, version, strict=True)
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


def of(kind: str, values: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The manifests of one kind, by name."""
    return {one["metadata"]["name"]: one for one in manifests(values) if one["kind"] == kind}


def test_a_manifest_with_a_slip_would_be_noticed() -> None:
    registry = of("Deployment", {})["r-touchstone-registry"]
    registry["spec"]["template"]["spec"]["containers"][0]["readOnlyRootFilesystem"] = True
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(registry, "1.31", strict=True)


def test_workers_can_add_to_the_cohorts_keys_and_those_outlive_the_release() -> None:
    for worker in of("Deployment", VALUES["everything on"]).values():
        pod = worker["spec"]["template"]["spec"]
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        mounts = {mount["name"]: mount for mount in pod["containers"][0]["volumeMounts"]}
        assert ("cohort-keys" in mounts) == ("cohort-keys" in volumes)
        if "cohort-keys" in mounts:
            # A Secret's files get the group's right to read from fsGroup; `KeyFile` refuses that.
            assert "persistentVolumeClaim" in volumes["cohort-keys"]
            assert not mounts["cohort-keys"].get("readOnly")
    claims = of("PersistentVolumeClaim", {})
    assert set(claims) == {"r-touchstone", "r-touchstone-cohort-keys"}
    for claim in claims.values():
        assert claim["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"


def test_the_migration_comes_first_and_needs_nothing_that_comes_later() -> None:
    (job,) = of("Job", {}).values()
    policy = of("NetworkPolicy", {})["r-touchstone-migrate"]
    for hook in (job, policy):
        assert hook["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
    first, second = (int(one["metadata"]["annotations"]["helm.sh/hook-weight"])
                     for one in (policy, job))  # fmt: skip
    assert first < second
    pod = job["spec"]["template"]
    assert policy["spec"]["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    assert "serviceAccountName" not in pod["spec"]
    assert all("emptyDir" in volume for volume in pod["spec"]["volumes"])


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
def test_network_is_closed_but_for_names_the_database_and_clients(values: dict[str, Any]) -> None:
    policies = of("NetworkPolicy", values)
    deny = policies["r-touchstone-deny"]["spec"]
    assert deny.keys() == {"podSelector", "policyTypes"}
    assert set(deny["policyTypes"]) == {"Ingress", "Egress"}
    for kind in ("Deployment", "Job"):
        for one in of(kind, values).values():
            labels = one["spec"]["template"]["metadata"]["labels"]
            assert deny["podSelector"]["matchLabels"].items() <= labels.items()
    for name, policy in policies.items():
        for way in policy["spec"].get("egress", []):
            ports = {port["port"] for port in way["ports"]}
            # The registry's alone, see below; the workers' alone: tests/test_helm_settings.py.
            if name.endswith(("-identity-provider", "-witnesses")):
                assert ports == {443}
                continue
            if name.endswith("-to-inference"):  # the workers' alone: tests/test_helm_inference.py
                assert ports == {8600}
                continue
            assert ports in ({53}, {5432}, {9000})
            assert "to" in way or ports == {5432}  # names are asked of the cluster alone
        for way in policy["spec"].get("ingress", []):
            assert way["from"]
            selector = policy["spec"]["podSelector"]["matchLabels"]
            assert selector["app.kubernetes.io/component"] in ("registry", "inference")
    if "networkPolicy" in values:
        egress = policies["r-touchstone-database"]["spec"]["egress"]
        assert egress[1]["to"] == [{"ipBlock": {"cidr": "10.1.2.3/32"}}]


def test_in_s3_each_bucket_has_its_own_identity_and_the_migration_has_none() -> None:
    values = VALUES["objects in S3"]
    for manifest in manifests(values):
        if manifest["kind"] not in ("Deployment", "Job"):
            continue
        pod = manifest["spec"]["template"]
        (container,) = pod["spec"]["containers"]
        named = {one["name"]: one for one in container["env"]}
        s3 = {name: one for name, one in named.items() if name.startswith("TOUCHSTONE_S3_")}
        if pod["metadata"]["labels"]["app.kubernetes.io/component"] == "migrate":
            assert not s3
            continue
        for bucket in ("objects", "artifacts"):
            for key, word in (("accessKey", "ACCESS_KEY"), ("secretKey", "SECRET_KEY")):
                source = s3[f"TOUCHSTONE_S3_{bucket.upper()}_{word}"]["valueFrom"]
                assert source == {"secretKeyRef": {"name": f"s3-{bucket}", "key": key}}
        plain = {name: one["value"] for name, one in s3.items() if "value" in one}
        secrets = dict.fromkeys(s3.keys() - plain.keys(), "given")
        settings = read_s3(plain | secrets | {"TOUCHSTONE_S3_ARTIFACTS_ACCESS_KEY": "another"})
        assert settings is not None
        assert settings.objects.name == "tef-objects"
        assert settings.artifacts.retention_days == 365
        assert str(settings.ca_file) == "/s3-ca/ca.crt"
        assert {"name": "s3-ca", "mountPath": "/s3-ca", "readOnly": True} in container[
            "volumeMounts"
        ]
    policy = of("NetworkPolicy", values)["r-touchstone-object-storage"]["spec"]
    assert policy["egress"] == [
        {"ports": [{"port": 9000, "protocol": "TCP"}], "to": [{"ipBlock": {"cidr": "10.9.9.9/32"}}]}
    ]
    assert "r-touchstone-object-storage" not in of("NetworkPolicy", {})


def test_the_commands_and_options_that_the_pods_run_exist() -> None:
    import typer.main

    from registry.cli.main import app

    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for pod in pods(VALUES["everything on"]):
        for container in pod["containers"]:
            assert container["command"] == ["touchstone"]
            command, *options = container["args"]
            known = {flag for one in commands[command].params for flag in one.opts}
            assert {option.split("=")[0] for option in options} <= known


def test_a_gpu_worker_asks_for_a_gpu_by_digest_on_a_node_that_has_one() -> None:
    workers = of("Deployment", VALUES["everything on"])
    pod = workers["r-touchstone-gpu-worker"]["spec"]["template"]["spec"]
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert pod["containers"][0]["image"].endswith("@sha256:" + "b" * 64)
    assert pod["nodeSelector"] == {"gpu": "h200"}
    assert pod["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists"}]
    assert "nvidia" not in yaml.safe_dump(workers["r-touchstone-worker"])


@pytest.mark.parametrize(
    "values",
    [
        {"registy": {"replicas": 1}},
        {"registry": {"replicas": -1}},
        {"image": {"digest": "sha256:short"}},
        {"storage": {"size": "plenty"}},
        {"ingress": {"enabled": True, "host": "h"}},
        {"networkPolicy": {"clients": [{}]}},
        {"cohortKeys": {"secretName": "no-longer"}},
        {"gpuWorker": {"image": {"digest": "latest"}}},
        {"objectStorage": {"endpoint": "http://s3.example"}},
        {"objectStorage": {"endpoint": "https://s3.example", "objectsBucket": "only-one"}},
        {"keyEncryption": {"name": "vault:x"}},
        {"keyEncryption": {"name": "kms:x"}},
        {"keyEncryption": {"name": "kms:x", "kms": {"endpoint": "http://kms.example"}}},
        {"keyEncryption": {"name": "pkcs11:token=a;object=b"}},
        {"keyEncryption": {"name": "pkcs11:token=a;object=b", "pkcs11": {"module": "/x.so"}}},
        {"keyEncryption": {"name": "pkcs11:token=a;object=b",
                           "pkcs11": {"module": "x.so", "pinSecretName": "hsm"}}},
        {"catalogue": {"minimum_group": 2}},
        {"catalogue": {"publsher": {}}},
    ],
)  # fmt: skip
def test_values_that_make_no_sense_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(HelmError):
        list(manifests(values))


def test_the_chart_has_the_version_of_the_project() -> None:
    import tomllib

    project = tomllib.loads((CHART.parent / "pyproject.toml").read_text())["project"]
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["version"] == chart["appVersion"] == project["version"]


def test_the_registry_alone_reaches_the_identity_provider_and_only_where_there_is_one() -> None:
    assert not [m for m in manifests({}) if "identity-provider" in m["metadata"]["name"]]
    policies = [
        manifest
        for manifest in manifests(VALUES["everything on"])
        if manifest["metadata"]["name"].endswith("-identity-provider")
    ]
    [spec] = [policy["spec"] for policy in policies]
    chosen = spec["podSelector"]["matchLabels"]
    assert chosen["app.kubernetes.io/component"] == "registry"
    assert [port["port"] for rule in spec["egress"] for port in rule["ports"]] == [443]


def test_the_registry_is_told_of_the_login_as_its_settings_read_it(tmp_path: Path) -> None:
    from registry.identity.oidc_settings import read_groups, read_oidc
    from registry.identity.rate import Limits, read_limits

    [registry] = [
        manifest["spec"]["template"]["spec"]["containers"][0]
        for manifest in manifests(VALUES["everything on"])
        if manifest["metadata"]["name"].endswith("-registry") and manifest["kind"] == "Deployment"
    ]
    told = {one["name"]: one["value"] for one in registry["env"] if "value" in one}
    assert read_limits(told) == Limits()
    [groups] = [
        manifest["data"]["groups.yaml"]
        for manifest in manifests(VALUES["everything on"])
        if manifest["metadata"]["name"].endswith("-groups")
    ]
    (tmp_path / "groups.yaml").write_text(groups)
    (tmp_path / "secret").write_text("x")
    assert read_groups(tmp_path / "groups.yaml") == {"urn:x#y": {("sme-a", "innovator")}}
    settings = read_oidc({
        **told,
        "TOUCHSTONE_OIDC_GROUPS": str(tmp_path / "groups.yaml"),
        "TOUCHSTONE_OIDC_CLIENT_SECRET_FILE": str(tmp_path / "secret"),
    })  # fmt: skip
    assert settings is not None
    assert settings.redirect_uri == "https://touchstone.example/api/v1/login/callback"
