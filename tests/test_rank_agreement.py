"""However the rows come - whole, in batches, shuffled, merged, from two processes - the rank is the same to 1e-9.

The matrices are drawn by hypothesis: any shape, tied, repeated, constant and vanishing columns, a mean far from zero,
and spectra down to 1e-4 of the largest. (Singular values nearer to 1e-8 of the largest are known to fewer digits,
whatever the order: `estimators.rankme_error` says to how many, and test_rank.py holds it to that.)
"""

import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from test_rank import streamed

from replicate.rank import RankMe, metric, spectrum
from replicate.rank.estimators import ESTIMATORS, SPECTRAL, rankme

pytestmark = pytest.mark.filterwarnings("ignore:rankme")  # matrices of zeros among the drawn
EXACT = dict(rel=1e-9, abs=1e-9)
SETTINGS = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def matrices(draw):
    """(N, K) features: random, with a chosen decay, rank, mean and scale, or small whole numbers as they come."""
    n, k = draw(st.integers(1, 60)), draw(st.integers(1, 24))
    if draw(st.booleans()):
        return draw(arrays(np.float64, (n, k), elements=st.integers(-3, 3)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rank = draw(st.integers(1, min(n, k)))
    decay = draw(st.sampled_from([0.0, 0.5, 1.0, 2.0]))
    factors = rng.normal(size=(n, rank)) * np.arange(1, rank + 1.0) ** -decay
    matrix = factors @ np.linalg.qr(rng.normal(size=(k, rank)))[0].T
    matrix[:, rng.random(k) < draw(st.sampled_from([0, 0, 0.3]))] = draw(st.sampled_from([0.0, 1.0]))
    return (matrix + draw(st.sampled_from([0.0, 1.0, 30.0]))) * 10.0 ** draw(st.integers(-100, 100))


def value(gram):
    return rankme(gram.spectrum().singular_values)


@SETTINGS
@given(matrices(), st.integers(1, 70), st.integers(0, 2**32 - 1), st.data())
def test_streamed_shuffled_and_merged(matrix, size, seed, data):
    whole = spectrum.of(matrix)
    expected = rankme(whole.singular_values)
    assert value(streamed(matrix, size)) == pytest.approx(expected, **EXACT)
    shuffled = streamed(np.random.default_rng(seed).permutation(matrix), size)
    assert value(shuffled) == pytest.approx(expected, **EXACT)
    cut = data.draw(st.integers(0, len(matrix)))
    first, second = (streamed(part, size) for part in (matrix[:cut], matrix[cut:]))
    first.merge(second)
    assert value(first) == pytest.approx(expected, **EXACT)
    assert len(first.spectrum().singular_values) == min(matrix.shape)
    blocks = spectrum.Gram(matrix.shape[1], exact=True, blocks=3)
    blocks.update(matrix)
    assert value(blocks) == pytest.approx(expected, **EXACT)


@SETTINGS
@given(matrices(), st.integers(1, 70))
def test_it_is_that_of_a_float64_svd(matrix, size):
    exact = np.linalg.svd(matrix, compute_uv=False)
    exact[exact < 1e-13 * exact[0]] = 0
    assert value(streamed(matrix, size)) == pytest.approx(rankme(exact), **EXACT)


@SETTINGS
@given(matrices(), st.integers(1, 70))
def test_the_metric_is_the_spectrums(matrix, size):
    """But for a scale at which its sums about zero would overflow."""
    matrix = matrix / (np.abs(matrix).max() or 1)
    one = RankMe()
    for start in range(0, len(matrix), size):
        one.update(torch.from_numpy(matrix[start : start + size]))
    assert float(one.compute()) == pytest.approx(rankme(spectrum.of(matrix).singular_values), **EXACT)


WORKER = """
import pickle, sys
import numpy as np, torch
from torch import distributed
from replicate.rank import LiDAR, RankMe, StableRank, spectrum
rank, store, cases, out = int(sys.argv[1]), sys.argv[2], pickle.load(open(sys.argv[3], "rb")), sys.argv[4]
distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
found = []
for matrix, cut in cases:
    mine = matrix[:cut] if rank == 0 else matrix[cut:]
    gram = spectrum.Gram(matrix.shape[1], exact=True)
    metrics = [RankMe(matrix.shape[1], stderr=True), StableRank(matrix.shape[1]), RankMe(matrix.shape[1], exact=True)]
    if len(mine):
        gram.update(mine)
        for one in metrics:
            one.update(torch.from_numpy(mine))
    whole = gram.all_reduce().spectrum()
    again = gram.all_reduce().spectrum()
    assert np.array_equal(again.singular_values, whole.singular_values) and gram.n_samples == len(mine)
    values = [float(one.compute()) for one in metrics]
    found.append((whole.singular_values, whole.centred_singular_values, whole.n_samples, values, metrics[0].stderr))
lidar, views = LiDAR(), torch.from_numpy(np.random.default_rng(5).normal(size=(3, 40, 8)))
lidar.update(views[:, :10] if rank == 0 else views[:, 10:])
found.append(float(lidar.compute()))
outlier = np.random.default_rng(6).normal(size=(300, 8))
outlier[221] *= 1e14
gram = spectrum.Gram(8, blocks=20)
gram.update(outlier[:150] if rank == 0 else outlier[150:])
found.append(gram.all_reduce().spectrum().singular_values[0] / np.linalg.norm(outlier, 2))
pickle.dump(found, open(f"{out}.{rank}", "wb"))
distributed.destroy_process_group()
"""


@pytest.fixture(scope="module")
def cases():
    """Matrices with the row at which two processes divide them, drawn by hypothesis."""
    drawn = []

    @settings(max_examples=40, deadline=None, derandomize=True, database=None)
    @given(matrices(), st.integers(0, 10**6))
    def draw(matrix, cut):
        top = np.abs(matrix).max()
        if 1e-90 < top < 1e90:  # the Metric's sums are about zero, in no unit
            drawn.append((matrix, cut % (len(matrix) + 1)))

    draw()
    return drawn


def test_two_gloo_processes(cases, tmp_path):
    (tmp_path / "cases").write_bytes(pickle.dumps(cases))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd()}
    arguments = [str(tmp_path / name) for name in ("store", "cases", "found")]
    workers = [subprocess.Popen([sys.executable, "-c", WORKER, str(rank), *arguments], env=environment) for rank in (0, 1)]
    assert [worker.wait(timeout=300) for worker in workers] == [0, 0]
    found = [pickle.loads((tmp_path / f"found.{rank}").read_bytes()) for rank in (0, 1)]
    for rank in (0, 1):
        for (matrix, _), (raw, centred, n, values, stderr) in zip(cases, found[rank]):
            whole = spectrum.of(matrix)
            assert n == len(matrix) and len(raw) == len(centred) == min(matrix.shape)
            assert rankme(raw) == pytest.approx(rankme(whole.singular_values), **EXACT)
            assert values[0] == pytest.approx(rankme(whole.singular_values), **EXACT)
            assert values[2] == pytest.approx(rankme(whole.singular_values), **EXACT)
            assert values[1] == pytest.approx(ESTIMATORS["stable_rank"].function(whole)[0], **EXACT)
            assert centred == pytest.approx(whole.centred_singular_values, abs=1e-7 * whole.singular_values[0])
        whole = metric.LiDAR()
        whole.update(torch.from_numpy(np.random.default_rng(5).normal(size=(3, 40, 8))))
        assert found[rank][-2] == pytest.approx(float(whole.compute()), rel=1e-9)
        assert found[rank][-1] == pytest.approx(1, rel=1e-9)
    assert len(cases) > 20 and any(cut == 0 or cut == len(matrix) for matrix, cut in cases)


def test_every_metric_gives_its_estimator():
    matrix = np.random.default_rng(0).normal(size=(300, 20)) + 0.5
    for one in vars(metric).values():
        if isinstance(one, type) and issubclass(one, metric.SpectrumMetric) and one.estimator:
            made = one()
            made.update(torch.from_numpy(matrix))
            assert float(made.compute()) == pytest.approx(ESTIMATORS[one.estimator].function(spectrum.of(matrix))[0], rel=1e-9)
    named = {getattr(metric, name).estimator for name in __import__("replicate.rank").rank.METRICS}
    assert named == set(ESTIMATORS) and set(SPECTRAL) < named
