"""Class recognition by a linear probe: logistic regression on standardised embeddings of real sounds."""

import os
from collections.abc import Collection, Sized
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression


class LinearProbe:
    """Logits W (x − mean) / scale + b. Fit it on real sounds of known class, ask it what generated ones are.

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
        _check(embeddings, labels, set(labels))
        mean, scale = embeddings.mean(axis=0), embeddings.std(axis=0) + 1e-6
        model = _regression(regularization).fit((embeddings - mean) / scale, labels)
        weight, bias = model.coef_, model.intercept_
        if len(model.classes_) == 2:  # scikit-learn keeps one row for two classes
            weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
        return cls(mean, scale, weight, bias, [str(name) for name in model.classes_])

    @classmethod
    def fit_each(cls, embeddings: np.ndarray, labels: list[list[str]], *, regularization: float = 0.1) -> "LinearProbe":
        """Fit to embeddings (N, D) of sounds that each are of one class or several at once.

        Every class has a yes-or-no probe of its own, so the classes of a mixture do not compete.

        Args:
            embeddings: Embeddings (N, D).
            labels: Classes of each.
            regularization: scikit-learn's `C`; smaller is stronger.

        Raises:
            ValueError: The numbers of embeddings and labels differ, a label is no list, there is only one class, or all
                sounds are of one.
        """
        if any(isinstance(names, str) for names in labels):
            raise ValueError("`labels` hold text; give a list of class names for each sound, or use `fit`.")
        classes = sorted({name for names in labels for name in names})
        _check(embeddings, labels, classes)
        everywhere = [name for name in classes if all(name in names for names in labels)]
        if everywhere:
            raise ValueError(f"All `labels` hold {everywhere[0]!r}; a probe needs sounds without it, too.")
        mean, scale = embeddings.mean(axis=0), embeddings.std(axis=0) + 1e-6
        standardised = (embeddings - mean) / scale
        models = [
            _regression(regularization).fit(standardised, [name in names for names in labels]) for name in classes
        ]
        weight, bias = (np.concatenate([getattr(model, part) for model in models]) for part in ("coef_", "intercept_"))
        return cls(mean, scale, weight, bias, classes)

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


def _check(embeddings: np.ndarray, labels: Sized, classes: Collection[str]) -> None:
    if len(embeddings) != len(labels):
        raise ValueError(f"There are {len(embeddings)} `embeddings` but {len(labels)} `labels`; give one label each.")
    if len(classes) < 2:
        raise ValueError(f"`labels` hold the classes {sorted(classes)}; a probe needs at least two.")


def _regression(regularization: float) -> "LogisticRegression":
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=regularization, max_iter=300, class_weight="balanced", tol=1e-3)
