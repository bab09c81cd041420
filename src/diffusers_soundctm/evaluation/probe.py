"""Class recognition by a linear probe: logistic regression on standardised embeddings of real sounds."""

import os
from pathlib import Path

import numpy as np


class LinearProbe:
    """softmax(W (x − mean) / scale + b). Fit it on real sounds of known class, ask it what generated ones are.

    Attributes:
        classes: Names of the classes, in the order of `scores`' columns.
    """

    def __init__(self, mean: np.ndarray, scale: np.ndarray, weight: np.ndarray, bias: np.ndarray, classes: list[str]):
        self.mean, self.scale, self.weight, self.bias = mean, scale, weight, bias
        self.classes = classes

    @classmethod
    def fit(cls, embeddings: np.ndarray, labels: list[str], *, regularization: float = 0.1) -> "LinearProbe":
        """Fit to embeddings (N, D) and their N labels.

        Args:
            embeddings: Embeddings (N, D).
            labels: Class of each.
            regularization: scikit-learn's `C`; smaller is stronger.

        Raises:
            ValueError: The numbers of embeddings and labels differ, or there is only one class.
        """
        from sklearn.linear_model import LogisticRegression

        if len(embeddings) != len(labels):
            raise ValueError(
                f"There are {len(embeddings)} `embeddings` but {len(labels)} `labels`; give one label each."
            )
        if len(set(labels)) < 2:
            raise ValueError(f"`labels` hold the classes {sorted(set(labels))}; a probe needs at least two.")
        mean, scale = embeddings.mean(axis=0), embeddings.std(axis=0) + 1e-6
        model = LogisticRegression(C=regularization, max_iter=300, class_weight="balanced", tol=1e-3)
        model.fit((embeddings - mean) / scale, labels)
        weight, bias = model.coef_, model.intercept_
        if len(model.classes_) == 2:  # scikit-learn keeps one row for two classes
            weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
        return cls(mean, scale, weight, bias, [str(name) for name in model.classes_])

    def scores(self, embeddings: np.ndarray) -> np.ndarray:
        """Logits (N, number of classes) of embeddings (N, D)."""
        return (embeddings - self.mean) / self.scale @ self.weight.T + self.bias

    def predict(self, embeddings: np.ndarray, k: int = 1) -> np.ndarray:
        """Names (N, k) of the `k` most likely classes, best first."""
        order = np.argsort(-self.scores(embeddings), axis=1)[:, :k]
        return np.asarray(self.classes, dtype=object)[order]

    def recognized(self, embeddings: np.ndarray, labels: list[str], k: int = 1) -> np.ndarray:
        """Whether each label is among the `k` most likely classes of its embedding: boolean (N,)."""
        return (self.predict(embeddings, k) == np.asarray(labels, dtype=object)[:, None]).any(axis=1)

    def save(self, path: str | os.PathLike) -> None:
        """Write an .npz file, complete or not at all."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp.npz")
        arrays = {"mean": self.mean, "scale": self.scale, "weight": self.weight, "bias": self.bias}
        np.savez(temporary, **arrays, classes=np.array(self.classes))
        temporary.replace(path)

    @classmethod
    def load(cls, path: str | os.PathLike) -> "LinearProbe":
        """Read what `save` wrote."""
        with np.load(path, allow_pickle=False) as stored:
            arrays = [stored[name] for name in ("mean", "scale", "weight", "bias")]
            return cls(*arrays, [str(name) for name in stored["classes"]])
