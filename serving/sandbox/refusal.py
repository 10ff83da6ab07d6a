"""How the locked process says no to a model."""


class Refusal(Exception):
    """The model is refused: a code of serving.sandbox.failures, and a detail."""

    def __init__(self, code: str, detail: str = "") -> None:
        super().__init__(code)
        self.code = code
        # protobuf gives bytes where a string of the file is not UTF-8
        self.detail = str(detail)[:400]


def first_line(error: BaseException) -> str:
    """The first line of a library's complaint, for the detail of a refusal."""
    return str(error).strip().split("\n", 1)[0][:200]
