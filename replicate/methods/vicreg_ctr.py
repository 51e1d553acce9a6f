"""VICReg-ctr: the contrastive twin of VICReg-exp (Garrido et al. 2022, arXiv 2206.02574, equation 13).

    L = inv s(Z, Z') + var [v(X^T) + v(X'^T)] / 2 + cov [c_exp(X^T) + c_exp(X'^T)]

Both regularisers are those of VICReg-exp on the transpose: v asks each sample for its spread over the dimensions, and
c_exp takes the (N, N) Gram matrix X X^T / (d-1) of the samples, the positive pair absent.

What the paper leaves open, and what is done: X is centred over the batch before it is transposed, and X^T is not
centred again over the dimensions, in v as little as in c_exp. So v holds the norm of a sample's row, the diagonal of
the very Gram matrix that c_exp reads, near sqrt(d-1), and the Gram's entries are then cosine-like, within [-1, 1].
The mean of the two hinges, not their sum, as in VICReg's code; the trade-off weights are 1, 1, 1.
"""

from functools import partial

from torch import Tensor

from replicate.distributed import gather
from replicate.methods.checks import check_positive, check_views
from replicate.methods.vicreg import centre, criterion
from replicate.methods.vicreg_exp import off_diagonal_logsumexp


def loss(z1: Tensor, z2: Tensor, *, inv: float, var: float, cov: float, temperature: float) -> dict[str, Tensor]:
    """VICReg-ctr of the embeddings z1, z2 (N, d) of two views, float32 or float64, row i of both from image i.

    Returns "loss", "invariance" s, "variance" [v + v']/2 and "covariance" c_exp + c_exp', unweighted.
    Raises ValueError on shapes or types that differ, fewer than two samples or dimensions, or temperature <= 0.
    """
    check_views("VICReg-ctr", z1, z2, rows=2, dimensions=2)
    check_positive("VICReg-ctr", temperature=temperature)

    x1, x2 = centre(gather(z1)), centre(gather(z2))
    c_exp = partial(off_diagonal_logsumexp, temperature=temperature)
    return criterion(z1, z2, x1.T, x2.T, c_exp, inv=inv, var=var, cov=cov)
