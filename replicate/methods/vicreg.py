"""VICReg: variance, invariance, covariance (Bardes, Ponce, LeCun, ICLR 2022, equations 1 to 6).

With X = Z - mean(Z) the embeddings of a view, centred over the batch, rows = samples:

    s(Z, Z') = (1/Nd) sum_ij (Z_ij - Z'_ij)^2
    v(X)     = (1/d) sum_j max(0, 1 - sqrt(Var(X_j) + 1e-4))       Var unbiased: 1/(N-1)
    C(X)     = X^T X / (N-1)
    c(X)     = (1/d) sum_{i != j} C(X)_ij^2
    L        = inv s(Z, Z') + var [v(X) + v(X')] / 2 + cov [c(X) + c(X')]

Two places where the paper's text and its authors' code (github.com/facebookresearch/vicreg) differ; the code is
followed: the variance term is the mean of the two views' hinges, not their sum (var = 25 here is 12.5 in the printed
formula), and s is a mean over N*d elements, not the mean over N of squared distances. No row is normalised.

`variance`, `covariance` and `criterion` are shared with VICReg-exp and VICReg-ctr.
"""

from collections.abc import Callable

from torch import Tensor
from torch.nn.functional import mse_loss, relu

from replicate.distributed import gather
from replicate.methods.checks import check_views

TARGET = 1.0  # gamma of equation 1: the standard deviation below which the hinge pulls
EPSILON = 1e-4  # under the root of equation 2


def loss(z1: Tensor, z2: Tensor, *, inv: float, var: float, cov: float) -> dict[str, Tensor]:
    """VICReg of the embeddings z1, z2 (N, d) of two views, float32 or float64, row i of both from image i.

    Returns "loss", "invariance" s, "variance" [v + v']/2 and "covariance" c + c', unweighted:
    loss = inv * invariance + var * variance + cov * covariance.
    Raises ValueError on shapes or types that differ and on fewer than two samples.
    """
    check_views("VICReg", z1, z2, rows=2)
    x1, x2 = centre(gather(z1)), centre(gather(z2))
    return criterion(z1, z2, x1, x2, off_diagonal_square, inv=inv, var=var, cov=cov)


def criterion(z1: Tensor, z2: Tensor, x1: Tensor, x2: Tensor, c: Callable[[Tensor], Tensor],
              *, inv: float, var: float, cov: float) -> dict[str, Tensor]:
    """The weighted sum of s(z1, z2) on this process's rows, and of v and c on the centred matrices x1, x2 of all rows.

    VICReg-exp passes its own c, VICReg-ctr also transposes x1 and x2.
    """
    s = mse_loss(z1, z2)
    v = (variance(x1) + variance(x2)) / 2
    c_sum = c(x1) + c(x2)
    return {
        "loss": inv * s + var * v + cov * c_sum,
        "invariance": s.detach(),
        "variance": v.detach(),
        "covariance": c_sum.detach(),
    }


def centre(z: Tensor) -> Tensor:
    """z (N, d) less its mean row."""
    return z - z.mean(dim=0)


def variance(x: Tensor) -> Tensor:
    """v: the mean hinge on the standard deviation of the columns of the centred matrix x (N, d)."""
    deviation = (x.square().sum(dim=0) / (len(x) - 1) + EPSILON).sqrt()
    return relu(TARGET - deviation).mean()


def covariance(x: Tensor) -> Tensor:
    """C: the (d, d) unbiased covariance of the columns of the centred matrix x (N, d), as a fresh tensor."""
    return (x.T @ x).div_(len(x) - 1)


def off_diagonal_square(x: Tensor) -> Tensor:
    """c: the sum of squared covariances of different columns of the centred matrix x (N, d), over d."""
    return covariance(x).fill_diagonal_(0).square().sum() / x.shape[1]
