"""What the sandbox refuses before a model is opened, and what it tells of an honest one."""

from random import Random

import pytest
from onnx import defs

from registry.trust.errors import Refused
from registry.trust.model_files import model_digest
from serving.sandbox import ModelFailure, Sandbox
from serving.sandbox.failures import FATAL
from serving.sandbox.operators import ALLOWED, DEFAULT_DOMAIN, REFUSED
from tests.serving import hostile


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox.start() as started:
        yield started


def test_an_honest_model_is_described(sandbox):
    description = sandbox.inspect({"model.onnx": hostile.honest()})
    assert [(t.name, t.dtype, t.shape) for t in description.inputs] == [
        ("image", "float32", ("batch", 1, 8, 8)),
        ("descriptors", "float32", ("batch", 4)),
    ]
    assert [(t.name, t.shape) for t in description.outputs] == [("score", ("batch", 1))]
    assert description.operators == {"Add": 1, "Flatten": 1, "MatMul": 2, "Sigmoid": 1}
    assert description.opsets == {"ai.onnx": 17}
    assert description.parameters == 68
    assert description.largest_tensor == 1024 * 64


REFUSED_FILES = {
    "text": (b"this is not a model, but some words", "model_not_onnx"),
    "empty": (b"", "model_empty"),
    "no graph": (b"\x08\x08", "model_not_onnx"),
    "truncated": (hostile.honest()[:-40], "model_not_onnx"),
    "lfs pointer": (b"version https://git-lfs.github.com/spec/v1\n", "model_lfs_pointer"),
    "ort marker": (hostile.ort_marker(), "model_ort_format"),
    "absolute path": (hostile.external("/etc/passwd"), "external_data"),
    "path upwards": (hostile.external("../../etc/passwd"), "external_data"),
    "sibling that is not there": (hostile.external("weights.data"), "external_data"),
    "data in an attribute": (hostile.external_in_attribute("/etc/passwd"), "external_data"),
    "location that is not UTF-8": (
        hostile.external("weights.data").replace(b"weights.data", b"weights\xff\xfedat"),
        "external_data",
    ),
    "name that is not UTF-8": (hostile.honest().replace(b"image", b"im\xff\xfee"), "model_invalid"),
    "custom domain": (hostile.custom_domain(), "custom_domain"),
    "functions": (hostile.functions(), "model_functions"),
    "opset too new": (hostile.honest(opset=99), "model_opset"),
    "opset too old": (hostile.honest(opset=7), "model_opset"),
    "random counter": (hostile.random_counter(), "operator_refused"),
    "random in a loop": (hostile.loop(3, hidden_operator="RandomUniformLike"), "operator_refused"),
    "dropout in training": (hostile.training("Dropout"), "training_mode"),
    "batch norm in training": (hostile.training("BatchNormalization"), "training_mode"),
    "100 GB in 150 bytes": (hostile.huge_constant(), "tensor_too_large"),
    "2^31 elements": (hostile.many_elements(), "tensor_too_large"),
    "nested 9 deep": (hostile.nested(9), "model_too_deep"),
    "nested 5000 deep": (hostile.nested_without_end(), "model_not_onnx"),
    "shapes that don't fit": (hostile.wrong_inner_shape(), "model_shapes"),
    "text output": (hostile.text_output(), "tensor_kind"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED_FILES)
def test_a_hostile_file_is_refused_with_its_code(sandbox, name):
    data, code = REFUSED_FILES[name]
    with pytest.raises(ModelFailure) as caught:
        sandbox.inspect({"model.onnx": data})
    assert caught.value.code == code
    assert "\n" not in caught.value.message
    assert sandbox.pid is not None, "a refusal leaves the process alive"


@pytest.mark.parametrize("name", ["random counter", "absolute path", "custom domain"])
def test_load_makes_the_same_checks(name):
    data, code = REFUSED_FILES[name]
    with Sandbox.start() as sandbox, pytest.raises(ModelFailure) as caught:
        sandbox.load({"model.onnx": data})
    assert caught.value.code == code


def test_the_refusal_names_the_operator(sandbox):
    with pytest.raises(ModelFailure, match="RandomUniform"):
        sandbox.inspect({"model.onnx": hostile.random_counter()})


def test_nested_graphs_within_the_limit_are_run(sandbox):
    assert sandbox.inspect({"model.onnx": hostile.nested(6)}).operators["If"] >= 6


def test_weights_in_the_one_sibling_are_inlined_and_give_the_same_scores():
    split = {
        "model.onnx": hostile.external("abc.data"),
        "abc.data": hostile.external_weights(),
    }
    whole = {"model.onnx": hostile.honest()}
    assert model_digest(split) != model_digest(whole)
    inputs = hostile.cases(5)
    answers = []
    for files in (split, whole):
        with Sandbox.start() as sandbox:
            sandbox.load(files)
            answers.append(sandbox.run(inputs)["score"])
    assert (answers[0] == answers[1]).all()


@pytest.mark.parametrize(
    "fields",
    [
        {"offset": "4"},
        {"offset": "-4"},
        {"length": "252"},
        {"length": "99999999999"},
        {"offset": "0x0"},
        {"offset": " 0"},
        {"location": "./abc.data"},
        {"location": "ABC.data"},
        {"location": "abc.data\0"},
        {"location": "model.onnx"},
    ],
)
def test_a_sibling_is_read_by_plain_name_and_inside_its_bounds_only(sandbox, fields):
    location = fields.pop("location", "abc.data")
    files = {
        "model.onnx": hostile.external(location, **fields),
        "abc.data": hostile.external_weights(),
    }
    with pytest.raises(ModelFailure) as caught:
        sandbox.inspect(files)
    assert caught.value.code == "external_data"


def test_a_sibling_that_nothing_refers_to_is_refused(sandbox):
    with pytest.raises(ModelFailure) as caught:
        sandbox.inspect({"model.onnx": hostile.honest(), "extra.data": b"\0" * 64})
    assert caught.value.code == "external_data"


def test_a_second_sibling_or_a_path_is_refused_before_it_is_sent(sandbox):
    for extra in ({"a.data": b"", "b.data": b""}, {"../a.data": b""}, {"model.pkl": b""}):
        with pytest.raises(Refused):
            sandbox.inspect({"model.onnx": hostile.honest(), **extra})


def test_the_operator_lists_cover_the_installed_onnx():
    known: dict[str, set[str]] = {DEFAULT_DOMAIN: set(), "ai.onnx.ml": set()}
    for schema in defs.get_all_schemas_with_history():
        domain = schema.domain or DEFAULT_DOMAIN
        if domain in known:
            known[domain].add(schema.name)
    for domain, names in known.items():
        assert not ALLOWED[domain] & REFUSED[domain]
        assert ALLOWED[domain] | REFUSED[domain] == names


def test_scikit_learn_style_trees_and_large_weights_are_accepted(sandbox):
    description = sandbox.inspect({"model.onnx": hostile.trees()})
    assert description.operators["ai.onnx.ml.TreeEnsembleRegressor"] == 1


def test_files_that_chance_damaged_are_refused_and_never_end_the_process(sandbox):
    """A thousand damaged copies: each is refused by code or described, by one process."""
    random, pid = Random(4), sandbox.pid  # noqa: S311
    codes: list[str] = []
    originals = [hostile.honest(), hostile.nested(4), hostile.external("a.data")]
    for _ in range(1000):
        data = bytearray(random.choice(originals))
        for _ in range(random.randint(1, 3)):
            data[random.randrange(len(data))] = random.randrange(256)
        try:
            sandbox.inspect({"model.onnx": bytes(data)})
        except ModelFailure as failure:
            codes.append(failure.code)
    assert sandbox.pid == pid
    assert not FATAL & set(codes)
    assert len(codes) > 500


def test_nothing_random_is_allowed():
    random_seed = {
        schema.name
        for schema in defs.get_all_schemas()
        if "seed" in schema.attributes and not schema.domain
    }
    assert random_seed & ALLOWED[DEFAULT_DOMAIN] == {"Dropout"}
    assert len(random_seed) >= 6
