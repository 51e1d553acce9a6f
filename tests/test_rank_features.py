import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy.stats import ortho_group

from replicate.rank import features
from replicate.rank.features import clid, coherence, lidar, lidar_of_sums, lidar_sums, self_cluster, twonn

RNG = np.random.default_rng(0)
GAUSSIAN = RNG.normal(size=(300, 40)) + 0.3
ROTATION = ortho_group.rvs(40, random_state=0)


def two_covariances(n=400, q=3, width=6, between=(4.0, 4.0, 4.0, 0, 0, 0), noise=0.0):
    """Views whose sample means have exactly this diagonal covariance and whose deviations from them have noise^2 I."""
    rng = np.random.default_rng(1)
    means = np.linalg.qr(np.c_[np.ones(n), rng.normal(size=(n, width))])[0][:, 1:]  # orthonormal and centred
    means *= np.sqrt((n - 1) * np.array(between))
    deviations = rng.normal(size=(q, n, width))
    deviations -= deviations.mean(0)
    flat = deviations.reshape(-1, width)
    scatter = flat.T @ flat / (n * (q - 1))
    return means + noise * deviations @ np.linalg.inv(np.linalg.cholesky(scatter)).T


# SelfCluster


def test_self_cluster_of_orthogonal_and_equal_rows():
    assert self_cluster(np.eye(10)) == pytest.approx(-1 / 9, rel=1e-12)
    assert self_cluster(np.eye(10)[:4]) == pytest.approx(-1 / 9, rel=1e-12)
    assert self_cluster(np.r_[np.eye(10), -np.eye(10)]) == pytest.approx(-1 / 19, rel=1e-12)  # a tight frame
    assert self_cluster(np.outer([1, 2, -3], np.arange(1, 6))) == pytest.approx(1, rel=1e-12)


def test_self_cluster_of_random_directions_is_zero():
    n, k = 3000, 50
    spread = 2**0.5 / n  # of the mean of cos^2 over pairs, against (1 - 1/K) and with variance about 2/K^2 a pair
    assert abs(self_cluster(np.random.default_rng(2).normal(size=(n, k)))) < 5 * spread / k


@pytest.mark.parametrize("n", [5, 300, 2500])
def test_self_cluster_is_the_formula_on_the_n_by_n_matrix(n):
    rows = np.random.default_rng(3).gamma(1.0, size=(n, 30))
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    random = n + n * (n - 1) / 30
    assert self_cluster(rows) == pytest.approx((np.sum((unit @ unit.T) ** 2) - random) / (n**2 - random), rel=1e-9)


def test_self_cluster_leaves_out_rows_of_zeros():
    value, detail = features.self_cluster_row(np.r_[np.zeros((7, 40)), GAUSSIAN])
    assert value == pytest.approx(self_cluster(GAUSSIAN), rel=1e-12)
    assert "zero_rows=7" in detail and "n=307" in detail and "k=40" in detail


def test_self_cluster_is_not_defined_for_one_direction_or_one_dimension():
    for rows in (np.ones((1, 5)), np.zeros((4, 5)), np.eye(5)[:3] * [[1], [0], [0]], np.ones((5, 1))):
        assert np.isnan(self_cluster(rows))


# coherence


def test_coherence_of_known_matrices():
    assert coherence(np.tile(np.eye(5), (60, 1))) == pytest.approx(1, rel=1e-9)  # every sample as much as any other
    assert coherence(np.ones((300, 7))) == pytest.approx(1, rel=1e-9)  # rank one: divided by the rank, not by 7
    alone = np.zeros((101, 4))
    alone[:100, 0], alone[100, 1] = 1, 1e-3
    assert coherence(alone) == pytest.approx(101 / 2, rel=1e-9)  # the last sample alone spans a direction
    assert coherence(GAUSSIAN[:20]) == pytest.approx(1, rel=1e-9)  # no more samples than directions
    assert np.isnan(coherence(np.zeros((9, 4)))) and np.isnan(coherence(np.zeros((3, 4))))


@pytest.mark.parametrize("n, decay", [(30, 0), (60, 0), (2000, 0), (2000, 2), (2000, 3.5)])
def test_coherence_is_that_of_an_svd(n, decay):
    rows = np.random.default_rng(4).standard_t(3, size=(n, 40)) * np.arange(1, 41.0) ** -decay @ ROTATION
    left = np.linalg.svd(rows, full_matrices=False)[0]
    expected = n / left.shape[1] * np.max(np.sum(left**2, axis=1))
    assert coherence(rows) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_coherence_of_a_low_rank_matrix_is_that_of_its_factor(dtype):
    factor = np.random.default_rng(5).standard_t(3, size=(1500, 6))
    value, detail = features.coherence_row((factor @ ROTATION[:6]).astype(dtype))
    assert value == pytest.approx(coherence(factor), rel=1e-4)
    assert "rank=6" in detail and "n=1500" in detail and "k=40" in detail


