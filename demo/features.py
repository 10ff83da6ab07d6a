"""What a model of the demo looks at, as nodes of an ONNX graph.

The graph computes its features from the raw inputs, so a model's file is complete: whoever runs
it needs no feature code. Training runs the same nodes, so there is one code path, not two.
"""

import numpy as np

from demo.graph import Graph

SIZE = 64
DESCRIPTORS = 8
_CALCIFICATION = 2
_TINY = 1e-3


def shape_features(graph: Graph, image: str) -> list[str]:
    """Features of `image` [n, 1, 64, 64] in millimetres; each of the results is [n, 1].

    Log area, and how far it is above that of a sphere of about 8 and 14 mm; logs of the second
    central moments along both axes; log of the edge's length (total variation), and its ratio to
    a circle's; the share of area gained by a closing and lost by an opening with squares of 3 and
    5 mm (notches and spikes); and how far readers disagree along the edge.
    """
    do, constant = graph.do, graph.constant
    tiny = constant(_TINY)
    area = _total(graph, image)
    safe = do("Add", area, tiny)
    log_area = do("Log", safe)
    hinges = [do("Relu", do("Sub", log_area, constant(knot))) for knot in (4.0, 5.0)]
    moments = [do("Log", do("Add", moment, tiny)) for moment in _axes(graph, image, safe)]
    edge = _edge(graph, image)
    circle = do("Sqrt", do("Mul", safe, constant(4 * np.pi)))
    lost = []
    for width in (3, 5):
        closed = _shrink(graph, _grow(graph, image, width), width)
        opened = _grow(graph, _shrink(graph, image, width), width)
        for part in (do("Sub", closed, image), do("Sub", image, opened)):
            lost.append(do("Div", _total(graph, part), safe))
    doubt = _total(graph, do("Mul", image, do("Sub", constant(1.0), image)))
    return [
        log_area,
        *hinges,
        *moments,
        do("Log", do("Add", edge, tiny)),
        do("Div", edge, circle),
        *lost,
        do("Div", doubt, do("Add", edge, tiny)),
    ]


def reading_features(graph: Graph, descriptors: str) -> list[str]:
    """Features of the readers' `descriptors` [n, 8]: as they are, bent at 2 and 3, calcified."""
    do, constant = graph.do, graph.constant
    bent = [do("Relu", do("Sub", descriptors, constant(knot))) for knot in (2.0, 3.0)]
    calcification = do(
        "Slice", descriptors, constant([_CALCIFICATION]), constant([_CALCIFICATION + 1]),
        constant([1]),
    )  # fmt: skip
    absent = do("Sub", constant(6.0), calcification)  # 6 is "absent"
    calcified = do("Min", do("Mul", absent, constant(2.0)), constant(1.0))
    return [descriptors, *bent, calcified]


def _total(graph: Graph, value: str) -> str:
    """The sum over all pixels: [n, 1]."""
    flat = graph.do("Flatten", value, axis=1)
    return graph.do("ReduceSum", flat, graph.constant([1]), keepdims=1)


def _axes(graph: Graph, image: str, area: str) -> tuple[str, str]:
    """The second central moments along the major and the minor axis (mm squared)."""
    do = graph.do
    line = np.arange(SIZE) - (SIZE - 1) / 2
    x = np.broadcast_to(line, (1, 1, SIZE, SIZE))
    y = np.broadcast_to(line[:, None], (1, 1, SIZE, SIZE))

    def mean(weight: "np.ndarray[tuple[int, ...], np.dtype[np.float64]]") -> str:
        return do("Div", _total(graph, do("Mul", image, graph.constant(weight))), area)

    def product(a: str, b: str) -> str:
        return do("Mul", a, b)

    mx, my = mean(x), mean(y)
    xx = do("Sub", mean(x * x), product(mx, mx))
    yy = do("Sub", mean(y * y), product(my, my))
    xy = do("Sub", mean(x * y), product(mx, my))
    half = graph.constant(0.5)
    middle, apart = product(do("Add", xx, yy), half), product(do("Sub", xx, yy), half)
    spread = do("Sqrt", do("Add", product(apart, apart), product(xy, xy)))
    return do("Relu", do("Add", middle, spread)), do("Relu", do("Sub", middle, spread))


def _edge(graph: Graph, image: str) -> str:
    """The total variation: the length of the edge in mm, where the image is 0 or 1."""
    do = graph.do
    steps = np.array([[[[-1, 1], [0, 0]]], [[[-1, 0], [1, 0]]]])
    padded = do("Pad", image, graph.constant([0, 0, 1, 1, 0, 0, 1, 1]))
    slope = do("Conv", padded, graph.constant(steps), kernel_shape=[2, 2])
    squared = do("ReduceSum", do("Mul", slope, slope), graph.constant([1]), keepdims=1)
    return _total(graph, do("Sqrt", squared))


def _grow(graph: Graph, image: str, width: int) -> str:
    """Grey dilation with a square of `width` mm."""
    return graph.do(
        "MaxPool", image, kernel_shape=[width, width], strides=[1, 1], pads=[width // 2] * 4
    )


def _shrink(graph: Graph, image: str, width: int) -> str:
    """Grey erosion with a square of `width` mm."""
    return graph.do("Neg", _grow(graph, graph.do("Neg", image), width))
