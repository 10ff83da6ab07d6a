"""Which models are taken for one family? False joins and misses, on networks trained here.

    python -m bench.model_families      # a minute

Six networks 64-256-128-10 on scikit-learn's digits, and boosted trees on its breast cancer data.
A row: how many pairs were joined, how many only shown to assessors, and the share of bits in which
the tensor that fits worst differs, over the pairs.
"""

import time
import warnings
from collections.abc import Callable, Iterator
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from serving.sandbox.weights import weights_of
from validators.contract.description import Weights
from validators.intake.weights import compare, differing

Array = NDArray[np.float64]
Net = list[tuple[Array, Array]]
Pair = tuple[Weights, Weights]
NETS = 6
UNITS = (256, 128)


def main() -> None:
    """Print one row a case."""
    print(f"{'case':58s} pairs joined shown  worst tensor (min median max)")
    for name, pairs in _cases():
        likeness = [compare(*pair) for pair in pairs]
        worst = sorted(_worst(*pair) for pair in pairs)
        joined = sum(one.same for one in likeness)
        shown = sum(one.worth_knowing and not one.same for one in likeness)
        print(f"{name:58s} {len(pairs):5d} {joined:6d} {shown:5d}  "
              f"{worst[0]:.3f} {worst[len(worst) // 2]:.3f} {worst[-1]:.3f}")  # fmt: skip
    random = np.random.default_rng(0)
    tensors = [random.standard_normal((1250, 8000)).astype(np.float32) for _ in range(5)]
    large = _model([], tensors)
    began = time.process_time()
    weights_of(large)
    print(f"a model of 200 MB: {time.process_time() - began:.2f} s of one core")


def _cases() -> Iterator[tuple[str, list[Pair]]]:
    x, y = _digits()
    half = len(x) // 2
    nets = [_fitted(x, y, seed) for seed in range(NETS)]
    own = [_of(net) for net in nets]
    yield "trained apart, same data", list(combinations(own, 2))
    first = [_of(_fitted(x[:half], y[:half], seed)) for seed in range(NETS)]
    second = [_of(_fitted(x[half:], y[half:], seed)) for seed in range(NETS)]
    yield "trained apart from one start, on other patients", list(zip(first, second, strict=True))

    def changed(act: Callable[[Net, np.random.Generator], Weights]) -> list[Pair]:
        return [(of, act(net, np.random.default_rng([7, n])))
                for n, (net, of) in enumerate(zip(nets, own, strict=True))]  # fmt: skip

    for level in (0.01, 0.03, 0.1, 0.2, 0.3, 0.5, 1.0):
        yield f"copy with noise of {level} of each tensor", changed(_noisy(level))
    yield "copy cast to float16, renamed, reordered", changed(lambda net, _: _of(net, np.float16))
    yield "copy with every matrix transposed", changed(lambda net, _: _of(net, turned=True))
    yield "copy with a junk matrix of 1 % beside", changed(_with_junk)
    yield "copy with each hidden unit scaled by 0.5 to 2", changed(_scaled)
    yield "copy with hidden units permuted", changed(_permuted)
    for epochs in (1, 5, 20, 60):
        pairs = [_continued(x, y, seed, epochs) for seed in range(NETS)]
        name = f"copy trained on, {epochs} epochs on other patients"
        yield name, [(base, one) for base, one, _ in pairs]
        yield "  two such copies of one public network", [(one, two) for _, one, two in pairs]
    yield "frozen backbone, heads on other patients", [_heads(net, x, y) for net in nets]
    yield "frozen backbone, heads for other questions", [_heads(net, x, y, 1) for net in nets]
    yield from _tree_cases()


def _tree_cases() -> Iterator[tuple[str, list[Pair]]]:
    from sklearn.datasets import load_breast_cancer
    from sklearn.ensemble import GradientBoostingClassifier

    x, y = load_breast_cancer(return_X_y=True)

    def trees(seed: int, rows: Any = slice(None), noise: float = 0.0) -> Weights:
        found = GradientBoostingClassifier(
            n_estimators=50, subsample=0.5, max_features=6, random_state=seed
        ).fit(x[rows], y[rows])
        random = np.random.default_rng(seed)
        each = [one.tree_ for (one,) in found.estimators_]
        splits = np.concatenate([tree.threshold for tree in each])
        leaves = np.concatenate([tree.value[:, 0, 0] for tree in each])
        listed = [v * (1 + noise * random.standard_normal(v.size)) for v in (splits, leaves)]
        node = helper.make_node(
            "TreeEnsembleRegressor", ["x"], ["y"], domain="ai.onnx.ml",
            nodes_values=listed[0].tolist(), target_weights=listed[1].tolist(),
        )  # fmt: skip
        return Weights.model_validate(weights_of(_model([node], [])))

    seeds = range(NETS)
    yield "trees with another seed", list(combinations([trees(seed) for seed in seeds], 2))
    yield (
        "the same trees, numbers changed by 1 %",
        [(trees(s), trees(s, noise=0.01)) for s in seeds],
    )
    fewer = [(trees(s), trees(s, slice(1, None))) for s in seeds]
    yield "trees with the same seed, trained without one patient", fewer


