import subprocess
import sys

import numpy as np
import pytest
import torch

from replicate.rank import spectrum
from replicate.rank.estimators import (
    ESTIMATORS,
    SPECTRAL,
    alpha_req,
    alpha_req_full,
    classical_rank,
    effective_rank,
    nesum,
    participation_ratio,
    pseudo_condition_number,
    rankme,
    rankme_error,
    stable_rank,
)


def with_singular_values(values, n, seed=0):
    """An (n, K) matrix with these singular values and random singular vectors."""
    rng = np.random.default_rng(seed)
    left = np.linalg.qr(rng.normal(size=(n, len(values))))[0]
    right = np.linalg.qr(rng.normal(size=(len(values), len(values))))[0]
    return (left * values) @ right.T


def streamed(matrix, size):
    gram = spectrum.Gram(matrix.shape[1], exact=True)
    for start in range(0, len(matrix), size):
        gram.update(matrix[start : start + size])
    return gram


# estimators on arrays


@pytest.mark.parametrize("m", [1, 7, 300])
def test_rankme_of_equal_values_is_their_number(m):
    assert rankme(np.ones(m), eps=0) == pytest.approx(m, rel=1e-12)
    assert rankme(np.r_[np.ones(m), np.zeros(50)], eps=0) == pytest.approx(m, rel=1e-12)
    assert rankme(5.0 * np.ones(m)) == pytest.approx(m, rel=1e-3)


def test_rankme_of_a_half_and_two_quarters():
    assert rankme([2, 1, 1], eps=0) == pytest.approx(2**1.5, rel=1e-12)  # entropy 1.5 bits


def test_rankme_adds_eps_after_the_division_and_does_not_normalise_again():
    p = np.array([1.0, 0, 0, 0]) + 1e-2
    assert rankme([10, 0, 0, 0], eps=1e-2) == pytest.approx(np.exp(-np.sum(p * np.log(p))), rel=1e-12)


def test_rankme_of_zeros_is_zero_with_a_warning():
    with pytest.warns(UserWarning, match="zero"):
        assert rankme(np.zeros(5)) == 0


@pytest.mark.parametrize("values, said", [([np.nan, 1], "NaN"), ([np.inf], "infinite"), ([-1.0, 1], "negative"),
                                          (np.eye(3), "shape")])  # fmt: skip
def test_what_cannot_be_a_spectrum_is_an_error(values, said):
    for estimator in (rankme, effective_rank, stable_rank, participation_ratio, nesum, pseudo_condition_number, alpha_req,
                      lambda values: classical_rank(values, 9, 9)):  # fmt: skip
        with pytest.raises(ValueError, match=said):
            estimator(values)


def test_rankme_of_values_whose_sum_overflows():
    assert rankme(np.full(64, 1e307)) == pytest.approx(rankme(np.ones(64)), rel=1e-12)


def test_classical_rank_threshold_grows_with_the_larger_side():
    values = np.array([1.0, 1e-3, 5e-4, 0])
    assert classical_rank(values, n=1000, k=4) == 3  # threshold 1e-4
    assert classical_rank(values, n=8000, k=4) == 2  # 8e-4
    assert classical_rank(values, n=4, k=8000) == 2
    assert classical_rank(np.zeros(4), n=10, k=4) == 0


@pytest.mark.parametrize("alpha", [0.1, 0.5, 1.0, 2.3])
@pytest.mark.parametrize("fit", [alpha_req, alpha_req_full])
def test_alpha_of_a_power_law(alpha, fit):
    eigenvalues = 3.0 * np.arange(1, 301.0) ** -alpha
    before = eigenvalues.copy()
    found = fit(eigenvalues)
    assert found.alpha == pytest.approx(alpha, abs=1e-9) and found.r2 == pytest.approx(1)
    assert found.n_points == (97 if fit is alpha_req else 300)
    assert np.array_equal(eigenvalues, before)


