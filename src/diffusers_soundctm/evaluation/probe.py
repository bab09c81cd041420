"""Class recognition by a linear probe: logistic regression on standardized embeddings of real sounds."""

import os
from collections.abc import Collection, Sized
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..files import atomic

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression


class LinearProbe:
    """A linear classifier of embeddings with the logits W (x − mean) / scale + b.

    Fit it on real sounds of known classes, then classify generated ones.

    Attributes:
        classes: names of the classes, in the order of the columns of `scores`.
    """

    def __init__(self, mean: np.ndarray, scale: np.ndarray, weight: np.ndarray, bias: np.ndarray, classes: list[str]):
        self.mean, self.scale, self.weight, self.bias = mean, scale, weight, bias
        self.classes = classes

    @classmethod
    def fit(cls, embeddings: np.ndarray, labels: list[str], *, regularization: float = 0.1) -> "LinearProbe":
        """Fit a probe that chooses one class per sound.

        Args:
            embeddings: (N, D).
            labels: class of each.
            regularization: scikit-learn's `C`; smaller values regularize more.

        Raises:
            ValueError: the numbers of embeddings and labels differ, or there is only one class.
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
        """Fit one binary probe per class, for sounds that belong to one class or to several.

        The classes of a mixture do not compete with each other.

        Args:
            embeddings: (N, D).
            labels: classes of each.
            regularization: scikit-learn's `C`; smaller values regularize more.

        Raises:
            ValueError: the numbers of embeddings and labels differ, a label is not a list, there is only one class, or
                all sounds belong to the same class.
        """
        if any(isinstance(names, str) for names in labels):
            raise ValueError("`labels` holds a string; pass a list of class names per sound, or use `fit`.")
        classes = sorted({name for names in labels for name in names})
        _check(embeddings, labels, classes)
        everywhere = [name for name in classes if all(name in names for names in labels)]
        if everywhere:
            raise ValueError(f"All `labels` contain {everywhere[0]!r}; add sounds without it.")
        mean, scale = embeddings.mean(axis=0), embeddings.std(axis=0) + 1e-6
        standardized = (embeddings - mean) / scale
        models = [
            _regression(regularization).fit(standardized, [name in names for names in labels]) for name in classes
        ]
        weight, bias = (np.concatenate([getattr(model, part) for model in models]) for part in ("coef_", "intercept_"))
        return cls(mean, scale, weight, bias, classes)

    def scores(self, embeddings: np.ndarray) -> np.ndarray:
        """Return the logits (N, number of classes) of embeddings (N, D)."""
        return (embeddings - self.mean) / self.scale @ self.weight.T + self.bias

    def predict(self, embeddings: np.ndarray, k: int = 1) -> np.ndarray:
        """Return the names (N, k) of the `k` most likely classes, best first."""
        order = np.argsort(-self.scores(embeddings), axis=1)[:, :k]
        return np.asarray(self.classes, dtype=object)[order]

    def recognized(self, embeddings: np.ndarray, labels: list[str], k: int = 1) -> np.ndarray:
        """Return whether each label is among the `k` most likely classes of its embedding, as booleans (N,)."""
        return (self.predict(embeddings, k) == np.asarray(labels, dtype=object)[:, None]).any(axis=1)

    def save(self, path: str | os.PathLike) -> None:
        """Write an .npz file completely or not at all. Missing folders are made."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        arrays = {"mean": self.mean, "scale": self.scale, "weight": self.weight, "bias": self.bias}
        with atomic(path) as temporary, temporary.open("wb") as file:
            np.savez(file, **arrays, classes=np.array(self.classes))

    @classmethod
    def load(cls, path: str | os.PathLike) -> "LinearProbe":
        """Read a probe that `save` wrote."""
        with np.load(path, allow_pickle=False) as stored:
            arrays = [stored[name] for name in ("mean", "scale", "weight", "bias")]
            return cls(*arrays, [str(name) for name in stored["classes"]])


def _check(embeddings: np.ndarray, labels: Sized, classes: Collection[str]) -> None:
    if len(embeddings) != len(labels):
        raise ValueError(
            f"There are {len(embeddings)} `embeddings` but {len(labels)} `labels`; pass one label per embedding."
        )
    if len(classes) < 2:
        raise ValueError(f"`labels` has the classes {sorted(classes)}; pass at least two classes.")


def _regression(regularization: float) -> "LogisticRegression":
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=regularization, max_iter=300, class_weight="balanced", tol=1e-3)
