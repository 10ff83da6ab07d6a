"""Where a contract begins at images, golden cases go the whole way from a file to an answer."""

import json
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from registry.trust.canonical import canonical
from registry.trust.errors import Refused, Tampered
from serving.bundle import raw_read
from serving.bundle.golden import make_inputs, record
from serving.bundle.golden_answers import distance
from serving.bundle.golden_replay import replay
from serving.bundle.layout import check_paths
from serving.bundle.raw_made import made_files
from serving.bundle.raw_read import image_of
from serving.sandbox import Sandbox
from tests.serving.test_golden import Imagined
from validators.contract.schema import Contract, Tensor

Files = dict[str, bytes]


def tensor(shape: tuple[int, ...], dtype: str = "float32", **more: Any) -> Tensor:
    limits = {name: more.pop(name) for name in ("unit", "minimum", "maximum") if name in more}
    return Tensor.model_validate(
        {"name": "image", "dtype": dtype, "shape": shape, "image": more, **limits}
    )


VOLUME = tensor(
    (1, 6, 16, 16), unit="HU", minimum=-1024, maximum=3071, modality=("CT",), orientation="IPL",
    spacing_mm=(1.5, 1.0, 1.0), resample="linear", fit="centre", padding=-1024, values="HU",
    stored_as="int16",
)  # fmt: skip
AGE = Tensor(name="age", dtype="float32", shape=(1,), minimum=18, maximum=90)
SCORED = Contract(
    id="ct", version="1", inputs=(VOLUME, AGE), score="probability",
    outputs=(Tensor(name="probability", dtype="float32", shape=(1,)),),
)  # fmt: skip
MAPPED = Contract.model_validate(
    {"id": "map", "version": "1", "inputs": (VOLUME,), "score": "labels",
     "outputs": (Tensor(name="labels", dtype="uint8", shape=(6, 16, 16)),),
     "reference": {"grid_of": "image", "structures": {"tumour": 1}}}
)  # fmt: skip


def info(of: Tensor, kind: int) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(of.name, kind, ["n", *of.shape])


def proto(nodes: list[onnx.NodeProto], contract: Contract, arrays: dict[str, Any]) -> bytes:
    kind = TensorProto.UINT8 if contract.reference else TensorProto.FLOAT
    graph = helper.make_graph(
        nodes, "g", [info(of, TensorProto.FLOAT) for of in contract.inputs],
        [info(of, kind) for of in contract.outputs],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )  # fmt: skip
    opset = helper.make_opsetid("", 17)
    return bytes(helper.make_model(graph, opset_imports=[opset], ir_version=9).SerializeToString())


def scoring() -> bytes:
    weights = np.random.default_rng(3).normal(size=(6 * 16 * 16 + 1, 1)).astype(np.float32)
    nodes = [
        helper.make_node("Flatten", ["image"], ["flat"]),
        helper.make_node("Concat", ["flat", "age"], ["all"], axis=1),
        helper.make_node("MatMul", ["all", "w"], ["sum"]),
        helper.make_node("Mul", ["sum", "small"], ["logit"]),
        helper.make_node("Sigmoid", ["logit"], ["probability"]),
    ]
    return proto(nodes, SCORED, {"w": weights, "small": np.array([2e-5], np.float32)})


def mapping(limit: float) -> bytes:
    nodes = [
        helper.make_node("Squeeze", ["image", "axis"], ["one"]),
        helper.make_node("Greater", ["one", "limit"], ["marked"]),
        helper.make_node("Cast", ["marked"], ["labels"], to=TensorProto.UINT8),
    ]
    return proto(nodes, MAPPED, {"axis": np.array([1]), "limit": np.array([limit], np.float32)})


def recorded(data: bytes, contract: Contract) -> Files:
    with Sandbox.start() as sandbox:
        sandbox.load({"model.onnx": data})
        return record(sandbox, make_inputs(contract, "seed"), contract)


