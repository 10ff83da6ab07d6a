"""What is taken from a directory, and what is refused before a model is opened."""

import os

import pytest

from registry.trust.errors import Refused
from registry.trust.model_files import model_digest
from tests.serving import hostile
from validators.contract.description import ModelDescription
from validators.intake import decide, files_from_directory


def describe(**changes):
    tensors = {
        "inputs": [
            {"name": "image", "dtype": "float32", "shape": ("batch", 1, 8, 8)},
            {"name": "descriptors", "dtype": "float32", "shape": ("batch", 4)},
        ],
        "outputs": [{"name": "score", "dtype": "float32", "shape": ("batch", 1)}],
    }
    for path, value in changes.items():
        side, index, field = path.split("_")
        tensors[side][int(index)][field] = value
    return ModelDescription(
        **tensors, ir_version=8, opsets={"ai.onnx": 17}, operators={}, nodes=1, initializers=0,
        parameters=0, model_bytes=1, largest_tensor=1,
    )  # fmt: skip


def test_a_model_that_fits_is_accepted():
    decide(describe(), hostile.contract())


def test_dimensions_that_the_file_leaves_open_fit():
    decide(describe(inputs_0_shape=(None, "c", "h", "w")), hostile.contract())
    decide(describe(outputs_0_shape=None), hostile.contract())


@pytest.mark.parametrize(
    ("changes", "code", "sentence"),
    [
        (
            {"inputs_0_name": "ct"},
            "input_missing",
            "the model has no input 'image', which contract nodule 1 gives it; its inputs are "
            "'ct', 'descriptors': rename or add the input",
        ),
        (
            {"inputs_0_dtype": "float64"},
            "input_dtype",
            "the input 'image' is float64, and contract nodule 1 says float32: export the model "
            "with that type",
        ),
        (
            {"inputs_0_shape": ("batch", 3, 8, 8)},
            "input_shape",
            "the input 'image' has shape [batch, 3, 8, 8], and contract nodule 1 says "
            "[batch, 1, 8, 8]: export the model with that shape",
        ),
        (
            {"inputs_0_shape": ("batch", 8, 8)},
            "input_shape",
            "the input 'image' has shape [batch, 8, 8], and contract nodule 1 says "
            "[batch, 1, 8, 8]: export the model with that shape",
        ),
        (
            {"inputs_0_shape": (1, 1, 8, 8)},
            "batch_fixed",
            "the input 'image' has a fixed batch of 1: export the model with a free (dynamic) "
            "first axis, [batch, 1, 8, 8]",
        ),
        (
            {"outputs_0_name": "probability"},
            "output_missing",
            "the model has no output 'score', which contract nodule 1 takes as the score; its "
            "outputs are 'probability': rename or add the output",
        ),
        (
            {"outputs_0_dtype": "int64"},
            "output_dtype",
            "the output 'score' is int64, and contract nodule 1 says float32: export the model "
            "with that type",
        ),
        (
            {"outputs_0_shape": ("batch", 2)},
            "output_shape",
            "the output 'score' has shape [batch, 2], and contract nodule 1 says [batch, 1]: "
            "export the model with that shape",
        ),
    ],
)
def test_what_does_not_fit_is_refused_in_one_sentence(changes, code, sentence):
    with pytest.raises(Refused) as caught:
        decide(describe(**changes), hostile.contract())
    assert (caught.value.code, caught.value.message) == (code, sentence)


def test_an_input_that_the_contract_does_not_give_is_refused():
    shape_only = hostile.contract(
        inputs=[{"name": "image", "dtype": "float32", "shape": [1, 8, 8]}]
    )
    with pytest.raises(Refused, match="asks for an input 'descriptors'") as caught:
        decide(describe(), shape_only)
    assert caught.value.code == "input_unexpected"


@pytest.fixture
def directory(tmp_path):
    """A model directory as mlflow.onnx writes it."""
    path = tmp_path / "model"
    path.mkdir()
    (path / "model.onnx").write_bytes(hostile.external("0f3c.data"))
    (path / "0f3c.data").write_bytes(hostile.external_weights())
    for name in ("MLmodel", "conda.yaml", "requirements.txt", "python_env.yaml"):
        (path / name).write_text("ignored: true\n")
    (path / "metadata").mkdir()
    (path / "registered_model_meta").write_text("model_name: a\n")
    return path


def test_an_mlflow_directory_gives_its_two_files(directory):
    files = files_from_directory(directory)
    assert files == {
        "model.onnx": hostile.external("0f3c.data"),
        "0f3c.data": hostile.external_weights(),
    }
    (directory / "MLmodel").write_text("something else")
    assert model_digest(files_from_directory(directory)) == model_digest(files)


def test_a_single_file_is_a_model_too(tmp_path):
    path = tmp_path / "anything.onnx"
    path.write_bytes(hostile.honest())
    assert files_from_directory(path) == {"model.onnx": hostile.honest()}


def test_the_digest_changes_with_each_file_and_name(directory):
    files = files_from_directory(directory)
    variants = [
        files,
        {**files, "0f3c.data": files["0f3c.data"][:-1] + b"\0"},
        {"model.onnx": files["model.onnx"]},
        {"model.onnx": files["model.onnx"], "other.data": files["0f3c.data"]},
    ]
    assert len({model_digest(variant) for variant in variants}) == 4


def refusal(path):
    with pytest.raises(Refused) as caught:
        files_from_directory(path)
    return caught.value


@pytest.mark.parametrize("name", ["model.onnx", "0f3c.data"])
def test_links_are_refused(directory, tmp_path, name):
    secret = tmp_path / "secret"
    secret.write_bytes((directory / name).read_bytes())
    (directory / name).unlink()
    (directory / name).symlink_to(secret)
    assert refusal(directory).code == "model_link"
    (directory / name).unlink()
    os.link(secret, directory / name)
    assert refusal(directory).code == "model_link"
    (directory / name).unlink()
    os.mkfifo(directory / name)
    assert refusal(directory).code == "model_link"
    (directory / name).unlink()
    (directory / name).mkdir()
    assert refusal(directory).code == "model_link"


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("model.onnx", b"", "model_empty"),
        ("0f3c.data", b"", "model_empty"),
        ("model.onnx", b"version https://git-lfs.github.com/spec/v1\n", "model_lfs_pointer"),
        ("0f3c.data", b"version https://git-lfs.github.com/spec/v1\n", "model_lfs_pointer"),
        ("python_model.pkl", b"\x80\x04.", "model_pickle"),
        ("weights.joblib", b"\x80\x04.", "model_pickle"),
        ("model.pth", b"PK", "model_pickle"),
        ("second.data", b"1", "model_layout"),
        ("run.py", b"1", "model_layout"),
        ("code\n.data", b"1", "model_layout"),
    ],
)
def test_what_else_may_lie_there_is_refused(directory, name, content, code):
    (directory / name).write_bytes(content)
    found = refusal(directory)
    assert found.code == code
    assert "\n" not in found.message


def test_a_file_over_2_gb_is_refused_before_it_is_read(directory):
    with (directory / "0f3c.data").open("r+b") as stream:
        stream.truncate(2_100_000_000)
    found = refusal(directory)
    assert found.code == "model_too_large"
    assert "2.1 GB" in found.message


def test_no_model_at_all_is_told(tmp_path):
    assert refusal(tmp_path).code == "model_missing"
    assert refusal(tmp_path / "nowhere").code == "model_missing"
