"""SME A's second model, made after "not pass" and from the development half alone.

    python -m demo.second_model        # prints what the choice was made by

Rules
-----
1. The criterion was written down first: the lowest out-of-fold log loss on the development half,
   among the networks of `demo.models`, boosted trees on the same features, and their mean.
2. The mean of both has it. Nothing of the locked half enters: all that an SME knows of it is that
   the first model did not pass.
3. The threshold and the goals are the protocol's and stay.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from demo.development import Development, installed_development
from demo.models import INPUTS, Array, Trained, feature_nodes, features, fit

TREES, DEPTH, RATE = 150, 3, 0.05


@dataclass(frozen=True, eq=False)
class Second:
    """Half the networks' mean, half the trees' probability."""

    networks: Trained
    trees: Any

    def of_features(self, found: Array) -> Array:
        """The probability from features that were computed already, [n]."""
        of_trees = self.trees.predict_proba(found.astype(np.float32))[:, 1]
        return np.asarray((self.networks.of_features(found) + of_trees) / 2, dtype=np.float64)

    def onnx(self) -> bytes:
        """The model file: raw inputs in, `probability` float32 [n, 1] out."""
        from demo.graph import Graph

        graph = Graph()
        joined = feature_nodes(graph, "a")
        each = self.networks.probabilities(graph, joined)
        of_networks = graph.do("ReduceMean", each, axes=[1], keepdims=1)
        logit = graph.do(
            "TreeEnsembleRegressor", joined, domain="ai.onnx.ml", **_ensemble(self.trees)
        )
        both = graph.do("Add", of_networks, graph.do("Sigmoid", logit))
        graph.do("Mul", both, graph.constant(0.5), name="probability")
        return bytes(graph.model(INPUTS, {"probability": [1]}).SerializeToString())


def train_second(half: Development, seed: int = 0) -> Second:
    """Fit both parts to the development half; a few seconds on one core."""
    x = features("a", half.image, half.descriptors)
    return fit_second(x, half.reference, half.patient, seed)


def fit_second(
    x: Array, reference: NDArray[np.int8], patient: NDArray[np.int64], seed: int = 0
) -> Second:
    """Fit to features that were computed already: [n, features]."""
    return Second(fit("a", x, reference, patient, seed), fit_trees(x, reference, seed))


def fit_trees(x: Array, reference: NDArray[np.int8], seed: int) -> Any:
    """Boosted trees (Friedman 2002), each on half of the cases, six features a split."""
    from sklearn.ensemble import GradientBoostingClassifier

    return GradientBoostingClassifier(
        n_estimators=TREES, max_depth=DEPTH, learning_rate=RATE, subsample=0.5,
        min_samples_leaf=10, max_features=6, random_state=seed,
    ).fit(x.astype(np.float32), reference)  # fmt: skip


def _ensemble(trees: Any) -> dict[str, Any]:
    """The attributes of ai.onnx.ml's TreeEnsembleRegressor that give the trees' logit."""
    nodes: dict[str, list[Any]] = {
        name: []
        for name in (
            "treeids",
            "nodeids",
            "featureids",
            "values",
            "modes",
            "truenodeids",
            "falsenodeids",
        )
    }
    leaves: dict[str, list[Any]] = {name: [] for name in ("treeids", "nodeids", "ids", "weights")}
    for number, (regressor,) in enumerate(trees.estimators_):
        tree = regressor.tree_
        for node in range(tree.node_count):
            leaf = tree.children_left[node] < 0
            row = (
                number,
                node,
                0 if leaf else int(tree.feature[node]),
                0.0 if leaf else _at_most(tree.threshold[node]),
                "LEAF" if leaf else "BRANCH_LEQ",
                0 if leaf else int(tree.children_left[node]),
                0 if leaf else int(tree.children_right[node]),
            )
            for column, value in zip(nodes.values(), row, strict=True):
                column.append(value)
            if leaf:
                weight = float(trees.learning_rate * tree.value[node, 0, 0])
                for column, value in zip(leaves.values(), (number, node, 0, weight), strict=True):
                    column.append(value)
    prior = trees.init_.class_prior_[1]
    return {
        **{f"nodes_{name}": column for name, column in nodes.items()},
        **{f"target_{name}": column for name, column in leaves.items()},
        "n_targets": 1,
        "base_values": [float(np.log(prior / (1 - prior)))],
        "aggregate_function": "SUM",
        "post_transform": "NONE",
    }  # fmt: skip


def _at_most(threshold: float) -> float:
    """The largest float32 not above a threshold: for float32 features the split is the same."""
    near = np.float32(threshold)
    below = np.nextafter(near, np.float32(-np.inf))
    return float(near if float(near) <= float(threshold) else below)


def main() -> None:
    """Print the out-of-fold log loss of the three candidates, over three ways to fold."""
    from sklearn.metrics import log_loss
    from sklearn.model_selection import StratifiedGroupKFold

    half = installed_development()
    x, y, patient = features("a", half.image, half.descriptors), half.reference, half.patient
    candidates = {
        "networks (the first model)": partial(fit, "a"),
        "trees": None,
        "the mean of both": fit_second,
    }
    losses: dict[str, list[float]] = {name: [] for name in candidates}
    for seed in range(3):
        folds = StratifiedGroupKFold(5, shuffle=True, random_state=seed)
        scores = {name: np.empty(len(y)) for name in candidates}
        for seen, unseen in folds.split(x, y, patient):
            for name, recipe in candidates.items():
                if recipe is None:
                    trees = fit_trees(x[seen], y[seen], seed)
                    found = trees.predict_proba(x[unseen].astype(np.float32))[:, 1]
                else:
                    found = recipe(x[seen], y[seen], patient[seen], seed).of_features(x[unseen])
                scores[name][unseen] = found
        for name, score in scores.items():
            losses[name].append(float(log_loss(y, score)))
    for name, found_losses in losses.items():
        print(f"{name:30s} out-of-fold log loss {np.mean(found_losses):.4f}")


if __name__ == "__main__":
    main()