@pytest.mark.parametrize("n", [2000, 30])
def test_coherence_counts_singular_values_above_rounding(n):
    left = np.linalg.qr(np.random.default_rng(21).normal(size=(n, 3)))[0]
    cut = np.sqrt(max(n, 40) * np.finfo(np.float64).eps)  # 7e-7 and 9e-8
    _, detail = features.coherence_row(left * [1e3, 2e3 * cut, 5e2 * cut] @ ROTATION[:3])
    assert "rank=2" in detail


# TwoNN and CLID


@pytest.mark.parametrize("dimension", [1, 2, 4])
def test_twonn_finds_the_dimension_of_a_cube(dimension):
    rng = np.random.default_rng(6)
    cube = rng.uniform(size=(3000, dimension)) @ rng.normal(size=(dimension, 30))
    assert twonn(cube) == pytest.approx(dimension, rel=0.1)


def test_twonn_of_a_curved_surface_is_two():
    sphere = np.random.default_rng(8).normal(size=(3000, 3))
    assert twonn(sphere / np.linalg.norm(sphere, axis=1, keepdims=True)) == pytest.approx(2, rel=0.1)


def test_twonn_is_the_slope_of_its_authors_fit():
    rows = np.random.default_rng(9).normal(size=(500, 6)) + 1e8  # a mean far larger than the distances
    distances = np.sort(np.linalg.norm(rows[:, None] - rows, axis=2), axis=1)
    ratios = np.sort(distances[:, 2] / distances[:, 1])[:450]
    line = -np.log(1 - np.arange(1, 451) / 500)
    assert twonn(rows) == pytest.approx(np.linalg.lstsq(np.log(ratios)[:, None], line)[0][0], rel=1e-6)


def test_twonn_counts_copies_once():
    rows = np.random.default_rng(10).uniform(size=(1000, 3))
    assert twonn(np.r_[rows, rows, rows[:300]]) == pytest.approx(twonn(rows), rel=1e-12)
    nearly = [rows[:200] * (1 + 1e-9), rows[:400] + 1e-9, rows[100:300] - 1e-8]
    assert twonn(np.concatenate([rows, *nearly])) == pytest.approx(twonn(rows), rel=1e-5)


def test_twonn_is_not_defined_for_few_or_equally_distant_rows():
    for rows in (np.ones((50, 3)), np.eye(30), np.eye(30)[:2], np.arange(6.0).reshape(3, 2)[:2], np.zeros((4, 2))):
        assert np.isnan(twonn(rows))


def test_clusters_far_apart_are_learnable_and_noise_is_not():
    rng = np.random.default_rng(11)
    centres = np.repeat(np.eye(30), 30, axis=0)  # as many as round(sqrt(900))
    clustered = clid(centres + 0.01 * rng.normal(size=(900, 30)))
    noise = clid(rng.normal(size=(900, 30)))
    assert clustered[0] > 0.8 and noise[0] < 0.5
    assert clustered[2] == clustered[0] + clustered[1] and clustered[1] == pytest.approx(30, rel=0.5)


def test_cluster_learnability_is_that_of_a_nearest_neighbour_classifier():
    from sklearn.cluster import KMeans
    from sklearn.neighbors import KNeighborsClassifier

    rows = np.random.default_rng(12).normal(size=(400, 5))
    labels = KMeans(20, n_init=1, random_state=3).fit_predict(rows / np.linalg.norm(rows, axis=1, keepdims=True))
    order = np.random.default_rng(3).permutation(400)
    known, asked = order[:200], order[200:]
    peer = KNeighborsClassifier(1, metric="cosine").fit(rows[known], labels[known])
    assert clid(rows, seed=3)[0] == peer.score(rows[asked], labels[asked])


def test_clid_is_seeded_and_looks_at_a_sample():
    rows = np.random.default_rng(13).normal(size=(600, 8))
    assert clid(rows) == clid(rows) == clid(rows, max_samples=600) != clid(rows, seed=1)
    fewer = clid(rows, max_samples=300)
    assert fewer != clid(rows) and fewer[1] not in (clid(rows[:300])[1], clid(rows[300:])[1])


