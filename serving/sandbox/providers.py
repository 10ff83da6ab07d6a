"""What computes a model: the CPU, or one CUDA device. Every option of a session, as plain data.

    provider = Provider("cuda", device="0", memory_bytes=8 << 30)
    session = open_session(onnxruntime, data, provider)     # raises WrongProvider, never falls back

Rules
-----
1. CUDA where it was asked for, the CPU otherwise; nothing is chosen by what happens to be there.
2. With CUDA the CPU is not listed, and onnxruntime's own fall-back to it is off; after opening,
   the session's providers, its options and the place of every node are asked back and compared.
3. Whatever moves bits is fixed: one thread, one graph level, deterministic kernels, no TF32, no
   convolution algorithm chosen by a stop-watch, no tuned operators.
4. Pure but for `open_session`; onnxruntime is passed in, so that the trusted side loads none.
"""

import re
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal, Self

from registry.trust.errors import Invalid

Kind = Literal["cpu", "cuda"]
NAMES: Final[dict[Kind, str]] = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
DEVICE_MEMORY: Final = 8192 << 20
_LEAST_MEMORY: Final = 256 << 20
_HEX: Final = "[0-9a-fA-F]"
_DEVICE: Final = re.compile(rf"[0-9]{{1,2}}|(GPU|MIG)-{_HEX}{{8}}(-{_HEX}{{4}}){{3}}-{_HEX}{{12}}")

SESSION: Final[dict[str, int | bool]] = {
    "intra_op_num_threads": 1,
    "inter_op_num_threads": 1,
    "use_deterministic_compute": True,
    "log_severity_level": 4,
}
_PLUG_IN: Final = "cuda-plugin-ep="
_NO_FALLBACK: Final = "fallback to CPU EP has been explicitly disabled"
GRAPH_LEVEL: Final = "ORT_ENABLE_ALL"


class WrongProvider(Exception):
    """What runs here is not what was asked for; the text says what, and nothing of a model."""


@dataclass(frozen=True)
class Provider:
    """What was asked for.

    device: of CUDA, as CUDA_VISIBLE_DEVICES takes it: a number, GPU-<uuid> or MIG-<uuid>.
    memory_bytes: of CUDA, the largest arena of one session on the device.
    """

    kind: Kind = "cpu"
    device: str = ""
    memory_bytes: int = 0

    def __post_init__(self) -> None:
        if self.kind not in NAMES:
            raise Invalid(f"there is no provider {self.kind!r}: use cpu or cuda")
        if self.kind == "cpu" and (self.device or self.memory_bytes):
            raise Invalid("the provider cpu has no device and no device memory")
        if self.kind == "cuda" and not _DEVICE.fullmatch(self.device):
            raise Invalid(
                "a CUDA device is a number, GPU-<uuid> or MIG-<uuid>, as nvidia-smi -L says"
            )
        if self.kind == "cuda" and self.memory_bytes < _LEAST_MEMORY:
            raise Invalid("the memory of a CUDA device is limited to 256 MiB or more")

    @classmethod
    def of(cls, value: dict[str, Any]) -> Self:
        """The provider that `wire` gave."""
        return cls(value["kind"], value["device"], value["memory_bytes"])

    def wire(self) -> dict[str, Any]:
        """As JSON, for the locked process."""
        return asdict(self)

    @property
    def name(self) -> str:
        """As onnxruntime calls it."""
        return NAMES[self.kind]

    @property
    def on_device(self) -> bool:
        """Whether inputs and outputs lie on a device of their own."""
        return self.kind != "cpu"

    @property
    def place(self) -> str:
        """Where tensors lie, as onnxruntime calls it."""
        return self.kind

    def session_entries(self) -> dict[str, str]:
        """Session options that onnxruntime takes by name."""
        entries = {"session.load_model_format": "ONNX"}
        if self.on_device:
            entries["session.disable_cpu_ep_fallback"] = "1"
            entries["session.record_ep_graph_assignment_info"] = "1"
        return entries

    def options(self) -> dict[str, str]:
        """The provider's own options; the CPU has none."""
        if not self.on_device:
            return {}
        return {
            "device_id": "0",  # the only one that the process sees
            "gpu_mem_limit": str(self.memory_bytes),
            "arena_extend_strategy": "kSameAsRequested",
            "cudnn_conv_algo_search": "HEURISTIC",
            "do_copy_in_default_stream": "1",
            "enable_cuda_graph": "0",
            "prefer_nhwc": "0",
            "tunable_op_enable": "0",
            "tunable_op_tuning_enable": "0",
            "use_tf32": "0",
        }

    def environment(self) -> dict[str, str]:
        """What the process needs in its environment: one device in sight, nothing cached on disk,
        every kernel loaded before the lockdown, and no TF32 or racing reduction in any library."""
        if not self.on_device:
            return {}
        return {
            "CUDA_VISIBLE_DEVICES": self.device,
            "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
            "CUDA_CACHE_DISABLE": "1",
            "CUDA_MODULE_LOADING": "EAGER",
            "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
            "NVIDIA_TF32_OVERRIDE": "0",
        }


