"""The two SMEs' models: small networks, trained in seconds on the development half.

    python -m demo.models a development/ model.onnx

>>> trained = train("a", read_development(folder))
>>> trained.onnx()              # takes the contract's inputs, gives `probability`

Rules
-----
1. SME A looks at shape and at the readers' descriptors, SME B at shape alone. Everything else is
   the same: features, network, training.
2. A model is eight networks of 16 units on standardised features, each fitted to a resample of
   the patients, and their mean: smooth, so batches of any size give the same answer.
3. Nothing is random but by the seed, and one thread computes: the same data, the same model.
"""

import os
import sys
import warnings
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from demo.development import Development, read_development

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

Sme = Literal["a", "b"]
NETWORKS = 8
UNITS = 16
PENALTY = 10.0
ITERATIONS = 200
Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Network:
    """One hidden layer of rectified units and a logistic output."""

    hidden: Array
    hidden_bias: Array
    output: Array
    output_bias: float


@dataclass(frozen=True, eq=False)
class Trained:
    """A trained model. `predict` is what the ONNX file must give, computed without it."""

    sme: Sme
    mean: Array
    scale: Array
    networks: tuple[Network, ...]

    def predict(self, image: NDArray[np.float32], descriptors: NDArray[np.float32]) -> Array:
        """The probability of each case, [n]."""
        return self.of_features(features(self.sme, image, descriptors))

    def of_features(self, found: Array) -> Array:
        """The same from features that were computed already."""
        from scipy.special import expit

        x = (found - self.mean) / self.scale
        scores = [
            np.maximum(x @ net.hidden + net.hidden_bias, 0) @ net.output + net.output_bias
            for net in self.networks
        ]
        return np.asarray(np.mean(expit(scores), axis=0), dtype=np.float64)

    def onnx(self) -> bytes:
        """The model file: raw inputs in, `probability` float32 [n, 1] out."""
        from demo.graph import Graph

        graph = Graph()
        each = self.probabilities(graph, feature_nodes(graph, self.sme))
        graph.do("ReduceMean", each, axes=[1], keepdims=1, name="probability")
        return bytes(graph.model(INPUTS, {"probability": [1]}).SerializeToString())

    def probabilities(self, graph: Any, joined: str) -> str:
        """Nodes from the features to one probability a network, [n, networks]."""
        do, constant = graph.do, graph.constant
        x = do("Mul", do("Sub", joined, constant(self.mean)), constant(1 / self.scale))
        hidden = do(
            "Gemm",
            x,
            constant(np.concatenate([net.hidden for net in self.networks], axis=1)),
            constant(np.concatenate([net.hidden_bias for net in self.networks])),
        )
        block = np.zeros((NETWORKS * UNITS, NETWORKS))
        for number, net in enumerate(self.networks):
            block[number * UNITS : (number + 1) * UNITS, number] = net.output
        each = do(
            "Gemm",
            do("Relu", hidden),
            constant(block),
            constant(np.array([net.output_bias for net in self.networks])),
        )
        return str(do("Sigmoid", each))


INPUTS = {"image": [1, 64, 64], "descriptors": [8]}


def train(sme: Sme, half: Development, seed: int = 0) -> Trained:
    """Fit the model of SME `a` (shape and reading) or `b` (shape alone)."""
    return fit(sme, features(sme, half.image, half.descriptors), half.reference, half.patient, seed)


def fit(
    sme: Sme, x: Array, reference: NDArray[np.int8], patient: NDArray[np.int64], seed: int = 0
) -> Trained:
    """Fit to features that were computed already: [n, features]."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    mean, scale = x.mean(axis=0), x.std(axis=0) + 1e-6
    standard = (x - mean) / scale
    networks = []
    with threadpool_limits(1), warnings.catch_warnings():
        # To stop after so many steps is part of the recipe: it is a penalty too.
        warnings.simplefilter("ignore", ConvergenceWarning)
        for number in range(NETWORKS):
            rows = _resampled(patient, np.random.default_rng([seed, number]))
            found = MLPClassifier(
                (UNITS,), alpha=PENALTY, solver="lbfgs", max_iter=ITERATIONS, random_state=number
            ).fit(standard[rows], reference[rows])
            (hidden, output), (hidden_bias, output_bias) = found.coefs_, found.intercepts_
            networks.append(Network(hidden, hidden_bias, output[:, 0], float(output_bias[0])))
    return Trained(sme, mean, scale, tuple(networks))


def features(sme: Sme, image: NDArray[np.float32], descriptors: NDArray[np.float32]) -> Array:
    """The features of every case, [n, features], by the nodes that the model file holds."""
    (found,) = _feature_session(sme).run(None, {"image": image, "descriptors": descriptors})
    return np.asarray(found, dtype=np.float64)


@cache
def _feature_session(sme: Sme) -> Any:
    import onnxruntime

    from demo.graph import Graph

    graph = Graph()
    graph.do("Identity", feature_nodes(graph, sme), name="features")
    count = 12 + (25 if sme == "a" else 0)
    model = graph.model(INPUTS, {"features": [count]})
    return onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )


def feature_nodes(graph: Any, sme: Sme) -> str:
    """Nodes from the raw inputs to the features, [n, features]."""
    from demo.features import reading_features, shape_features

    found = shape_features(graph, "image")
    if sme == "a":
        found += reading_features(graph, "descriptors")
    return str(graph.do("Concat", *found, axis=1))


def _resampled(patient: NDArray[np.int64], random: np.random.Generator) -> NDArray[np.int64]:
    """Rows of as many patients as there are, drawn with replacement: all cases of each."""
    rows_of = [np.flatnonzero(patient == one) for one in np.unique(patient)]
    drawn = random.integers(0, len(rows_of), len(rows_of))
    return np.concatenate([rows_of[one] for one in drawn])


if __name__ == "__main__":
    who, folder, out = sys.argv[1:4]
    if who not in ("a", "b"):
        sys.exit("the first argument names the SME: a or b")
    Path(out).write_bytes(train("a" if who == "a" else "b", read_development(Path(folder))).onnx())