def test_clid_takes_different_rows(monkeypatch):
    monkeypatch.setattr(features, "twonn", lambda rows: len(np.unique(rows, axis=0)))
    assert clid(GAUSSIAN, max_samples=200)[1] == 200


def test_clid_detail_says_how_many_rows(monkeypatch):
    value, detail = features.clid_row(GAUSSIAN)
    expected = clid(GAUSSIAN)
    assert value == expected[2]
    assert f"cl={expected[0]:.4f} id={expected[1]:.4f}" in detail and "rows=300 of 300" in detail and "seed=0" in detail
    monkeypatch.setattr(features, "MAX_SAMPLES", 100)
    value, detail = features.clid_row(GAUSSIAN)
    assert value == clid(GAUSSIAN, max_samples=100)[2] and "rows=100 of 300" in detail


def test_clid_of_collapsed_features_is_not_defined():
    learnability, dimension, value = clid(np.ones((100, 5)))
    assert learnability == 1 and np.isnan(dimension) and np.isnan(value)
    assert np.isnan(clid(np.eye(3))[0]) and np.isnan(clid(np.zeros((100, 5)))[0])


# LiDAR


@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_lidar_counts_the_directions_that_tell_samples_apart(noise):
    assert lidar(two_covariances(noise=noise), eps=0) == pytest.approx(3, rel=1e-9)
    assert lidar(two_covariances(noise=noise)) == pytest.approx(3, rel=1e-4)


def test_lidar_of_a_constructed_pair_of_covariances():
    # lambda = 4 / (1 + delta), 2 / (1 + delta), 2 / (1 + delta): p = 1/2, 1/4, 1/4, an entropy of 1.5 bits
    views = two_covariances(between=(4.0, 2.0, 2.0, 0, 0, 0), noise=1.0, q=5)
    assert lidar(views, eps=0) == pytest.approx(2**1.5, rel=1e-9)
    # a within-class scatter of 4 in the first direction, 0 in the others: lambda = 4 / (4 + 1), 4, 4 with delta = 1
    noise = two_covariances(between=np.zeros(6), noise=2.0) * [1, 0, 0, 0, 0, 0]
    p = np.array([0.8, 4, 4]) / 8.8
    assert lidar(two_covariances() + noise, delta=1.0, eps=0) == pytest.approx(np.exp(-np.sum(p * np.log(p))), rel=1e-9)


def test_lidar_is_not_the_rank_of_the_features_where_views_differ_as_much():
    rng = np.random.default_rng(14)
    views = two_covariances(between=(1.0, 1.0, 0, 0, 0, 0)) + rng.normal(size=(3, 400, 6)) * [0.1, 0.1, 1, 1, 1, 1]
    assert lidar(views) < 2.5 and np.linalg.matrix_rank(views.reshape(-1, 6)) == 6


def test_lidar_is_that_of_the_inverse_square_root():
    rng = np.random.default_rng(15)
    views = rng.normal(size=(1, 500, 12)) * np.arange(1, 13) + rng.normal(size=(4, 500, 12)) @ rng.normal(size=(12, 12))
    means = views.mean(0)
    between = np.cov(means.T)
    deviations = (views - means).reshape(-1, 12)
    values, vectors = np.linalg.eigh(deviations.T @ deviations / (500 * 3) + 1e-4 * np.eye(12))
    root = vectors / np.sqrt(values) @ vectors.T
    p = np.linalg.eigvalsh(root @ between @ root)
    p = p / p.sum() + 1e-7
    assert lidar(views) == pytest.approx(np.exp(-np.sum(p * np.log(p))), rel=1e-9)


def test_lidar_sums_of_batches_add_up():
    views = two_covariances(n=1000, between=(3.0, 2, 1, 1, 1, 1), noise=0.5) + 20
    parts = [lidar_sums(views[:, part]) for part in np.split(np.arange(1000), [1, 17, 600])]
    added = [sum(column) for column in zip(*parts)]
    assert added[:2] == [1000, 2000]
    assert lidar_of_sums(*added) == pytest.approx(lidar(views), rel=1e-9)
    shifted = [sum(column) for column in zip(*(lidar_sums(half, origin=20) for half in np.split(views, 2, axis=1)))]
    assert lidar_of_sums(*shifted, delta=1e-2) == pytest.approx(lidar(views, delta=1e-2), rel=1e-12)


