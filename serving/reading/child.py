"""The locked process that reads the files of one request: codecs meet hostile bytes in here.

Rules
-----
1. Everything is imported, and every codec used once, before the lockdown: nothing can be opened
   after it.
2. One request, one answer, and the process ends: what a file broke in here never meets the next
   patient's.
3. A refusal is the text of an Invalid; of anything else its type alone is told.
"""

import os
import socket
from collections.abc import Mapping
from typing import Any

from serving.reading.warm_up import warm_up
from serving.sandbox import framing
from serving.sandbox.lockdown import SOCKET_FD, load_libraries, lock_down


def main(descriptor: int, shared: int) -> None:
    """Lock this process down, read one request from the socket `descriptor`, answer it, and end."""
    entered = enter(descriptor, shared)
    if entered is not None:
        answer_next(*entered)


def enter(descriptor: int, shared: int) -> tuple[socket.socket, int] | None:
    """Get ready, lock this process down, and say how far that went: socket and largest payload."""
    os.close(shared)
    if descriptor != SOCKET_FD:
        os.dup2(descriptor, SOCKET_FD)
        os.close(descriptor)
    sock = socket.socket(fileno=SOCKET_FD)
    seccomp, landlock = load_libraries()
    warm_up()
    request, _ = framing.receive(sock, 0)
    try:
        level = lock_down(
            seccomp,
            landlock,
            memory_bytes=request["memory_bytes"],
            cpu_seconds=request["cpu_seconds"],
            landlock_cap=request["landlock_cap"],
        )
    except (OSError, RuntimeError, ValueError) as error:
        framing.send(sock, {"error": "lockdown", "detail": str(error)})
        return None
    framing.send(sock, {"level": level, "versions": {}})
    return sock, request["payload_limit"]


def answer_next(sock: socket.socket, payload_limit: int) -> bool:
    """Answer one request; False where none came."""
    try:
        asked, payload = framing.receive(sock, payload_limit)
    except (framing.ClosedError, framing.ProtocolError):
        return False
    except MemoryError:
        os._exit(framing.OUT_OF_MEMORY_STATUS)
    header, parts = answer(asked, payload)
    framing.send(sock, header, parts)
    return True


def answer(asked: Mapping[str, Any], payload: bytearray) -> tuple[dict[str, Any], list[Any]]:
    """The tensors of the files in `payload`, or why there are none."""
    from registry.trust.errors import Invalid
    from serving.reading.cases import Sent, tensors_of
    from validators.contract.dicom_open import guarded
    from validators.contract.schema import Contract

    contract = Contract.model_validate(asked["contract"])
    view, sent, start = memoryview(payload), [], 0
    for case, name, size in asked["files"]:
        sent.append(Sent(view[start : start + size], case, name))
        start += size
    try:
        read = guarded(
            lambda: tensors_of(contract, sent, asked["most"]), "the images can't be read"
        )
    except Invalid as error:
        code = "input_image" if error.code == Invalid.default_code else error.code
        return {"refused": error.message, "code": code}, []
    rows = [[name, array.dtype.name, list(array.shape)] for name, array in read.tensors.items()]
    parts = [array.reshape(-1).view("uint8").data for array in read.tensors.values()]
    return {"outputs": rows, "files": read.files, "noticed": read.noticed}, parts
