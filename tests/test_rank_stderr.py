"""The jackknife's error bars: closed forms, and their coverage measured by drawing samples again and again."""

import math

import numpy as np
import pytest
import torch

from replicate.rank import RankMe, spectrum
from replicate.rank.estimators import ESTIMATORS, SMOOTH, stderrs

T_19 = 2.093  # 97.5 % point of Student's t with 19 degrees of freedom, of 20 blocks
DRAWS, ROWS, WIDTH = 300, 1000, 24


def sampled(matrix, blocks=20):
    gram = spectrum.Gram(matrix.shape[1], blocks=blocks)
    gram.update(matrix)
    return gram


def test_blocks_do_not_change_the_spectrum():
    matrix = np.random.default_rng(0).normal(size=(500, 12)) + 3
    whole, dealt = spectrum.of(matrix), sampled(matrix).spectrum()
    assert dealt.singular_values == pytest.approx(whole.singular_values, rel=1e-12)
    assert dealt.centred_singular_values == pytest.approx(whole.centred_singular_values, rel=1e-12)


@pytest.mark.parametrize("n, size", [(500, 500), (500, 7), (43, 43), (15, 4), (5, 5)])
def test_each_block_is_left_out_once(n, size):
    """Row i is of block i mod blocks, whatever the batches; also while rows are kept, and with fewer rows than blocks."""
    matrix = np.random.default_rng(n).normal(size=(n, 12))
    gram = spectrum.Gram(12, blocks=20)
    for start in range(0, n, size):
        gram.update(matrix[start : start + size])
    found = gram.leave_one_out()
    assert len(found) == min(20, n)
    for b, rest in enumerate(found):
        left = matrix[np.arange(n) % 20 != b]
        assert rest.n_samples == len(left)
        assert rest.singular_values == pytest.approx(np.linalg.svd(left, compute_uv=False), rel=1e-9)


@pytest.mark.parametrize("scale", [1e8, 1e13])
def test_an_outlier_in_a_block_leaves_the_others_as_they_are(scale):
    matrix = np.random.default_rng(5).normal(size=(400, 8))
    matrix[7] *= scale
    left = np.linalg.svd(matrix[np.arange(400) % 20 != 7], compute_uv=False)
    assert sampled(matrix).leave_one_out()[7].singular_values == pytest.approx(left, rel=1e-9)


def test_of_a_mean_it_is_the_classical_standard_error(monkeypatch):
    """One row a block, and an estimator that is a mean: the jackknife is then exactly s / sqrt(n)."""
    values = np.random.default_rng(1).normal(size=20)
    mean = lambda found: (float(found.singular_values[0] ** 2) / found.n_samples, "")  # noqa: E731
    monkeypatch.setitem(ESTIMATORS, "nesum", ESTIMATORS["nesum"].__class__(mean, "spectrum", "higher", ""))
    found = stderrs(sampled(np.sqrt(np.exp(values))[:, None]), ("nesum",))
    assert found["nesum"] == pytest.approx(np.exp(values).std(ddof=1) / math.sqrt(20), rel=1e-9)


def test_of_one_row_and_of_copies():
    assert math.isnan(stderrs(sampled(np.ones((1, 4))))["rankme"])
    assert stderrs(sampled(np.tile(np.eye(4), (20, 1)).repeat(4, axis=0)[:320], blocks=4))["rankme"] < 1e-3


def test_the_metric_has_the_same():
    matrix = np.random.default_rng(2).normal(size=(700, 16)) * np.arange(1, 17.0) ** -1 + 0.2
    one = RankMe(stderr=True)
    for start in range(0, 700, 33):
        one.update(torch.from_numpy(matrix[start : start + 33]))
    value = float(one.compute())
    assert one.stderr == pytest.approx(stderrs(sampled(matrix), ("rankme",))["rankme"], rel=1e-6)
    assert 0 < one.stderr < value


def populations():
    """Of 100,000 rows: a power law, clusters of unequal size, and non-negative features with a large mean."""
    rng = np.random.default_rng(3)
    power = rng.normal(size=(100_000, WIDTH)) * np.arange(1, WIDTH + 1.0) ** -0.7
    centres = rng.normal(size=(12, WIDTH))
    clusters = centres[rng.choice(12, 100_000, p=np.arange(1, 13) / 78)] + 0.3 * rng.normal(size=(100_000, WIDTH))
    rectified = np.maximum(power @ rng.normal(size=(WIDTH, WIDTH)) + 0.5, 0)
    return {"power law": power, "clusters": clusters, "rectified": rectified}


@pytest.fixture(scope="module")
def coverage():
    """{(population, estimator): (coverage of the 95 % interval, mean standard error over the true one)}."""
    rng, found = np.random.default_rng(4), {}
    for name, population in populations().items():
        values, errors = [], []
        for _ in range(DRAWS):
            gram = sampled(population[rng.choice(len(population), ROWS, replace=False)])
            whole = gram.spectrum()
            values.append([ESTIMATORS[e].function(whole)[0] for e in SMOOTH])
            errors.append(list(stderrs(gram).values()))
        values, errors = np.array(values), np.array(errors)
        inside = (np.abs(values - values.mean(0)) <= T_19 * errors).mean(0)
        for i, estimator in enumerate(SMOOTH):
            found[name, estimator] = inside[i], errors[:, i].mean() / values[:, i].std(ddof=1)
    return found


def test_coverage(coverage, capsys):
    """Of 95 % intervals over repeated samples of 1,000 rows: within .90 and .99 for RankMe (standard error .013)."""
    with capsys.disabled():
        print(f"\ncoverage of 95 % intervals, and mean standard error / true one, {DRAWS} samples of {ROWS} rows")
        for (population, estimator), (inside, ratio) in coverage.items():
            print(f"  {population:10} {estimator:20} {inside:.3f}  {ratio:.2f}")
    for (population, estimator), (inside, ratio) in coverage.items():
        if estimator in ("rankme", "effective_rank", "stable_rank", "participation_ratio", "nesum"):
            assert 0.90 <= inside <= 0.99 and 0.85 <= ratio <= 1.2, (population, estimator)