def replayed(data: bytes, contract: Contract, files: Files, tolerance: float = 0.0) -> int:
    with Sandbox.start() as sandbox:
        sandbox.load({"model.onnx": data})
        return replay(sandbox, files, contract, tolerance).cases


@pytest.fixture(scope="module")
def scored() -> Files:
    return recorded(scoring(), SCORED)


@pytest.fixture(scope="module")
def mapped() -> Files:
    return recorded(mapping(100.0), MAPPED)


def test_the_same_way_gives_the_same_answer_in_another_process(scored: Files) -> None:
    raw = [path for path in scored if path.startswith("golden/raw/")]
    assert len(raw) == 4 * 5, "each of four cases has five slices, from which six are made"
    check_paths(scored)
    assert replayed(scoring(), SCORED, scored) == 32 + 4
    value = json.loads(scored["golden/expected.json"])
    assert [run["batch"] for run in value["raw_runs"]] == [4, 1]
    assert np.ptp(value["raw_runs"][0]["scores"]) > 0.01
    assert recorded(scoring(), SCORED) == scored


def test_a_file_says_nothing_of_anybody_and_of_no_day(scored: Files) -> None:
    import io

    import pydicom

    data = scored["golden/raw/0/0/00.dcm"]
    found = pydicom.dcmread(io.BytesIO(data))
    assert not [of for of in found.iterall() if of.VR in ("DA", "DT", "TM") and of.value]
    assert str(found.SOPInstanceUID).startswith("2.25.")
    assert b"pydicom" not in data.lower()


