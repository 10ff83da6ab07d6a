"""Each setting that the code reads is either in the chart, or named here with why it isn't."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from registry import up
from registry.audit.witnesses import read_witnesses
from registry.settings import Databases, read_settings
from registry.storage.key_encryption import key_encryption
from tests.test_helm import VALUES, WITNESS, manifests, of
from validators.cohort.catalogue_facts import read_facts

ROOT = Path(__file__).parent.parent
NOT_IN_THE_CHART = {
    "on people's own machines": ("SERVER", "TOKEN", "TOKEN_FILE", "KEYS", "ROOT", "STATE",
                                 "STATUS_FROM", "GRACE_DAYS",
                                 "PKCS11_CERTIFICATE"),
    "of PostgreSQL and processes that `touchstone up` starts itself": ("POSTGRES_BIN", "UP_PID"),
    "of `storage prepare`, which runs outside the cluster": ("S3_PREPARE_CREDENTIALS",),
    "files in place of which the chart gives the keys from secrets":
        ("S3_OBJECTS_CREDENTIALS", "S3_ARTIFACTS_CREDENTIALS"),
}  # fmt: skip


def environment(deployment: str, values: dict[str, Any]) -> dict[str, Any]:
    """What the one container of a deployment is told: values, or where they come from."""
    pod = of("Deployment", values)[f"r-touchstone-{deployment}"]["spec"]["template"]["spec"]
    return {one["name"]: one.get("value", one.get("valueFrom"))
            for one in pod["containers"][0]["env"]}  # fmt: skip


def settings_read() -> set[str]:
    """Every setting that the code names."""
    return {
        name
        for room in ("registry", "serving")
        for file in (ROOT / room).rglob("*.py")
        for name in re.findall(r"\bTOUCHSTONE_[A-Z0-9_]*[A-Z0-9]\b(?!_)", file.read_text())
    }


def test_every_setting_that_the_code_reads_is_in_the_chart_or_named_as_not() -> None:
    told = {
        one["name"]
        for values in VALUES.values()
        for manifest in manifests(values)
        if manifest["kind"] in ("Deployment", "Job")
        for one in manifest["spec"]["template"]["spec"]["containers"][0]["env"]
    }
    left_out = {f"TOUCHSTONE_{name}" for names in NOT_IN_THE_CHART.values() for name in names}
    assert settings_read() - told == left_out


def test_up_tells_its_parts_every_setting_that_is_theirs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_up = {name for name in settings_read() if re.search("_DATABASE_URL|_S3_|_HOME|_UP_", name)}
    people = NOT_IN_THE_CHART["on people's own machines"]
    theirs = settings_read() - by_up - {f"TOUCHSTONE_{name}" for name in people}
    for name in settings_read():
        monkeypatch.setenv(name, "given")
    databases = Databases(app="a", gate="g", mlflow="m", login="l")
    told: set[str] = set()
    settings = replace(read_settings({}), home=tmp_path)
    for name in ("registry", "worker"):
        environment = up._environment(settings, databases, up.Part(name, [], tmp_path))
        assert "TOUCHSTONE_TOKEN" not in environment
        assert "TOUCHSTONE_OWNER_DATABASE_URL" not in environment
        told |= {name for name, value in environment.items() if value == "given"}
    assert told - {"TOUCHSTONE_PKCS11_CERTIFICATE"} == theirs - {"TOUCHSTONE_POSTGRES_BIN"}


@pytest.mark.parametrize("how", ["keys in a KMS", "keys in a token"])
def test_the_workers_alone_are_told_what_wraps_the_keys(how: str, tmp_path: Path) -> None:
    values = VALUES[how]
    told = environment("worker", values)
    assert told["TOUCHSTONE_KEY_ENCRYPTION"] == values["keyEncryption"]["name"]
    for other in (manifest for manifest in manifests(values)
                  if manifest["kind"] in ("Deployment", "Job")):  # fmt: skip
        component = other["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/component"]
        holds = [word in str(other) for word in ("KEY_ENCRYPTION", "TOUCHSTONE_KMS_", "PKCS11")]
        assert any(holds) == component.endswith("worker")
    if "kms" in how.lower():
        credentials = tmp_path / "credentials"
        credentials.write_text("access\nsecret\n")
        credentials.chmod(0o440)  # as the pod's volume has it
        told |= {"TOUCHSTONE_KMS_CREDENTIALS": str(credentials)}
        assert told["TOUCHSTONE_KMS_REGION"] == "eu-central-1"
    else:
        assert told["TOUCHSTONE_PKCS11_PIN"] == {"secretKeyRef": {"name": "hsm", "key": "pin"}}
        assert told["TOUCHSTONE_PKCS11_MODULE"] == "/opt/hsm/libhsm.so"
    plain = {name: value for name, value in told.items() if isinstance(value, str)}
    encryption = key_encryption(replace(read_settings(plain), home=tmp_path), plain)
    assert encryption is not None
    assert encryption.name == values["keyEncryption"]["name"]


def test_the_kms_secret_is_mounted_where_the_setting_points_and_not_for_everybody() -> None:
    for name in ("worker", "gpu-worker"):
        told = environment(name, VALUES["keys in a KMS"])
        deployment = of("Deployment", VALUES["keys in a KMS"])[f"r-touchstone-{name}"]
        pod = deployment["spec"]["template"]["spec"]
        [volume] = [one for one in pod["volumes"] if one["name"] == "kms"]
        [mount] = [one for one in pod["containers"][0]["volumeMounts"] if one["name"] == "kms"]
        assert told["TOUCHSTONE_KMS_CREDENTIALS"] == f"{mount['mountPath']}/credentials"
        assert volume["secret"] == {"secretName": "kms", "defaultMode": 0o440}
        assert mount["readOnly"]


def test_the_workers_alone_reach_the_kms_and_only_where_there_is_one() -> None:
    assert "r-touchstone-key-encryption" not in of("NetworkPolicy", {})
    spec = of("NetworkPolicy", VALUES["keys in a KMS"])["r-touchstone-key-encryption"]["spec"]
    [chosen] = spec["podSelector"]["matchExpressions"]
    assert chosen["values"] == ["worker", "gpu-worker"]
    assert spec["egress"] == [
        {"ports": [{"port": 9000, "protocol": "TCP"}], "to": [{"ipBlock": {"cidr": "10.7.7.7/32"}}]}
    ]


def test_the_registry_reads_the_catalogues_facts_as_they_were_given(tmp_path: Path) -> None:
    values = VALUES["keys in a KMS"]
    told = environment("registry", values)
    pod = of("Deployment", values)["r-touchstone-registry"]["spec"]["template"]["spec"]
    [mount] = [one for one in pod["containers"][0]["volumeMounts"] if one["name"] == "catalogue"]
    assert told["TOUCHSTONE_CATALOGUE"] == f"{mount['mountPath']}/catalogue.yaml"
    written = of("ConfigMap", values)["r-touchstone-catalogue"]["data"]["catalogue.yaml"]
    (tmp_path / "catalogue.yaml").write_text(written)
    facts = read_facts(tmp_path / "catalogue.yaml")
    assert facts.publisher is not None
    assert facts.publisher.name == 'TEF: "north"'
    assert facts.minimum_group == 20
    assert "TOUCHSTONE_CATALOGUE" not in environment("registry", {})
    assert "TOUCHSTONE_CATALOGUE" not in environment("worker", values)


def test_registry_and_workers_read_the_witnesses_as_they_were_given(tmp_path: Path) -> None:
    values = VALUES["keys in a KMS"]
    written = of("ConfigMap", values)["r-touchstone-witnesses"]["data"]["witnesses.txt"]
    (tmp_path / "witnesses.txt").write_text(written)
    chosen = read_witnesses(tmp_path / "witnesses.txt")
    [witness] = chosen.all
    assert (witness.verifier_key, witness.url) == (WITNESS, "https://witness.example/api")
    assert chosen.needed == 1
    for name in ("registry", "worker", "gpu-worker"):
        pod = of("Deployment", values)[f"r-touchstone-{name}"]["spec"]["template"]["spec"]
        [mount] = [
            one for one in pod["containers"][0]["volumeMounts"] if one["name"] == "witnesses"
        ]
        told = environment(name, values)["TOUCHSTONE_WITNESSES"]
        assert told == f"{mount['mountPath']}/witnesses.txt"
        assert "subPath" not in mount, "a file that is mounted alone never changes"
        assert "TOUCHSTONE_WITNESSES" not in environment(
            "worker" if name == "gpu-worker" else name, {}
        )
    spec = of("NetworkPolicy", values)["r-touchstone-witnesses"]["spec"]
    [chosen_pods] = spec["podSelector"]["matchExpressions"]
    assert chosen_pods["values"] == ["worker", "gpu-worker"]
    assert spec["egress"] == [{"ports": [{"port": 443, "protocol": "TCP"}]}]
    assert "r-touchstone-witnesses" not in of("NetworkPolicy", {})
