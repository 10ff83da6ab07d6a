"""What can go wrong with a model, by stable code, in sentences without a single value.

    >>> raise ModelFailure("model_timeout")

Rules
-----
1. A message is made on the trusted side of the pipe, from the code's template below.
2. Details come from a hostile process: they are only taken while that process has seen no
   patient data (inspection, loading, made-up cases), and then bounded, printable ASCII.
3. `fatal` says that the process is gone: a fresh one must be started before the next call.
"""

from typing import Final

from registry.trust.errors import TouchstoneError

FATAL: Final = frozenset({"model_timeout", "model_out_of_memory", "model_crashed"})
KILLED: Final = frozenset({"model_out_of_memory", "model_crashed"})
"""What a process that somebody else killed looks like, too."""

MESSAGES: Final[dict[str, str]] = {
    # the process
    "model_timeout": "the model gave no answer within its time limit and was stopped",
    "model_out_of_memory": "the model asked for more memory than its limit allows",
    "model_crashed": "the model's process died or broke the protocol, and was stopped",
    "model_raised": "the model stopped with an error while computing",
    # what it answered
    "output_missing": "the model's answer lacks an output that the contract asks for",
    "output_dtype": "the model's answer has another data type than the contract asks for",
    "output_shape": "the model's answer has another shape than the contract asks for",
    "output_not_finite": "the model's answer is not a finite number",
    "output_range": "the model's answer lies outside the range that the contract sets",
    # the file
    "model_empty": "the model file is empty: log the model again",
    "model_lfs_pointer": "the model file is a Git-LFS pointer, not the model: run `git lfs pull` "
    "and log it again",
    "model_ort_format": "the model file is in onnxruntime's own format (ORTM): export it as ONNX",
    "model_not_onnx": "the model file is not ONNX, or is damaged or nested too deeply: export it "
    "again and check it with onnx.checker",
    "model_invalid": "the model file breaks the ONNX specification{detail}: export it again and "
    "check it with onnx.checker",
    "model_too_large": "the model is larger than allowed{detail}: the limits are 2 GB, 50,000 "
    "nodes and 50,000 initializers",
    "model_too_deep": "the model nests graphs deeper than 8 levels",
    "external_data": "the model refers to data outside its own files{detail}: only one "
    "<name>.data beside model.onnx is taken, as mlflow.onnx.log_model writes it",
    "model_opset": "the model imports an operator set that is not accepted{detail}: use ai.onnx 9 "
    "to 26 and ai.onnx.ml 1 to 5",
    "custom_domain": "the model uses an operator domain that is not accepted{detail}: only "
    "ai.onnx and ai.onnx.ml are run",
    "model_functions": "the model carries functions of its own: export it with functions inlined",
    "operator_refused": "the model uses an operator that is not accepted{detail}: only "
    "deterministic operators on plain tensors are run",
    "training_mode": "the model has a node in training mode{detail}: export it for inference",
    "model_training": "the model carries training information: export it for inference",
    "model_shapes": "the shapes inside the model don't fit each other{detail}: check it with "
    "onnx.shape_inference in strict mode",
    "tensor_too_large": "a tensor inside the model is larger than 2^30 elements in the "
    "largest batch that it may get{detail}",
    "tensor_kind": "the model takes or gives something that is not a plain tensor of numbers"
    "{detail}: for scikit-learn export with zipmap=False",
    "model_not_loadable": "onnxruntime can't load the model{detail}",
    "wrong_provider": "the model was not run, for it would not run where it was to{detail}: on "
    "CUDA every node must have a kernel of CUDA's, and nothing falls back to the CPU",
}


class ModelFailure(TouchstoneError):
    """A model that can't be run, or that failed while it ran. `code` is a key of MESSAGES."""

    status = 422
    default_code = "model_crashed"

    def __init__(self, code: str, detail: str = "") -> None:
        self.detail = plain_text(detail)
        told = f" ({self.detail})" if self.detail else ""
        super().__init__(MESSAGES[code].replace("{detail}", told), code=code)

    @property
    def fatal(self) -> bool:
        """Whether the sandboxed process is gone."""
        return self.code in FATAL


def plain_text(text: str, limit: int = 200) -> str:
    """`text` from an untrusted source as printable ASCII of one line, at most `limit` long."""
    flat = " ".join(text[: 4 * limit].split())
    clean = "".join(c if " " <= c <= "~" else "?" for c in flat)
    return clean if len(clean) <= limit else clean[: limit - 3] + "..."