def test_alpha_req_window_and_weights():
    ranks = np.arange(1, 61.0)
    eigenvalues = np.where(ranks < 4, 1e3, np.exp(np.sin(ranks)) / ranks)
    found = alpha_req(eigenvalues)
    x, y, w = np.log(ranks[3:]), np.log(eigenvalues[3:]), 1 / ranks[3:]
    slope, intercept = np.polyfit(x, y, 1, w=np.sqrt(w))
    residual, spread = y - slope * x - intercept, y - np.average(y, weights=w)
    assert found.n_points == 57
    assert found.alpha == pytest.approx(-slope, rel=1e-9)
    assert found.r2 == pytest.approx(1 - np.sum(w * residual**2) / np.sum(w * spread**2), rel=1e-9)


def test_alpha_req_full_is_unweighted_and_leaves_the_rounding_out():
    ranks = np.arange(1, 41.0)
    eigenvalues = np.exp(np.cos(ranks)) / ranks
    slope = np.polyfit(np.log(ranks), np.log(eigenvalues), 1)[0]
    found = alpha_req_full(np.r_[eigenvalues, np.full(80, 1e-15)])
    assert found.n_points == 40 and found.alpha == pytest.approx(-slope, rel=1e-9)


def test_alpha_of_too_few_eigenvalues_is_not_a_number():
    assert np.isnan(alpha_req(np.r_[np.ones(5), np.zeros(100)]).alpha)
    assert np.isnan(alpha_req_full(np.zeros(8)).alpha)


@pytest.mark.parametrize("m", [1, 5, 40])
def test_equal_values_count_and_scale_does_not(m):
    values = 7.0 * np.r_[np.ones(m), np.zeros(3)]
    for estimator in (effective_rank, stable_rank, nesum, participation_ratio):
        assert estimator(values) == pytest.approx(m, rel=1e-12)
        assert estimator(1e-200 * values) == pytest.approx(estimator(1e200 * values), rel=1e-12)


def test_of_four_two_and_one():
    values = np.array([4.0, 2, 1])
    assert stable_rank(values) == pytest.approx(21 / 16)
    assert nesum(values) == pytest.approx(7 / 4)
    assert participation_ratio(values) == pytest.approx(49 / 21)
    assert pseudo_condition_number(values) == pytest.approx(1 / 4)
    p = values / 7
    assert effective_rank(values) == pytest.approx(np.exp(-np.sum(p * np.log(p))))
    assert effective_rank(values) < rankme(values)  # eps only adds


def test_of_nothing_but_zeros():
    for estimator in (stable_rank, nesum, participation_ratio, pseudo_condition_number):
        assert estimator(np.zeros(4)) == 0
    assert pseudo_condition_number([1.0, 0]) == 0


def test_no_estimator_changes_its_input():
    whole = spectrum.of(np.random.default_rng(7).normal(size=(90, 12)))
    before = whole.singular_values.copy(), whole.centred_singular_values.copy()
    for name in SPECTRAL:
        ESTIMATORS[name].function(whole)
    assert np.array_equal(whole.singular_values, before[0])
    assert np.array_equal(whole.centred_singular_values, before[1])


def test_the_table_says_what_each_estimator_needs_and_where_better_is():
    for name, estimator in ESTIMATORS.items():
        assert estimator.needs in ("spectrum", "features", "views"), name
        assert estimator.better in ("higher", "lower", "one"), name


# the spectrum