CPU: Final = Provider()


def require_built(runtime: Any, provider: Provider) -> None:
    """Raise WrongProvider where this onnxruntime was built without the provider."""
    if provider.name not in runtime.get_available_providers():
        raise WrongProvider(
            f"this onnxruntime {runtime.__version__} is built without {provider.name}: install "
            "the extra [gpu] in place of [hospital]"
        )


def require_runtime(runtime: Any, provider: Provider) -> None:
    """Raise WrongProvider unless this onnxruntime can do what was asked, and sees the device.

    `get_available_providers` lists what was built in, `get_ep_devices` what is there; but CUDA is
    in the latter only where it was built as a plug-in (onnxruntime-gpu 1.31.1 was not: it lists
    the CPU alone). There the session of a model of our own is the proof.
    """
    require_built(runtime, provider)
    if not provider.on_device or _PLUG_IN not in runtime.get_build_info():
        return
    if provider.name not in {device.ep_name for device in runtime.get_ep_devices()}:
        raise WrongProvider(
            f"onnxruntime sees no device for {provider.name}: is the driver there, and are CUDA "
            "13 and cuDNN 9 (the extras cuda,cudnn)?"
        )


def session_options(runtime: Any, provider: Provider) -> Any:
    """The options of a session as onnxruntime takes them."""
    options = runtime.SessionOptions()
    for name, value in SESSION.items():
        setattr(options, name, value)
    options.execution_mode = runtime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = getattr(runtime.GraphOptimizationLevel, GRAPH_LEVEL)
    for name, text in provider.session_entries().items():
        options.add_session_config_entry(name, text)
    return options


def open_session(runtime: Any, data: bytes, provider: Provider) -> Any:
    """Open a model on the provider and on nothing else.

    Raises WrongProvider where the session is not what was asked for, and what onnxruntime raises.
    """
    listed = (provider.name, provider.options()) if provider.on_device else provider.name
    try:
        session = runtime.InferenceSession(
            data, session_options(runtime, provider), providers=[listed], enable_fallback=0
        )
    except Exception as error:
        if _NO_FALLBACK in str(error):
            raise WrongProvider(
                f"onnxruntime would run a part of the model on the CPU, not on {provider.name}"
            ) from None
        raise
    session.disable_fallback()
    nodes = {}
    if provider.on_device:
        nodes = {part.ep_name: len(part.get_nodes()) for part in placed(session)}
    check(provider, session.get_providers(), session.get_provider_options(), nodes)
    return session


def placed(session: Any) -> Any:
    """Which provider got which nodes, where this onnxruntime tells."""
    tell = getattr(session, "get_provider_graph_assignment_info", None)
    return tell() if tell is not None else []


def check(
    provider: Provider,
    providers: list[str],
    options: dict[str, dict[str, str]],
    nodes: dict[str, int],
) -> None:
    """Raise WrongProvider unless a session's own words agree with what was asked for.

    providers: of the session; with CUDA onnxruntime adds the CPU by itself, which then has no
    node (`nodes`: provider to number of nodes, empty where it was not told).
    """
    added = ["CPUExecutionProvider"] if provider.on_device else []
    if providers not in ([provider.name], [provider.name, *added]):
        raise WrongProvider(f"the session runs on {', '.join(providers)}, not on {provider.name}")
    if elsewhere := sorted(set(nodes) - {provider.name}):
        raise WrongProvider(f"a part of the model runs on {', '.join(elsewhere)}")
    said = options.get(provider.name, {})
    for name, text in provider.options().items():
        if said.get(name) != text:
            raise WrongProvider(
                f"the option {name} is {said.get(name)}, where {text} was asked for"
            )
