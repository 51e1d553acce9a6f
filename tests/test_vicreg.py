"""VICReg, VICReg-exp and VICReg-ctr against closed forms, and the duality that ties the last two together."""

import math

import pytest
import torch
from torch.testing import assert_close

from replicate.methods import vicreg, vicreg_ctr, vicreg_exp

UNIT = {"inv": 1.0, "var": 1.0, "cov": 1.0}
EPSILON = 1e-4


def test_invariance_is_the_mean_over_samples_and_dimensions():
    z = torch.randn(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert vicreg.loss(z, z + 3, **UNIT)["invariance"].item() == pytest.approx(9, abs=1e-12)
    assert vicreg.loss(z, z, **UNIT)["invariance"].item() == 0


@pytest.mark.parametrize("scale", [0.1, 0.5, 1.0, 10.0])
def test_whitened_batch(scale):
    """Orthogonal columns of +-1, 8 samples: variance 8/7 scale^2, covariance zero."""
    z = scale * hadamard(8)[:, 1:]
    out = vicreg.loss(z, z, **UNIT)
    hinge = max(0.0, 1 - math.sqrt(scale**2 * 8 / 7 + EPSILON))
    assert out["covariance"].item() == pytest.approx(0, abs=1e-30)  # squares of what rounding leaves
    assert out["variance"].item() == pytest.approx(hinge, abs=1e-12)


def test_constant_batch_has_the_full_hinge():
    z = torch.full((5, 3), 7.0, dtype=torch.float64)
    out = vicreg.loss(z, z, inv=25, var=25, cov=1)
    assert out["variance"].item() == pytest.approx(1 - math.sqrt(EPSILON), abs=1e-12)
    assert out["loss"].item() == pytest.approx(25 * 0.99, abs=1e-10)


def test_variance_is_the_mean_and_covariance_the_sum_of_the_views():
    constant, wide = torch.zeros(8, 7, dtype=torch.float64), repeated(d=7, sigma=2.0)
    one, two = vicreg.loss(constant, wide, **UNIT), vicreg.loss(wide, wide, **UNIT)
    assert one["variance"].item() == pytest.approx(0.99 / 2, abs=1e-12)
    assert two["covariance"].item() == pytest.approx(2 * one["covariance"].item(), rel=1e-12)


def test_one_column_repeated():
    """Every covariance is sigma^2: c = (1/d) d (d - 1) sigma^4 a view."""
    out = vicreg.loss(*[repeated(d=5, sigma=1.5)] * 2, **UNIT)
    assert out["covariance"].item() == pytest.approx(2 * 4 * 1.5**4, rel=1e-12)


def test_exp_of_uncorrelated_dimensions_is_a_uniform_choice():
    z = hadamard(8)[:, 1:]
    out = vicreg_exp.loss(z, z, **UNIT, temperature=0.1)
    assert out["covariance"].item() == pytest.approx(2 * math.log(6), abs=1e-12)
    assert out["variance"].item() == 0


def test_exp_of_one_column_repeated():
    out = vicreg_exp.loss(*[repeated(d=5, sigma=1.5)] * 2, **UNIT, temperature=0.3)
    assert out["covariance"].item() == pytest.approx(2 * (math.log(4) + 1.5**2 / 0.3), rel=1e-12)


def test_exp_rewards_negative_covariance():
    """Signed, not squared: a column and its negative are better than two uncorrelated ones."""
    column = repeated(d=1, sigma=1.0)
    z = torch.cat([column, -column], dim=1)
    assert vicreg_exp.loss(z, z, **UNIT, temperature=0.5)["covariance"].item() == pytest.approx(-4, rel=1e-12)


def test_ctr_of_a_simplex():
    """N samples at the corners of a simplex of side a: centred Gram -a^2/N off the diagonal, a^2 (1 - 1/N) on it."""
    n, d, a, temperature = 6, 9, 2.0, 0.2
    z = torch.zeros(n, d, dtype=torch.float64)
    z[:, :n] = a * torch.eye(n, dtype=torch.float64)
    out = vicreg_ctr.loss(z + 3, z + 3, **UNIT, temperature=temperature)  # + 3: centring over the batch removes it
    c = math.log(n - 1) - a**2 / n / (d - 1) / temperature
    v = 1 - math.sqrt(a**2 * (1 - 1 / n) / (d - 1) + EPSILON)
    assert out["covariance"].item() == pytest.approx(2 * c, rel=1e-12)
    assert out["variance"].item() == pytest.approx(v, rel=1e-12)


def test_ctr_of_a_collapsed_batch():
    z = torch.full((5, 3), 7.0, dtype=torch.float64)
    out = vicreg_ctr.loss(z, z, **UNIT, temperature=0.1)
    assert out["covariance"].item() == pytest.approx(2 * math.log(4), abs=1e-12)
    assert out["variance"].item() == pytest.approx(0.99, abs=1e-12)


@pytest.mark.parametrize("exponential", [vicreg_exp, vicreg_ctr])
def test_temperature_limits(exponential):
    """Hot: log of the number of others. Cold: the largest other entry of the covariance (exp) or Gram matrix (ctr)."""
    z = sample()
    x = z - z.mean(dim=0)
    matrix = x.T @ x / (len(z) - 1) if exponential is vicreg_exp else x @ x.T / (z.shape[1] - 1)
    largest = matrix.fill_diagonal_(-torch.inf).max(dim=1).values.mean().item()

    hot = exponential.loss(z, z, **UNIT, temperature=1e9)["covariance"].item()
    cold = exponential.loss(z, z, **UNIT, temperature=1e-6)["covariance"].item()
    assert hot == pytest.approx(2 * math.log(len(matrix) - 1), abs=1e-7)
    assert cold * 1e-6 == pytest.approx(2 * largest, abs=1e-5)


@pytest.mark.parametrize("exponential", [vicreg_exp, vicreg_ctr])
def test_a_cold_temperature_and_wide_embeddings_stay_finite_in_float32(exponential):
    z = (100 * sample()).float().requires_grad_()
    out = exponential.loss(z, z, **UNIT, temperature=1e-3)["loss"]
    (grad,) = torch.autograd.grad(out, z)
    assert out.isfinite() and grad.isfinite().all()


@pytest.mark.parametrize("exponential", [vicreg_exp, vicreg_ctr])
def test_the_equation_element_by_element(exponential):
    """Equations 11 to 13 with loops and plain exponentials."""
    z1, z2, temperature = sample(seed=1), sample(seed=2), 0.4
    expected = (z1 - z2).square().mean().item()
    for z in (z1, z2):
        x = z - z.mean(dim=0)
        x = x if exponential is vicreg_exp else x.T
        n, d = x.shape
        for i in range(d):
            products = [float(x[:, i] @ x[:, j]) / (n - 1) for j in range(d)]
            expected += 0.5 * max(0.0, 1 - math.sqrt(products[i] + EPSILON)) / d
            expected += math.log(sum(math.exp(products[j] / temperature) for j in range(d) if j != i)) / d
    value = exponential.loss(z1, z2, **UNIT, temperature=temperature)["loss"].item()
    assert value == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("method", [vicreg, vicreg_exp, vicreg_ctr])
def test_a_constant_added_to_every_sample_changes_nothing(method):
    z1, z2 = sample(seed=1), sample(seed=2)
    shift = torch.arange(z1.shape[1], dtype=torch.float64)
    keys = UNIT if method is vicreg else UNIT | {"temperature": 0.3}
    assert_close(method.loss(z1 + shift, z2 + shift, **keys)["loss"], method.loss(z1, z2, **keys)["loss"])


def test_ctr_is_exp_of_the_transpose():
    """With rows and columns of mean zero neither centring does anything: the loss of K is the other loss of K^T."""
    k1, k2 = (k - k.mean(0) - k.mean(1, keepdim=True) + k.mean() for k in (sample(seed=1), sample(seed=2)))
    weights = {"inv": 1.0, "var": 2.0, "cov": 3.0, "temperature": 0.3}
    ctr, exp = vicreg_ctr.loss(k1, k2, **weights), vicreg_exp.loss(k1.T, k2.T, **weights)
    assert_close(ctr, exp)


@pytest.mark.parametrize(("n", "d"), [(12, 5), (5, 12), (7, 7)])
def test_duality_of_the_contrastive_and_the_non_contrastive_criterion(n, d):
    """Theorem 3.3 of Garrido et al. 2022, for any matrix: with K (d, N) holding an embedding a column,

        L_nc + sum_j |K_j.|^4 = L_c + sum_i |K_.i|^4,
        L_nc = |K K^T - diag(K K^T)|_F^2  and  L_c = |K^T K - diag(K^T K)|_F^2.

    VICReg's c of K^T is L_nc / (d (N-1)^2) (dimensions against dimensions), and c of K, its transpose as VICReg-ctr
    transposes, is L_c / (N (d-1)^2) (samples against samples).
    """
    k = torch.randn(d, n, generator=torch.Generator().manual_seed(n), dtype=torch.float64)
    non_contrastive = vicreg.off_diagonal_square(k.T) * d * (n - 1) ** 2
    contrastive = vicreg.off_diagonal_square(k) * n * (d - 1) ** 2

    gram, outer = k.T @ k, k @ k.T
    assert_close(non_contrastive, (outer - outer.diag().diag()).square().sum())
    assert_close(contrastive, (gram - gram.diag().diag()).square().sum())
    assert_close(non_contrastive + k.norm(dim=1).pow(4).sum(), contrastive + k.norm(dim=0).pow(4).sum())


def test_duality_with_both_normalised_leaves_a_constant():
    """Entries +-1 give columns of squared norm d and rows of squared norm N: L_nc - L_c = N d^2 - d N^2, whatever K."""
    n, d = 10, 4
    for seed in range(3):
        k = torch.randn(d, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).sign()
        non_contrastive = vicreg.off_diagonal_square(k.T) * d * (n - 1) ** 2
        contrastive = vicreg.off_diagonal_square(k) * n * (d - 1) ** 2
        assert_close((non_contrastive - contrastive).item(), float(n * d**2 - d * n**2))


def hadamard(n: int) -> torch.Tensor:
    """Sylvester's matrix of +-1 with orthogonal columns, all but the first of mean zero; n a power of two."""
    h = torch.ones(1, 1, dtype=torch.float64)
    while len(h) < n:
        h = torch.cat([torch.cat([h, h], dim=1), torch.cat([h, -h], dim=1)])
    return h


def repeated(d: int, sigma: float) -> torch.Tensor:
    """(8, d): one column of mean zero and unbiased standard deviation sigma, d times."""
    column = hadamard(8)[:, 1:2]
    return sigma * (column / column.std()).expand(8, d)


def sample(seed: int = 0) -> torch.Tensor:
    return torch.randn(10, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
