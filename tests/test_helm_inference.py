"""The inference server in the chart: whom it serves, what it reaches, and what workers are told."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from helm_python.errors import HelmError

from registry.pipeline.where import provider_of, server_of
from registry.settings import read_settings
from serving.inference.server import _arguments
from serving.sandbox.providers import DEVICE_MEMORY, Provider
from tests.test_helm import VALUES, manifests, of

ON = VALUES["models on one machine"]
WORKERS = ("worker", "gpu-worker")


def container(name: str, values: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The pod and the one container of a deployment."""
    pod = of("Deployment", values)[f"r-touchstone-{name}"]["spec"]["template"]["spec"]
    return pod, pod["containers"][0]


def test_without_it_nothing_of_it_is_there() -> None:
    assert "inference" not in yaml.safe_dump_all(
        one for one in manifests({}) if one["metadata"]["name"] != "r-touchstone-database"
    )


def test_the_command_of_the_server_reads_as_the_server_reads_it() -> None:
    _, server = container("inference", ON)
    assert server["command"] == ["python", "-m", "serving.inference.server"]
    given = _arguments().parse_args(server["args"])
    assert (given.port, given.shared_memory_prefix) == (8600, "")
    assert (given.most_models, given.memory_mebibytes, given.seconds) == (4, 4096, 30)
    mounts = {one["mountPath"] for one in server["volumeMounts"]}
    assert str(given.models) in mounts
    assert str(given.token.parent) in mounts
    assert server["resources"]["limits"]["nvidia.com/gpu"] == 1


def test_there_is_never_more_than_one_server() -> None:
    spec = of("Deployment", ON)["r-touchstone-inference"]["spec"]
    assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})


@pytest.mark.parametrize("name", WORKERS)
def test_workers_are_told_address_and_token_as_the_settings_read_them(
    name: str, tmp_path: Path
) -> None:
    pod, worker = container(name, ON)
    told = {one["name"]: one["value"] for one in worker["env"] if "value" in one}
    [mount] = [one for one in worker["volumeMounts"] if one["name"] == "inference"]
    [volume] = [one for one in pod["volumes"] if one["name"] == "inference"]
    assert volume["secret"] == {"secretName": "inference", "defaultMode": 0o440}
    assert told["TOUCHSTONE_INFERENCE_TOKEN_FILE"] == f"{mount['mountPath']}/token"
    token = tmp_path / "token"
    token.write_text("t" * 64 + "\n")
    address, _ = server_of(
        read_settings(told | {"TOUCHSTONE_INFERENCE_TOKEN_FILE": str(token)})
    ) or ("", "")
    service, port = address.removeprefix("http://").split(":")
    [found] = of("Service", ON)[service]["spec"]["ports"]
    assert found["port"] == int(port)
    assert "TOUCHSTONE_INFERENCE" not in yaml.safe_dump(
        of("Deployment", ON)["r-touchstone-registry"]
    )


def test_the_workers_alone_reach_it_and_it_reaches_nothing() -> None:
    policies = of("NetworkPolicy", ON)
    spec = policies["r-touchstone-inference"]["spec"]
    assert set(spec["policyTypes"]) == {"Ingress", "Egress"}
    assert "egress" not in spec
    [way] = spec["ingress"]
    [peer] = way["from"]
    [chosen] = peer["podSelector"]["matchExpressions"]
    assert chosen["values"] == list(WORKERS)
    labels = of("Deployment", ON)["r-touchstone-inference"]["spec"]["template"]["metadata"][
        "labels"
    ]
    for name, policy in policies.items():
        if policy["spec"].get("egress"):
            assert not selects(policy["spec"]["podSelector"], labels), name
    out = policies["r-touchstone-to-inference"]["spec"]
    [chosen] = out["podSelector"]["matchExpressions"]
    assert chosen["values"] == list(WORKERS)
    [way] = out["egress"]
    assert selects(way["to"][0]["podSelector"], labels)


def selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    """Whether a pod with these labels is meant."""
    for one in selector.get("matchExpressions", []):
        if (labels.get(one["key"]) in one["values"]) != (one["operator"] == "In"):
            return False
    return bool(selector.get("matchLabels", {}).items() <= labels.items())


def test_with_gpu_workers_each_takes_its_own_queue_and_without_them_one_takes_all() -> None:
    assert container("worker", ON)[1]["args"] == ["worker", "--queue=cpu"]
    assert container("gpu-worker", ON)[1]["args"] == ["worker", "--queue=gpu"]
    assert container("worker", {})[1]["args"] == ["worker"]


def test_what_links_patients_is_the_workers_alone_and_outlives_the_release() -> None:
    for deployment, one in of("Deployment", ON).items():
        pod = one["spec"]["template"]["spec"]
        mounts = {mount["mountPath"]: mount for mount in pod["containers"][0]["volumeMounts"]}
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        holds = deployment.endswith("worker")
        assert ("/data/links" in mounts) == ("/data/linking.key" in mounts) == holds
        if holds:
            assert not mounts["/data/links"].get("readOnly")
            assert volumes["links"]["persistentVolumeClaim"] == {"claimName": "r-touchstone-links"}
            key = mounts["/data/linking.key"]
            assert (key["subPath"], key["readOnly"]) == ("linking.key", True)
            assert volumes["linking-key"]["secret"]["secretName"] == "linking"
    claim = of("PersistentVolumeClaim", ON)["r-touchstone-links"]
    assert claim["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    settings = read_settings({"TOUCHSTONE_HOME": "/data"})
    assert [str(settings.links), str(settings.linking_key)] == ["/data/links", "/data/linking.key"]
    mine = ON | {"linking": {"keySecretName": "linking", "existingClaim": "mine"}}
    assert "r-touchstone-links" not in of("PersistentVolumeClaim", mine)


@pytest.mark.parametrize(
    "wrong",
    [{"enabled": True}, {"mostModels": 0}, {"replicas": 2}, {"image": {"digest": "latest"}}],
)
def test_values_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(HelmError):
        list(manifests({"inference": wrong}))


def test_a_gpu_worker_computes_on_its_gpu_unless_a_server_does() -> None:
    values = {"gpuWorker": {"enabled": True}}
    told = {one["name"]: one.get("value") for one in container("gpu-worker", values)[1]["env"]}
    settings = read_settings({key: value for key, value in told.items() if value is not None})
    assert provider_of(settings) == Provider("cuda", "0", DEVICE_MEMORY)
    names = {one["name"] for one in container("worker", values)[1]["env"]}
    assert "TOUCHSTONE_DEVICE" not in names
    assert "TOUCHSTONE_DEVICE" not in yaml.safe_dump(container("gpu-worker", ON)[1]["env"])


def test_a_server_with_a_device_computes_on_it_alone() -> None:
    _, server = container("inference", ON | {"inference": ON["inference"] | {"device": "0"}})
    given = _arguments().parse_args(server["args"])
    assert (given.provider, given.device, given.most_models) == ("cuda", "0", 1)
