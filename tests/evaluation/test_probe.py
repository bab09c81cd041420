import numpy as np
import pytest

from diffusers_soundctm.evaluation import LinearProbe

NAMES = ["bell", "dog", "rain"]


def blobs(n=40, seed=0, names=NAMES):
    generator = np.random.default_rng(seed)
    centers = np.random.default_rng(100).standard_normal((len(names), 8)) * 4
    x = np.concatenate([generator.standard_normal((n, 8)) + center for center in centers])
    return x * 1000 + 5, [name for name in names for _ in range(n)]


@pytest.mark.parametrize("names", [NAMES, NAMES[:2]])
def test_probe_recognizes_separable_classes(names):
    probe = LinearProbe.fit(*blobs(names=names))
    x, labels = blobs(seed=1, names=names)
    assert probe.recognized(x, labels).mean() > 0.97
    assert probe.predict(x).shape == (len(x), 1)
    assert probe.recognized(x, labels, k=len(names)).all()


def test_a_class_with_few_examples_is_still_recognized():
    x, labels = blobs(n=200)
    keep = np.r_[0:200, 200:400, 400:405]
    probe = LinearProbe.fit(x[keep], [labels[i] for i in keep])
    assert probe.recognized(x[400:], labels[400:]).mean() > 0.9


def test_both_sounds_of_an_unseen_pair_are_recognized():
    """Embeddings of mixtures half-way: of four classes, two pairs were never heard together."""
    names = ["bell", "dog", "rain", "wind"]
    pairs = [("bell", "dog"), ("dog", "rain"), ("rain", "wind"), ("bell", "wind")]
    unseen = [("bell", "rain"), ("dog", "wind")]
    x, labels = blobs(names=names)
    x = x.reshape(len(names), -1, x.shape[1])

    def mixed(pairs):
        return np.concatenate([(x[names.index(a)] + x[names.index(b)]) / 2 for a, b in pairs])

    seen = np.concatenate([*x, mixed(pairs)])
    probe = LinearProbe.fit_each(seen, [[name] for name in labels] + [list(pair) for pair in pairs for _ in range(40)])
    found = probe.predict(mixed(unseen), k=2)
    both = [set(best) == set(pair) for best, pair in zip(found, np.repeat(unseen, 40, axis=0), strict=True)]
    assert np.mean(both) > 0.9
    assert probe.recognized(np.concatenate(x), labels).mean() > 0.97


def test_saved_probe_scores_the_same(tmp_path):
    x, labels = blobs()
    probe = LinearProbe.fit(x, labels)
    probe.save(tmp_path / "new" / "probe.npz")
    loaded = LinearProbe.load(tmp_path / "new" / "probe.npz")
    assert loaded.classes == NAMES
    np.testing.assert_array_equal(loaded.scores(x), probe.scores(x))
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["probe.npz"]


def test_bad_arguments():
    x, labels = blobs()
    with pytest.raises(ValueError, match="120 `embeddings` but 119 `labels`"):
        LinearProbe.fit(x, labels[1:])
    with pytest.raises(ValueError, match="at least two"):
        LinearProbe.fit(x, ["dog"] * len(x))
    with pytest.raises(ValueError, match="120 `embeddings` but 119 `labels`"):
        LinearProbe.fit_each(x, [[label] for label in labels[1:]])
    with pytest.raises(ValueError, match=r"\['dog'\]; pass at least two"):
        LinearProbe.fit_each(x, [["dog"]] * len(x))
    with pytest.raises(ValueError, match="All `labels` contain 'dog'"):
        LinearProbe.fit_each(x, [["dog", "rain"], *[["dog"]] * (len(x) - 1)])
    with pytest.raises(ValueError, match="pass a list of class names"):
        LinearProbe.fit_each(x, labels)
