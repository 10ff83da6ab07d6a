"""May this model be run at all: what lies on disk, and what its contract asks for.

    files = files_from_directory(path)         # {"model.onnx": bytes, …}, or Refused
    description = sandbox.inspect(files)       # inside the sandbox, called by the pipeline
    decide(description, contract)              # None, or Refused with one sentence

Rules
-----
1. Nothing here parses a model; that happens in the sandbox.
2. A refusal has a code, names what was found and what is expected, and says what to do.
"""

from validators.intake.decision import decide
from validators.intake.directory import files_from_directory

__all__ = ["decide", "files_from_directory"]