def test_lidar_survives_a_large_mean():
    views = two_covariances(noise=1.0)
    assert lidar(views + 1e7) == pytest.approx(lidar(views), rel=1e-6)


def test_lidar_of_samples_with_one_mean_is_zero_with_a_warning():
    same = np.broadcast_to(np.random.default_rng(16).normal(size=(4, 1, 6)), (4, 50, 6))
    for given in (lambda: lidar(same), lambda: lidar_of_sums(*lidar_sums(same + 1e3))):
        with pytest.warns(UserWarning, match="same mean"):
            assert given() == 0


def test_lidar_needs_two_views_two_samples_and_a_regular_scatter():
    with pytest.raises(ValueError, match=r"\(1, 50, 6\).*two views"):
        lidar(np.ones((1, 50, 6)))
    assert np.isnan(lidar(np.ones((3, 1, 6))))
    with pytest.raises(ValueError, match="delta=0"):
        lidar(two_covariances(), delta=0)


def test_lidar_detail():
    value, detail = features.lidar_row(two_covariances())
    assert value == lidar(two_covariances())
    assert "delta=0.0001 eps=1e-07" in detail and "views=3" in detail and "n=400" in detail and "k=6" in detail


# all


@pytest.mark.parametrize("estimator", [self_cluster, coherence, twonn])
def test_row_order_scale_and_rotation_do_not_matter(estimator):
    expected = estimator(GAUSSIAN)
    for changed in (GAUSSIAN[::-1], GAUSSIAN * 1e6, GAUSSIAN * 1e-200, GAUSSIAN * -1e200, GAUSSIAN @ ROTATION):
        assert estimator(changed) == pytest.approx(expected, rel=1e-9)


def test_order_of_samples_and_views_shift_and_rotation_do_not_matter_to_lidar():
    views = np.random.default_rng(17).normal(size=(3, 200, 40)) * 0.5 + np.random.default_rng(18).normal(size=(200, 40))
    expected = lidar(views)  # delta is in units of the features squared, so it goes with the scale
    for changed in (views[:, ::-1], views[::-1], views + 5, views @ ROTATION):
        assert lidar(changed) == pytest.approx(expected, rel=1e-9)
    assert lidar(views * 1e3, delta=1e2) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("estimator", [self_cluster, coherence, clid])
def test_integers_tensors_and_half_precision_are_accepted(estimator):
    integers = np.random.default_rng(19).integers(-9, 9, size=(200, 16))
    tensor = torch.tensor(integers, dtype=torch.float32, requires_grad=True)
    expected = estimator(integers.astype(np.float64))
    for rows in (integers, integers.astype(np.int8), integers.astype(np.float16), tensor, tensor.bfloat16()):
        assert estimator(rows) == pytest.approx(expected, rel=1e-12)


def test_integer_and_half_precision_views_are_accepted():
    integers = np.random.default_rng(20).integers(-9, 9, size=(3, 50, 4))
    tensor = torch.tensor(integers, dtype=torch.float32, requires_grad=True)
    for views in (integers, integers.tolist(), tensor, tensor.bfloat16(), tensor.permute(1, 0, 2).transpose(0, 1)):
        assert lidar(views) == pytest.approx(lidar(integers.astype(np.float64)), rel=1e-12)


BAD = [
    (np.full((4, 3), np.nan), "NaN"),
    (np.array([[1.0, np.inf], [0, 1]]), "infinity"),
    (np.zeros((0, 3)), "empty"),
    (np.zeros((3, 0)), "empty"),
    (np.zeros((2, 3), dtype=complex), "complex"),
    (np.array([[None, 1]]), "object"),
]


@pytest.mark.parametrize("matrix, said", [*BAD, (np.zeros(3), "shape"), (np.zeros((2, 3, 4)), "shape")])
@pytest.mark.parametrize("estimator", [self_cluster, coherence, clid, twonn])
def test_bad_features_are_named(estimator, matrix, said):
    with pytest.raises(ValueError, match=said):
        estimator(matrix)


@pytest.mark.parametrize("matrix, said", BAD)
@pytest.mark.parametrize("estimator", [lidar, lidar_sums])
def test_bad_views_are_named(estimator, matrix, said):
    with pytest.raises(ValueError, match=said):
        estimator(np.stack([matrix, matrix]))
    with pytest.raises(ValueError, match="views, samples, width"):
        estimator(torch.zeros(5, 3))


def test_importing_imports_neither_torch_nor_scipy_nor_sklearn():
    code = "import sys, replicate.rank.features; print({'torch', 'scipy', 'sklearn'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"