SHAPES = {
    "1/i": lambda i: 1 / i,
    "1/i^2": lambda i: 1 / i**2,
    "plateau": lambda i: np.where(i <= len(i) // 8, 1, 1e-6),
    "rank one": lambda i: np.where(i == 1, 1, 0.0),
    "identity": np.ones_like,
}


@pytest.mark.parametrize("n", [60, 256, 1000])
@pytest.mark.parametrize("shape", SHAPES)
def test_rankme_is_that_of_a_float64_svd(shape, n):
    values = SHAPES[shape](np.arange(1, min(n, 256) + 1.0))
    matrix = with_singular_values(np.r_[values, np.zeros(256 - len(values))], max(n, 256))[:n]
    exact = np.linalg.svd(matrix, compute_uv=False)
    exact[exact < 1e-13 * exact[0]] = 0  # the SVD's own rounding
    found = spectrum.of(matrix)
    assert len(found.singular_values) == min(n, 256) and found.n_samples == n and found.width == 256
    assert (np.diff(found.singular_values) <= 0).all() and (found.singular_values >= 0).all()
    assert rankme(found.singular_values) == pytest.approx(rankme(exact), rel=1e-6)


def exact_singular_values(matrix):
    """By a QR decomposition and an SVD in float64, of a matrix scaled to 1."""
    matrix = np.float64(matrix)
    values = np.linalg.svd(np.linalg.qr(matrix / np.abs(matrix).max())[1], compute_uv=False)
    return np.where(values > 1e-14 * values[0], values, 0)


HARD = {
    "gaussian": lambda rng, n, k: rng.normal(size=(n, k)),
    "constant columns": lambda rng, n, k: np.where(np.arange(k) % 3 == 0, 3.0, rng.normal(size=(n, k))),
    "mean 100": lambda rng, n, k: rng.normal(size=(n, k)) + 100,
    "mean 1e6": lambda rng, n, k: rng.normal(size=(n, k)) + 1e6,
    "mean, 1/i^2": lambda rng, n, k: with_singular_values(np.arange(1, k + 1.0) ** -2, n) + 1.0,
    "copies": lambda rng, n, k: np.tile(rng.normal(size=(n // 8, k)), (8, 1)),
    "1e200": lambda rng, n, k: 1e200 * rng.normal(size=(n, k)),
    "1e-200": lambda rng, n, k: 1e-200 * rng.normal(size=(n, k)),
    "1/i^2.5": lambda rng, n, k: with_singular_values(np.arange(1, k + 1.0) ** -2.5, n),
    "1/i^3": lambda rng, n, k: with_singular_values(np.arange(1, k + 1.0) ** -3, n),
    "mean, 1/i^3": lambda rng, n, k: with_singular_values(np.arange(1, k + 1.0) ** -3, n) + 1.0,
    "exponential": lambda rng, n, k: with_singular_values(np.exp(-np.arange(k) / 8.0), n),
    "plateau and 1e-8": lambda rng, n, k: with_singular_values(np.where(np.arange(k) < k // 8, 1, 1e-8), n),
    "float32, rank one": lambda rng, n, k: np.outer(rng.normal(size=n), rng.normal(size=k)).astype(np.float32),
    "float32, rank 8 and mean": lambda rng, n, k: 3 + (rng.normal(size=(n, 8)) @ rng.normal(size=(8, k))).astype(np.float32),
}


@pytest.mark.parametrize("k", [64, 512])
@pytest.mark.parametrize("name", HARD)
@pytest.mark.parametrize("ratio", [1, 1.5, 4])
def test_rankme_is_within_its_bound_and_within_1e_6(name, k, ratio):
    matrix = HARD[name](np.random.default_rng(8), int(ratio * k), k)
    expected = rankme(exact_singular_values(matrix))
    for precision in spectrum.PRECISIONS:
        found = spectrum.of(matrix, precision)
        error = abs(rankme(found.singular_values) / expected - 1)
        assert error <= rankme_error(found) + 1e-13
        assert error <= 1e-6 or precision == "float32"
    if name in ("gaussian", "mean 100") and ratio > 1:
        assert rankme_error(found) < 1e-3  # in float32, where the bound is worth something


def test_the_error_bound_of_nothing_is_nothing_and_of_noise_infinite():
    assert rankme_error(spectrum.of(np.eye(5))) < 1e-12
    with pytest.warns(UserWarning, match="zero"):
        assert rankme(spectrum.of(np.zeros((9, 5))).singular_values) == rankme_error(spectrum.of(np.zeros((9, 5)))) == 0
    assert rankme_error(spectrum.Spectrum(np.ones(3), np.empty(0), 9, 3, gram_error=2.0)) == np.inf


def test_unknown_precision_is_an_error():
    with pytest.raises(ValueError, match="bf16"):
        spectrum.of(np.eye(3), "bf16")


def test_zeros_before_tiny_rows_do_not_hide_them():
    tiny = 1e-200 * np.random.default_rng(11).normal(size=(40, 4))
    gram = spectrum.Gram(4)
    gram.update(np.zeros((9, 4)))
    gram.update(tiny)
    assert rankme(gram.spectrum().singular_values) == pytest.approx(rankme(spectrum.of(tiny).singular_values), rel=1e-9)


def test_a_later_batch_may_be_much_larger():
    small, large = np.random.default_rng(9).normal(size=(2, 300, 16))
    gram = spectrum.Gram(16)
    gram.update(1e-60 * small)
    gram.update(1e60 * large)
    assert rankme(gram.spectrum().singular_values) == pytest.approx(rankme(spectrum.of(large).singular_values), rel=1e-9)


def test_known_singular_values_come_back():
    values = np.geomspace(10, 0.1, 64)
    assert spectrum.of(with_singular_values(values, 500)).singular_values == pytest.approx(values, rel=1e-12)


def test_rank_one_and_identity():
    rank_one = spectrum.of(np.outer(np.arange(1, 301), np.arange(1, 101)))
    assert rankme(rank_one.singular_values, eps=0) == pytest.approx(1, abs=1e-6)
    assert ESTIMATORS["classical"].function(rank_one)[0] == 1
    assert ESTIMATORS["classical"].function(spectrum.of(np.eye(50)))[0] == 50
    assert rankme(spectrum.of(np.eye(50)).singular_values, eps=0) == pytest.approx(50)


def test_gaussian_matrix_has_the_published_value():
    matrix = np.random.default_rng(0).normal(size=(1000, 1024))
    assert rankme(spectrum.of(matrix).singular_values) == pytest.approx(814.4, abs=1.5)  # not 613: sigma, not sigma^2


@pytest.mark.parametrize("n", [30, 500])
def test_centred_spectrum(n):
    matrix = np.random.default_rng(1).normal(size=(n, 64)) + 50.0
    exact = np.linalg.svd(matrix - matrix.mean(0), compute_uv=False)
    assert spectrum.of(matrix).centred_singular_values == pytest.approx(exact, abs=1e-9 * np.linalg.norm(matrix, 2))
    assert spectrum.of(matrix).singular_values[0] == pytest.approx(np.linalg.norm(matrix, 2), rel=1e-12)


@pytest.mark.parametrize("n", [20, 400])
def test_constant_rows_have_no_centred_spectrum(n):
    found = spectrum.of(np.tile(np.random.default_rng(2).normal(size=64), (n, 1)))
    assert (found.centred_singular_values == 0).all()
    assert np.isnan(ESTIMATORS["alpha_req"].function(found)[0])
    assert rankme(found.singular_values, eps=0) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("n", [50, 128, 200, 256, 1000])
@pytest.mark.parametrize("size", [1, 17, 300])
def test_streamed_shuffled_and_merged_are_the_whole(n, size):
    rng = np.random.default_rng(n)
    matrix = rng.normal(size=(n, 128)) * np.arange(1, 129.0) ** -1 + 0.3
    whole = spectrum.of(matrix)
    split = n // 3
    first, second = streamed(matrix[:split], size), streamed(matrix[split:], size)
    reverse = streamed(matrix[split:], size)
    reverse.merge(first)
    first.merge(second)
    for other in (streamed(matrix, size), streamed(rng.permutation(matrix), size), first, reverse):
        found = other.spectrum()
        assert found.n_samples == other.n_samples == n
        for name in SPECTRAL:
            function = ESTIMATORS[name].function
            assert function(found)[0] == pytest.approx(function(whole)[0], rel=1e-9)
    assert second.n_samples == n - split  # merging changes only the one merged into


def test_collapsed_and_other_parts_merge_either_way():
    """A triangle with sums, with kept rows, with another triangle; with blocks too, whose sums are only for error bars."""
    rng = np.random.default_rng(10)
    flat, few = rng.normal(size=(300, 32)), rng.normal(size=(20, 32))
    low = 5 + np.outer(rng.normal(size=400), rng.normal(size=32)).astype(np.float32)
    for parts in ((flat, low), (low, flat), (low, few), (few, low), (low[:200], low[200:]), (low[:100], few, low, flat)):
        for blocks in (1, 4):
            whole, expected = spectrum.Gram(32, exact=True, blocks=blocks), spectrum.Gram(32, exact=True)
            for part in parts:
                gram = spectrum.Gram(32, exact=True, blocks=blocks)
                gram.update(part)
                whole.merge(gram)
                expected.update(part)
            exact = rankme(exact_singular_values(np.vstack(parts)))
            assert rankme(whole.spectrum().singular_values) == pytest.approx(exact, rel=1e-9)
            assert rankme(expected.spectrum().singular_values) == pytest.approx(exact, rel=1e-9)
            assert whole.n_samples == whole.spectrum().n_samples == sum(map(len, parts))
            assert len(whole.leave_one_out()) == (4 if blocks == 4 else 0)


def test_merging_with_itself_counts_twice():
    for n in (5, 20, 50):
        matrix = np.random.default_rng(3).normal(size=(n, 16))
        gram = streamed(matrix, 4)
        gram.merge(gram)
        assert gram.n_samples == 2 * n
        assert gram.spectrum().singular_values[:5] == pytest.approx(2**0.5 * spectrum.of(matrix).singular_values[:5])


def test_the_callers_batch_may_be_reused():
    matrix, gram = np.random.default_rng(4).normal(size=(40, 64)), spectrum.Gram(64)
    buffer = np.empty((10, 64))
    for start in range(0, 40, 10):
        buffer[:] = matrix[start : start + 10]
        gram.update(buffer)
    assert gram.spectrum().singular_values == pytest.approx(spectrum.of(matrix).singular_values, rel=1e-12)


def test_float32_bfloat16_integers_and_tensors_are_accepted():
    integers = np.random.default_rng(5).integers(-9, 9, size=(300, 32))
    expected = spectrum.of(integers.astype(np.float64)).singular_values
    tensor = torch.tensor(integers, dtype=torch.float32, requires_grad=True)
    for matrix in (integers, integers.astype(np.float32), integers.astype(np.int8), tensor, tensor.bfloat16()):
        assert np.array_equal(spectrum.of(matrix).singular_values, expected)


@pytest.mark.parametrize("matrix, said", [
    (np.full((4, 3), np.nan), "NaN"),
    (np.array([[1.0, np.inf]]), "infinity"),
    (np.zeros((0, 3)), "empty"),
    (np.zeros(3), "shape"),
    (np.zeros((2, 3), dtype=complex), "complex"),
    (torch.zeros(2, 3, dtype=torch.complex64), "complex"),
    (np.array([[None, 1]]), "object"),
    (torch.ones(2, 3, dtype=torch.complex64).conj(), "complex"),
    (torch.eye(3).to_sparse(), "sparse"),
    (np.ma.masked_equal(np.eye(3), 1), "masked"),
    (np.array([[np.longdouble("1e4000"), 1]]), "infinity"),
])
def test_bad_input_is_named(matrix, said):
    with pytest.raises(ValueError, match=said):
        spectrum.of(matrix)


def test_a_refused_batch_leaves_the_sums_alone():
    gram = spectrum.Gram(3)
    with pytest.raises(ValueError, match="no samples"):
        gram.spectrum()
    gram.update(np.eye(3))
    for batch in (np.full((9, 3), np.nan), np.ones((9, 4))):
        with pytest.raises(ValueError):
            gram.update(batch)
    with pytest.raises(ValueError, match="width 4"):
        gram.merge(spectrum.Gram(4))
    assert gram.n_samples == 3 and gram.spectrum().singular_values == pytest.approx(np.ones(3))


def test_one_sample_and_the_zero_matrix():
    assert rankme(spectrum.of(np.ones((1, 40))).singular_values) == pytest.approx(1, abs=1e-6)
    with pytest.warns(UserWarning, match="zero"):
        assert ESTIMATORS["rankme"].function(spectrum.of(np.zeros((100, 40))))[0] == 0


def test_details_say_what_was_fitted():
    found = spectrum.of(np.random.default_rng(6).normal(size=(500, 64)))
    details = {name: ESTIMATORS[name].function(found)[1] for name in SPECTRAL}
    assert "n=500" in details["classical"] and "eps=1e-07" in details["rankme"]
    assert "ranks=4-64" in details["alpha_req"] and "ranks=1-64" in details["alpha_req_full"]


def test_importing_ranks_imports_no_torch():
    code = "import sys; from replicate.rank import estimators, spectrum; print({'torch', 'scipy'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"
