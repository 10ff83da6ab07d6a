"""The reading process, but for many requests: a test reads many files behind one lock."""

from serving.reading.child import answer_next, enter


def main(descriptor: int, shared: int) -> None:
    entered = enter(descriptor, shared)
    while entered is not None and answer_next(*entered):
        continue
