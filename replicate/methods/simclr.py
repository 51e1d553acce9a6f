"""SimCLR: NT-Xent, the normalised temperature-scaled cross entropy (Chen et al., ICML 2020, equation 1).

Over the 2N rows of both views, with p(i) the other view of row i:

    u_i  = z_i / |z_i|                                        rows to length one, no centring
    s_ij = u_i . u_j / temperature
    L    = (1/2N) sum_i [ -s_{i,p(i)} + log sum_{j != i} exp s_ij ]

The positive is one of the 2N - 1 terms of the denominator, as in the paper and in SimCLR's code (leaving it out is
DCL). The negatives are those of all processes, and the gradient flows through them too: stopping it at the border of
a process is the usual bug (Garrido et al. 2022, arXiv 2206.02574).
"""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from replicate.distributed import gather
from replicate.methods.checks import check_positive, check_views


def loss(z1: Tensor, z2: Tensor, *, temperature: float) -> dict[str, Tensor]:
    """NT-Xent of the embeddings z1, z2 (N, d) of two views, float32 or float64, row i of both from image i.

    With several processes every one returns the loss of the whole gathered batch; the mean over processes of the
    gradients, which DDP takes, is then that loss's gradient.
    Returns "loss", and its two summands "alignment" (minus the mean positive) and "log_partition".
    Raises ValueError on shapes or types that differ and on a temperature that is not above zero.
    """
    check_views("SimCLR", z1, z2, rows=1)
    check_positive("SimCLR", temperature=temperature)

    u1, u2 = normalize(gather(z1), dim=1), normalize(gather(z2), dim=1)
    u = torch.cat([u1, u2])
    similarity = (u / temperature) @ u.T  # scaling the rows spares a second (2N, 2N) matrix
    log_partition = similarity.fill_diagonal_(-torch.inf).logsumexp(dim=1).mean()  # over j != i

    alignment = -(u1 * u2).sum(dim=1).mean() / temperature  # both views of a pair have the same positive
    return {
        "loss": alignment + log_partition,
        "alignment": alignment.detach(),
        "log_partition": log_partition.detach(),
    }
