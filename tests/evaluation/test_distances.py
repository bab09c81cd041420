import numpy as np
import pytest

from diffusers_soundctm.evaluation import frechet_distance, kernel_distance


def gaussian(seed, n=400, dimensions=6, mean=0.0, scale=1.0):
    return np.random.default_rng(seed).standard_normal((n, dimensions)) * scale + mean


def with_moments(x, mean, root):
    """Affine map of x to exactly this sample mean and covariance `root @ root.T`."""
    centered = x - x.mean(0)
    white = centered @ np.linalg.inv(np.linalg.cholesky(np.cov(centered, rowvar=False))).T
    return white @ root.T + mean


def test_frechet_distance_of_given_moments_is_the_closed_form():
    x = with_moments(gaussian(0), np.zeros(6), np.diag([1.0, 2, 3, 4, 5, 6]))
    y = with_moments(gaussian(1, n=300), np.full(6, 2.0), np.diag([2.0, 2, 2, 2, 2, 2]))
    assert frechet_distance(x, y) == pytest.approx(6 * 4 + sum((a - 2) ** 2 for a in range(1, 7)), rel=1e-6)


def test_frechet_distance_with_covariances_that_do_not_commute():
    from scipy.linalg import sqrtm

    root_x, root_y = np.tril(gaussian(2, n=6)), np.tril(gaussian(3, n=6))
    covariance_x, covariance_y = root_x @ root_x.T, root_y @ root_y.T
    expected = np.trace(covariance_x + covariance_y - 2 * sqrtm(covariance_x @ covariance_y).real)
    x, y = with_moments(gaussian(4), 0, root_x), with_moments(gaussian(5), 0, root_y)
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-5)


def test_frechet_distance_to_itself_is_zero_with_fewer_samples_than_dimensions():
    x = gaussian(0, n=10, dimensions=50)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-6)


def test_kernel_distance_is_the_definition():
    x, y = gaussian(0, n=7), gaussian(1, n=5, mean=0.5)

    def kernel(a, b):
        return (a @ b / 6 + 1) ** 3

    expected = (
        np.mean([kernel(a, b) for i, a in enumerate(x) for j, b in enumerate(x) if i != j])
        + np.mean([kernel(a, b) for i, a in enumerate(y) for j, b in enumerate(y) if i != j])
        - 2 * np.mean([kernel(a, b) for a in x for b in y])
    )
    assert kernel_distance(x, y).value == pytest.approx(expected)


def test_kernel_distance_of_one_distribution_is_zero_on_average():
    values = [
        kernel_distance(gaussian(2 * i, n=60), gaussian(2 * i + 1, n=40), num_bootstrap=2).value for i in range(200)
    ]
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(200)
    assert min(values) < 0 < max(values)


def test_bootstrap_interval_covers_the_true_distance():
    # E k(a, b) for independent a ~ N(m, I), b ~ N(m', I) in D dimensions, by a large sample.
    truth = kernel_distance(gaussian(10, n=4000), gaussian(11, n=4000, mean=0.6), num_bootstrap=2).value
    covered = [
        (estimate := kernel_distance(gaussian(2 * i, n=80), gaussian(2 * i + 1, n=80, mean=0.6), num_bootstrap=300)).low
        <= truth
        <= estimate.high
        for i in range(100)
    ]
    assert 0.85 <= np.mean(covered) <= 1.0


def test_replicates_are_paired_between_sets_of_one_size():
    reference, x = gaussian(0, n=80), gaussian(1, n=100, mean=0.4)
    near, far = kernel_distance(x, reference), kernel_distance(x + 0.05, reference)
    paired = np.std(far.replicates - near.replicates)
    assert paired < 0.5 * np.std(near.replicates)
    assert str(near).endswith("(n = 100, 80)")


@pytest.mark.parametrize("distance", [frechet_distance, kernel_distance])
def test_bad_embeddings_are_named(distance):
    good = gaussian(0)
    with pytest.raises(ValueError, match="`x` has shape"):
        distance(good[0], good)
    with pytest.raises(ValueError, match="`y` has shape"):
        distance(good, good[:1])
    with pytest.raises(ValueError, match="`x` has values that are not finite"):
        distance(np.full_like(good, np.nan), good)
    with pytest.raises(ValueError, match="6 dimensions and `y` 3"):
        distance(good, good[:, :3])
