"""A stock tritonclient works against the server: binary, JSON and shared memory."""

import json
import secrets
from collections.abc import Iterator

import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException
from tritonclient.utils import shared_memory as shm

from tests.serving import hostile
from tests.serving.inference.serving import TOKEN, Server, place

HEADERS = {"Authorization": f"Bearer {TOKEN}"}
"""To be copied: tritonclient writes into what it is given."""


@pytest.fixture
def client(server: Server) -> Iterator[triton.InferenceServerClient]:
    client = triton.InferenceServerClient(server.url)
    yield client
    client.close()


@pytest.fixture
def digest(server: Server, client: triton.InferenceServerClient) -> str:
    digest = place(server.models, {"model.onnx": hostile.honest()})
    client.load_model(digest, headers=dict(HEADERS))
    return digest


def given(inputs: dict[str, np.ndarray], *, binary: bool = True) -> list[triton.InferInput]:
    return [
        triton.InferInput(name, list(array.shape), "FP32").set_data_from_numpy(
            array, binary_data=binary
        )
        for name, array in inputs.items()
    ]


def test_the_server_and_its_models_are_told(client, digest):
    assert client.is_server_live()
    assert client.is_server_ready()
    told = client.get_server_metadata(headers=dict(HEADERS))
    assert "system_shared_memory" in told["extensions"]
    assert told["sandbox"]["level"]["seccomp"] is True
    assert client.is_model_ready(digest, headers=dict(HEADERS))
    assert client.is_model_ready(digest, "1", headers=dict(HEADERS))
    assert not client.is_model_ready(digest, "2", headers=dict(HEADERS))
    metadata = client.get_model_metadata(digest, headers=dict(HEADERS))
    assert metadata["inputs"] == [
        {"name": "image", "datatype": "FP32", "shape": [-1, 1, 8, 8]},
        {"name": "descriptors", "datatype": "FP32", "shape": [-1, 4]},
    ]
    assert metadata["outputs"] == [{"name": "score", "datatype": "FP32", "shape": [-1, 1]}]
    assert client.get_model_config(digest, headers=dict(HEADERS))["output"] == [
        {"name": "score", "data_type": "TYPE_FP32", "dims": [-1, 1]}
    ]
    index = client.get_model_repository_index(headers=dict(HEADERS))
    assert {"name": digest, "version": "1", "state": "READY", "reason": ""} in index


@pytest.mark.parametrize("version", ["", "1"])
@pytest.mark.parametrize("binary", [True, False])
def test_scores_come_back_in_binary_and_in_json(client, digest, binary, version):
    inputs = hostile.cases(5)
    outputs = [triton.InferRequestedOutput("score", binary_data=binary)]
    result = client.infer(
        digest, given(inputs, binary=binary), version, outputs, "call-1", headers=dict(HEADERS)
    )
    np.testing.assert_allclose(result.as_numpy("score"), hostile.honest_score(inputs), atol=1e-6)
    assert result.get_response()["id"] == "call-1"
    assert ("data" in result.get_output("score")) is not binary


def test_without_a_list_of_outputs_all_of_them_come(client, digest):
    inputs = hostile.cases(3)
    result = client.infer(digest, given(inputs), headers=dict(HEADERS))
    np.testing.assert_allclose(result.as_numpy("score"), hostile.honest_score(inputs), atol=1e-6)


def test_a_person_may_write_plain_json(server, digest):
    inputs = hostile.cases(2)
    body = {
        "inputs": [
            {"name": n, "shape": list(a.shape), "datatype": "FP32", "data": a.tolist()}
            for n, a in inputs.items()
        ]
    }
    path = f"/v2/models/{digest}/infer"
    status, answer = server.ask("POST", path, json.dumps(body).encode())
    assert status == 200
    output = json.loads(answer)["outputs"][0]
    assert output["shape"] == [2, 1]
    np.testing.assert_allclose(output["data"], hostile.honest_score(inputs)[:, 0], atol=1e-6)


def test_several_calls_at_once_are_answered(server, digest):
    with triton.InferenceServerClient(server.url, concurrency=3) as several:
        sets = [hostile.cases(4, seed=n) for n in range(9)]
        waiting = [several.async_infer(digest, given(i), headers=dict(HEADERS)) for i in sets]
        for inputs, call in zip(sets, waiting, strict=True):
            score = call.get_result().as_numpy("score")
            np.testing.assert_allclose(score, hostile.honest_score(inputs), atol=1e-6)


def test_inputs_and_outputs_go_through_shared_memory(client, digest):
    inputs = hostile.cases(6)
    key = f"/touchstone-{secrets.token_hex(8)}"
    image, descriptors = inputs["image"].nbytes, inputs["descriptors"].nbytes
    total = image + descriptors + 24
    region = shm.create_shared_memory_region("batch", key, total)
    try:
        shm.set_shared_memory_region(region, [inputs["image"], inputs["descriptors"]])
        client.register_system_shared_memory("batch", key, total, headers=dict(HEADERS))
        assert client.get_system_shared_memory_status("batch", headers=dict(HEADERS)) == [
            {"name": "batch", "key": key, "offset": 0, "byte_size": total}
        ]
        asked = [triton.InferInput(n, list(a.shape), "FP32") for n, a in inputs.items()]
        asked[0].set_shared_memory("batch", image)
        asked[1].set_shared_memory("batch", descriptors, offset=image)
        wanted = triton.InferRequestedOutput("score")
        wanted.set_shared_memory("batch", 24, offset=image + descriptors)
        result = client.infer(digest, asked, outputs=[wanted], headers=dict(HEADERS))
        output = result.get_output("score")
        assert output["parameters"]["shared_memory_region"] == "batch"
        score = shm.get_contents_as_numpy(
            region, np.float32, output["shape"], offset=image + descriptors
        )
        np.testing.assert_allclose(score, hostile.honest_score(inputs), atol=1e-6)
        client.unregister_system_shared_memory("batch", headers=dict(HEADERS))
        assert client.get_system_shared_memory_status(headers=dict(HEADERS)) == []
    finally:
        shm.destroy_shared_memory_region(region)


def test_errors_come_as_the_client_expects_them(client, digest):
    inputs = hostile.cases(2)
    with pytest.raises(InferenceServerException, match=r"\[401\] the token is missing or wrong"):
        client.infer(digest, given(inputs))
    wrong = {"image": inputs["image"][:, :, :4], "descriptors": inputs["descriptors"]}
    with pytest.raises(InferenceServerException, match=r"\[422\] the input image must be FP32"):
        client.infer(digest, given(wrong), headers=dict(HEADERS))
    with pytest.raises(InferenceServerException, match=r"\[404\] no model of this digest"):
        client.infer("sha256:" + "0" * 64, given(inputs), headers=dict(HEADERS))
    with pytest.raises(InferenceServerException, match=r"\[403\].*no files and no configuration"):
        client.load_model(digest, config="{}", files={"file:1/m": b"x"}, headers=dict(HEADERS))


def test_a_model_that_was_unloaded_answers_no_more(client, digest):
    client.unload_model(digest, headers=dict(HEADERS))
    assert not client.is_model_ready(digest, headers=dict(HEADERS))
    client.load_model(digest, headers=dict(HEADERS))
    assert client.is_model_ready(digest, headers=dict(HEADERS))
