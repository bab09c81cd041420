import numpy as np
import pytest

from diffusers_soundctm.evaluation import LinearProbe

NAMES = ["bell", "dog", "rain"]


def blobs(n=40, seed=0, names=NAMES):
    generator = np.random.default_rng(seed)
    centres = np.random.default_rng(100).standard_normal((len(names), 8)) * 4
    x = np.concatenate([generator.standard_normal((n, 8)) + centre for centre in centres])
    return x * 1000 + 5, [name for name in names for _ in range(n)]


@pytest.mark.parametrize("names", [NAMES, NAMES[:2]])
def test_probe_recognises_separable_classes(names):
    probe = LinearProbe.fit(*blobs(names=names))
    x, labels = blobs(seed=1, names=names)
    assert probe.recognized(x, labels).mean() > 0.97
    assert probe.predict(x).shape == (len(x), 1)
    assert probe.recognized(x, labels, k=len(names)).all()


def test_a_class_with_few_examples_is_still_recognised():
    x, labels = blobs(n=200)
    keep = np.r_[0:200, 200:400, 400:405]
    probe = LinearProbe.fit(x[keep], [labels[i] for i in keep])
    assert probe.recognized(x[400:], labels[400:]).mean() > 0.9


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
