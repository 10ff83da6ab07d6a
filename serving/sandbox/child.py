"""The locked process itself: one socket, one model, one thread.

Rules
-----
1. Everything is imported before the lockdown; nothing of the model is received before it. On a
   CUDA device a model of our own runs first, and there are the driver's threads: see
   `serving.sandbox.device_lockdown`.
2. Answers carry codes. Text about the model goes out while inspecting and loading, and never
   once patient data came in; a call says why it failed only where the other side asks, which it
   does for made-up cases alone (`serving.sandbox.explaining`).
3. It leaves when the socket closes, or when a call outlasts its alarm (should the parent be
   gone); the parent's own clock is the one that counts.
"""

import importlib
import os
import signal
import socket
from typing import Any

from serving.sandbox import framing
from serving.sandbox.lockdown import SOCKET_FD, load_libraries, lock_down
from serving.sandbox.providers import Provider, WrongProvider, require_built
from serving.sandbox.refusal import Refusal
from serving.sandbox.shared import map_read_only

_KEPT: list[Any] = []
_RUNTIME_MEMORY_WORDS = ("allocate memory", "bad_alloc", "out of memory", "Failed to allocate")


def main(descriptor: int, shared: int) -> None:
    """Lock this process down and serve the socket `descriptor` until it closes."""
    entered = enter(descriptor, shared)
    if entered is None:
        return
    from serving.sandbox.model import Model

    sock, memory, request = entered
    model = Model(memory, Provider.of(request["provider"]))
    _serve(sock, model, float(request["grace_seconds"]), request["payload_limit"])


def enter(descriptor: int, shared: int) -> tuple[socket.socket, Any, dict[str, Any]] | None:
    """Import everything, lock this process down, and tell the other side how far that went.

    `shared` is the descriptor of the inputs' memory. None where the lockdown failed.
    """
    memory = map_read_only(shared)
    os.close(shared)
    if descriptor != SOCKET_FD:
        os.dup2(descriptor, SOCKET_FD)
        os.close(descriptor)
    sock = socket.socket(fileno=SOCKET_FD)
    seccomp, landlock = load_libraries()
    import numpy
    import onnx
    import onnxruntime

    importlib.import_module("serving.sandbox.model")
    versions = {
        "numpy": numpy.__version__,
        "onnx": onnx.__version__,
        "onnxruntime": onnxruntime.__version__,
    }
    request, _ = framing.receive(sock, 0)
    provider = Provider.of(request["provider"])
    try:
        if provider.on_device:
            level = _lock_down_on_device(seccomp, landlock, onnxruntime, provider, request)
        else:
            level = lock_down(
                seccomp,
                landlock,
                memory_bytes=request["memory_bytes"],
                cpu_seconds=request["cpu_seconds"],
                landlock_cap=request["landlock_cap"],
            )
    except WrongProvider as error:
        framing.send(sock, {"error": "provider", "detail": str(error)})
        return None
    except (OSError, RuntimeError, ValueError) as error:
        framing.send(sock, {"error": "lockdown", "detail": str(error)})
        return None
    framing.send(sock, {"level": level, "versions": versions})
    return sock, memory, request


def _lock_down_on_device(
    seccomp: Any, landlock: Any, runtime: Any, provider: Provider, request: dict[str, Any]
) -> dict[str, int | bool | str]:
    """Refuse, or run a model of our own on the device and lock down around it."""
    require_built(runtime, provider)
    device = importlib.import_module("serving.sandbox.device_lockdown")
    warm = importlib.import_module("serving.sandbox.warm_up")
    warm.load_libraries(runtime)
    first = device.begin(
        landlock,
        cpu_seconds=request["cpu_seconds"],
        landlock_cap=request["landlock_cap"],
        keep=frozenset(request["keep"]),
    )
    _KEPT.append(warm.warm_up(runtime, provider))
    second = device.close_doors(
        seccomp, memory_bytes=request["memory_bytes"], devices=device.device_files()
    )
    return {**first, **second, "device": f"{provider.kind}:{provider.device}"}


def _serve(sock: socket.socket, model: Any, grace: float, payload_limit: int) -> None:
    while True:
        try:
            request, payload = framing.receive(sock, payload_limit)
        except (framing.ClosedError, framing.ProtocolError):
            return
        except MemoryError:
            # The rest of the frame is still in the pipe: only a fresh process can go on.
            os._exit(framing.OUT_OF_MEMORY_STATUS)
        signal.setitimer(signal.ITIMER_REAL, float(request["seconds"]) + grace)
        header, parts = _answer(model, request, payload)
        signal.setitimer(signal.ITIMER_REAL, 0)
        del request, payload
        framing.send(sock, header, parts)
        del parts


def _answer(
    model: Any, request: dict[str, Any], payload: bytearray
) -> tuple[dict[str, Any], list[Any]]:
    operation = request["operation"]
    try:
        if operation == "inspect":
            return {"description": model.inspect(request["files"], payload)}, []
        if operation == "load":
            return {"session": model.load(request["files"], payload)}, []
        rows, parts = model.run(request["inputs"], request["outputs"], payload, request["slot"])
        return {"outputs": rows}, parts
    except Refusal as refusal:
        return {"error": refusal.code, "detail": refusal.detail}, []
    except MemoryError:
        return {"error": "model_out_of_memory", "detail": ""}, []
    except Exception as error:  # noqa: BLE001
        # Whatever hostile bytes provoke is one outcome: the model failed.
        text = str(error)
        if any(word in text for word in _RUNTIME_MEMORY_WORDS):
            return {"error": "model_out_of_memory", "detail": ""}, []
        if operation == "run":
            detail = text if request.get("explain") else ""
            return {"error": "model_raised", "detail": detail}, []
        if operation == "inspect":
            return {"error": "model_invalid", "detail": ""}, []
        return {"error": "model_not_loadable", "detail": text.strip().split("\n", 1)[0]}, []