@pytest.mark.parametrize("part", ["linear", "orientation"])
def test_a_machine_that_brings_images_to_another_form_is_noticed(
    scored: Files, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    """The tensors of the block alone would not tell: only the way from the file differs."""
    real = raw_read.tensor_of
    change = {"resample": "nearest"} if part == "linear" else {"orientation": "SPL"}

    def otherwise(picture: Any, of: Tensor) -> Any:
        form = of.image.model_copy(update=change)  # type: ignore[union-attr]
        return real(picture, of.model_copy(update={"image": form}))

    monkeypatch.setattr(raw_read, "tensor_of", otherwise)
    with pytest.raises(Refused) as raised:
        replayed(scoring(), SCORED, scored, 1e-5)
    assert raised.value.code == "golden_mismatch"


def test_maps_are_compared_voxel_by_voxel(mapped: Files) -> None:
    assert replayed(mapping(100.0), MAPPED, mapped) == 32 + 4
    with pytest.raises(Refused) as raised:
        replayed(mapping(160.0), MAPPED, mapped, 1e-5)
    assert raised.value.code == "golden_mismatch"


def test_a_structure_that_vanishes_is_noticed_however_small_its_part_of_the_whole_is() -> None:
    one = np.zeros((1, 10_000_000), np.uint8)
    one[0, :200] = 1
    share, dice = distance(one, np.zeros_like(one))
    assert share <= 2e-5
    assert dice == 0.0
    assert distance(one, one) == (0.0, 1.0)


@pytest.mark.parametrize("change", ["lacking", "more", "damaged", "maps", "untold", "twice", "row"])
def test_anything_odd_about_raw_cases_fails_closed(mapped: Files, change: str) -> None:
    files, value = dict(mapped), json.loads(mapped["golden/expected.json"])
    if change == "lacking":
        for path in [path for path in files if path.startswith("golden/raw/1/")]:
            del files[path]
    elif change == "more":
        files["golden/raw/9/0/00.dcm"] = b""
    elif change == "damaged":
        files["golden/raw/0/0/02.dcm"] = files["golden/raw/0/0/02.dcm"][:400]
    elif change == "maps":
        files["golden/raw/maps.bin"] = files["golden/maps.bin"]
    elif change == "untold":
        value |= {"raw": [], "raw_runs": []}
    elif change == "twice":
        value["raw"][1] = value["raw"][0]
    else:
        value["raw"][0]["row"] = 1000
    files["golden/expected.json"] = canonical(value)
    with pytest.raises((Tampered, Refused)) as raised:
        replayed(mapping(100.0), MAPPED, files)
    expected = "golden_mismatch" if change == "damaged" else "golden_malformed"
    assert raised.value.code == expected


def test_a_contract_whose_images_cannot_be_made_up_says_so() -> None:
    of = tensor((1, 1, 8, 8), modality=("CT",), values="HU", spacing_mm=(1.0, 1.0, 1.0))
    contract = SCORED.model_copy(update={"inputs": (of,)})

    class Even(Imagined):
        def run(self, inputs: Any, /) -> dict[str, Any]:
            return {"probability": np.full((len(inputs["image"]), 1), 0.5, np.float32)}

    files = record(Even("honest"), make_inputs(contract, "seed"), contract)
    value = json.loads(files["golden/expected.json"])
    assert value["raw"] == []
    assert "slices" in value["no_raw"]
    assert replay(Even("honest"), files, contract, 0.0).cases == 32


def test_the_tolerance_is_that_of_the_provider_and_none_is_refused() -> None:
    from tests.serving.certified import CONTRACT

    files = record(Imagined("honest"), make_inputs(CONTRACT, "seed"), CONTRACT)
    value = json.loads(files["golden/expected.json"])
    assert value["tolerances"] == {"cpu": CONTRACT.tolerance, "cuda": CONTRACT.tolerance}
    value["runs"][0]["scores"][0] += 5e-6
    for cuda, provider, fits in (
        (1e-5, "CUDAExecutionProvider", True),
        (1e-6, "CUDAExecutionProvider", False),
        (1e-6, "CPUExecutionProvider", True),
    ):
        value["tolerances"]["cuda"] = cuda
        changed = {**files, "golden/expected.json": canonical(value)}
        runner = Imagined("honest", provider)
        if fits:
            assert replay(runner, changed, CONTRACT, 1.0).largest_difference > 0
        else:
            with pytest.raises(Refused) as raised:
                replay(runner, changed, CONTRACT, 1.0)
            assert raised.value.code == "golden_mismatch"
    del value["tolerances"]["cuda"]
    changed = {**files, "golden/expected.json": canonical(value)}
    for provider in ("CUDAExecutionProvider", "TensorrtExecutionProvider", ""):
        with pytest.raises(Refused) as raised:
            replay(Imagined("honest", provider), changed, CONTRACT, 1.0)
        assert raised.value.code == "golden_no_tolerance"


FORMS = [
    tensor((1, 8, 16, 12), "int16", modality=("CT",), orientation="IAR", values="HU"),
    tensor((1, 8, 16, 12), modality=("CT",), orientation="LAI", spacing_mm=(1.5, 1, 0.7),
           resample="linear", fit="centre", padding=-1024, values="HU"),
    tensor((1, 8, 16, 12), modality=("PT",), values="SUV", unit="SUV", minimum=0, maximum=25),
    tensor((1, 8, 16, 12), modality=("MR",), values="rescaled", minimum=-5, maximum=5),
    tensor((1, 16, 12), modality=("MG",), stored_as="uint16", spacing_mm=(0.1, 0.1)),
    tensor((3, 16, 13), "uint8", modality=("US",)),
    tensor((3, 15, 13), "uint8", modality=("picture",)),
    tensor((1, 15, 13), modality=("picture", "XC"), stored_as="uint8", fit="centre"),
]  # fmt: skip


@pytest.mark.parametrize("of", FORMS, ids=lambda of: f"{of.image.modality[0]}-{of.image.values}")
def test_made_up_files_are_what_the_contract_takes(of: Tensor) -> None:
    files = made_files(of, "seed", 0)
    assert files == made_files(of, "seed", 0)
    read = image_of(of, files)
    assert (read.shape, read.dtype.name) == (of.shape, of.dtype)
    assert np.ptp(read) > 0
    assert of.minimum is None or read.min() >= of.minimum
    assert of.maximum is None or read.max() <= of.maximum