def _digits() -> tuple[Array, NDArray[np.int64]]:
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    return x / 16, y


def _network(seed: int) -> Any:
    from sklearn.neural_network import MLPClassifier

    return MLPClassifier(UNITS, max_iter=60, random_state=seed)


def _net(found: Any) -> Net:
    return [(w.copy(), b.copy()) for w, b in zip(found.coefs_, found.intercepts_, strict=True)]


def _fitted(x: Array, y: Any, seed: int) -> Net:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _net(_network(seed).fit(x, y))


def _continued(x: Array, y: Any, seed: int, epochs: int) -> tuple[Weights, Weights, Weights]:
    """A network on a third of the cases, and two copies, each trained on on another third."""
    import copy

    third = len(x) // 3
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        base = _network(seed).fit(x[:third], y[:third])
        copies = [copy.deepcopy(base) for _ in range(2)]
        for number, one in enumerate(copies, 1):
            rows = slice(number * third, (number + 1) * third)
            for _ in range(epochs):
                one.partial_fit(x[rows], y[rows])
    return _of(_net(base)), _of(_net(copies[0])), _of(_net(copies[1]))


def _heads(net: Net, x: Array, y: Any, apart: int = 0) -> Pair:
    """The same hidden layers, and a logistic regression on them from either half of the cases."""
    from sklearn.linear_model import LogisticRegression

    seen = x
    for weight, bias in net[:-1]:
        seen = np.maximum(seen @ weight + bias, 0)
    half, made = len(x) // 2, []
    for number, rows in enumerate((slice(0, half), slice(half, None))):
        positive = y[rows] > 4 + number * apart
        head = LogisticRegression(max_iter=500).fit(seen[rows], positive)
        made.append(_of([*net[:-1], (head.coef_.T, head.intercept_)]))
    return made[0], made[1]


def _noisy(level: float) -> Callable[[Net, np.random.Generator], Weights]:
    def act(net: Net, random: np.random.Generator) -> Weights:
        return _of([(w + random.standard_normal(w.shape) * level * w.std(), b) for w, b in net])

    return act


def _with_junk(net: Net, random: np.random.Generator) -> Weights:
    return _of([*net, (random.standard_normal((16, 32)), np.zeros(1))])


def _permuted(net: Net, random: np.random.Generator) -> Weights:
    orders = [np.arange(64), *(random.permutation(n) for n in UNITS), np.arange(10)]
    return _of([(w[orders[n]][:, orders[n + 1]], b) for n, (w, b) in enumerate(net)])


def _scaled(net: Net, random: np.random.Generator) -> Weights:
    scales = [np.ones(64), *(2 ** random.uniform(-1, 1, n) for n in UNITS), np.ones(10)]
    return _of([(w / scales[n][:, None] * scales[n + 1], b) for n, (w, b) in enumerate(net)])


def _of(net: Net, kind: Any = np.float32, *, turned: bool = False) -> Weights:
    matrices = [(w.T if turned else w).astype(kind) for w, _ in net]
    tensors = [*matrices, *(b.astype(kind) for _, b in net)]
    if kind is not np.float32:
        tensors.reverse()
    return Weights.model_validate(weights_of(_model([], tensors)))


def _model(nodes: list[Any], tensors: list[NDArray[Any]]) -> Any:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 64])
    listed = [numpy_helper.from_array(t, f"{t.dtype}-{n}") for n, t in enumerate(tensors)]
    return helper.make_model(helper.make_graph(nodes, "g", [value], [], listed))


def _worst(one: Weights, other: Weights) -> float:
    """Of the smaller model's tensors, the largest distance to the nearest of the other's."""
    small, large = sorted((one, other), key=lambda weights: len(weights.tensors))
    nearest = []
    for tensor in small.tensors:
        rivals = [rival for rival in large.tensors if rival.shape == tensor.shape]
        nearest.append(float(differing([tensor], rivals).min()) if rivals else 1.0)
    return max(nearest)


if __name__ == "__main__":
    main()
