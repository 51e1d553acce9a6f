"""VICReg-exp: VICReg with a log-sum-exp of covariances (Garrido et al. 2022, arXiv 2206.02574, equations 11 and 12).

    c_exp(X) = (1/d) sum_i log sum_{j != i} exp(C(X)_ij / temperature)
    L        = inv s(Z, Z') + var [v(X) + v(X')] / 2 + cov [c_exp(X) + c_exp(X')]

s, v, X and C are VICReg's. The covariances keep their sign, so pairs of dimensions are pushed towards negative
correlation, as InfoNCE does with samples. The paper does not print its code: the centring, the 1/(N-1) and the mean of
the two hinges (not their sum) are taken from VICReg's code; the trade-off weights are 1, 1, 1 (25, 25, 1 collapses).
"""

from functools import partial

import torch
from torch import Tensor

from replicate.distributed import gather
from replicate.methods.checks import check_positive, check_views
from replicate.methods.vicreg import centre, covariance, criterion


def loss(z1: Tensor, z2: Tensor, *, inv: float, var: float, cov: float, temperature: float) -> dict[str, Tensor]:
    """VICReg-exp of the embeddings z1, z2 (N, d) of two views, float32 or float64, row i of both from image i.

    Returns "loss", "invariance" s, "variance" [v + v']/2 and "covariance" c_exp + c_exp', unweighted.
    Raises ValueError on shapes or types that differ, fewer than two samples or dimensions, or temperature <= 0.
    """
    check_views("VICReg-exp", z1, z2, rows=2, dimensions=2)
    check_positive("VICReg-exp", temperature=temperature)

    x1, x2 = centre(gather(z1)), centre(gather(z2))
    c_exp = partial(off_diagonal_logsumexp, temperature=temperature)
    return criterion(z1, z2, x1, x2, c_exp, inv=inv, var=var, cov=cov)


def off_diagonal_logsumexp(x: Tensor, temperature: float) -> Tensor:
    """c_exp: one log-sum-exp a row of the covariance of the centred matrix x (N, d), its diagonal out; their mean."""
    return covariance(x).div_(temperature).fill_diagonal_(-torch.inf).logsumexp(dim=1).mean()
