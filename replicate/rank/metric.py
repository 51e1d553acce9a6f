"""The estimators as torchmetrics Metrics, for anybody's training loop: `update` in it, `compute` to a scalar tensor.

Those of a spectrum keep K x K sums, which add up over processes, and a MetricCollection keeps one copy for all of them.
On a CPU they grow by symmetric rank-k updates in place, elsewhere by matrix products on the device.
"""

import warnings

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from replicate.rank import estimators, features, spectrum
from replicate.rank.sums import MEDIAN, PROBES, Sums, probes, rank_k_update
from replicate.rank.triangle import Triangle


class _EstimatorMetric(Metric):
    is_differentiable = False
    estimator = ""  # its name in ESTIMATORS
    _lazy = False  # whether the width comes with the first batch

    @property
    def full_state_update(self) -> bool:
        """Whether `forward` updates twice: the state of a width to come cannot be added to that of the first batch."""
        return self._lazy

    @property
    def higher_is_better(self) -> bool | None:
        return {"higher": True, "lower": False}.get(estimators.ESTIMATORS[self.estimator].better)

    def _apply(self, fn, *args, **kwargs):
        """Follows its module to another device, but not to another type: sums stay float64."""
        def moved(tensor: Tensor) -> Tensor:
            found = fn(tensor)
            return tensor.to(found.device) if tensor.dtype == torch.float64 else found

        return super()._apply(moved, *args, **kwargs)

    def _valued(self, content) -> Tensor:
        value, _ = estimators.ESTIMATORS[self.estimator].function(content)
        return torch.tensor(value, dtype=torch.float64, device=self.device)


class SpectrumMetric(_EstimatorMetric):
    """An estimator of the spectrum of all embeddings (n, K) seen since `reset`; `compute` gives a float64 scalar.

    width: K; may be left out where every process has at least one sample and no states are merged. stderr: keep 20 Gram
    matrices instead of one; `compute` then sets the attribute `stderr`, a delete-one-block jackknife (not for
    ClassicalRank). precision "float32" multiplies in float32. `compute` sets `error_bound`, of RankMe's relative error
    from arithmetic.

    Near collapse a Gram matrix loses the smallest singular values: the RankMe of a rank-one float32 matrix is 1e-5 off
    (its bound says so). exact: keep the triangle of a QR decomposition instead, as exact as an SVD, always two to three
    times slower; without error bars.

    `update` raises ValueError as `spectrum.Gram.update` does; on an accelerator NaN and infinity are found by `compute`
    instead, which spares a wait for the device in every step. Not for devices without float64: leave the metric on the
    CPU there, batches follow it. Unlike a Gram it knows no unit: features below 1e-150 vanish (1e-18 in float32).
    """

    def __init__(self, width: int | None = None, *, exact: bool = False, stderr: bool = False, precision: str = "float64",
                 **kwargs):  # fmt: skip
        super().__init__(**kwargs)
        spectrum.check_precision(precision)
        if width is not None and width < 1:
            raise ValueError(f"rank: width {width}; it must be 1 or more")
        if exact and (stderr or precision != "float64"):
            raise ValueError("rank: exact goes with neither stderr nor precision='float32'")
        self.exact, self.precision, self.blocks = exact, precision, estimators.BLOCKS if stderr else 1
        self.stderr: float | None = None
        self.error_bound: float | None = None
        self._lazy = width is None
        self.add_state("sums", self._empty(width) if width else torch.zeros(0, 0), add_triangles if exact else add_up)

    def _empty(self, width: int) -> Tensor:
        if self.exact:
            return torch.zeros(3 * (width + 1), width + 1, dtype=torch.float64)
        rows = width + 3 + (PROBES if self.precision == "float32" else 0)
        return torch.zeros(self.blocks, rows, width, dtype=torch.float64)

    def update(self, embeddings: Tensor) -> None:
        """Adds the rows of a batch (n, K), real or integer, on any device."""
        embeddings = _checked(embeddings)
        device = self.sums.device
        with torch.inference_mode(False), torch.no_grad(), torch.autocast(device.type, enabled=False):
            rows = embeddings.detach().to(device, torch.float64, copy=True)  # changed below
            self._grow(rows.shape[1])
            if self.exact:
                self._append(torch.nn.functional.pad(rows, (1, 0), value=1.0))
                return
            parts = _Parts(self.sums)
            parts.begin(rows)
            first = int(parts.n.sum()) if self.blocks > 1 else 0
            for b in range(self.blocks):
                parts.accumulate(b, rows[(b - first) % self.blocks :: self.blocks])

    def _append(self, rows: Tensor) -> None:
        """Rows (1, x) to those that wait below the triangle; a decomposition where they would not fit."""
        used = self.sums.any(dim=1).nonzero()
        filled = int(used[-1]) + 1 if len(used) else 0
        if filled + len(rows) > len(self.sums):
            self.sums = add_triangles(torch.cat([self.sums[:filled], rows])[None])
        else:
            self.sums[filled : filled + len(rows)] = rows

    def reset(self) -> None:
        super().reset()
        self.stderr = self.error_bound = None

    def compute(self) -> Tensor:
        if not self.sums.any():
            raise ValueError("rank: no samples; call update first")
        if not torch.isfinite(self.sums).all():
            raise ValueError("rank: the features held NaN or infinity, or were too large (1e150; 1e18 in float32)")
        if self.exact:
            found = spectrum.of_triangle(Triangle.of_rows(self.sums.cpu().numpy()))
            self.error_bound = estimators.rankme_error(found)
            return self._valued(found)
        gram = spectrum.Gram.of_sums(_Parts(self.sums).as_sums(), self.precision, _solver(self.sums.device))
        found = gram.spectrum(centred=estimators.ESTIMATORS[self.estimator].centred)
        self.error_bound = estimators.rankme_error(found)
        if self.blocks > 1 and self.estimator in estimators.SMOOTH:
            self.stderr = estimators.stderrs(gram, (self.estimator,))[self.estimator]
        return self._valued(found)

    def _grow(self, width: int) -> None:
        """To the first batch's width, and out of inference mode, whose tensors cannot be changed later."""
        if not self.sums.numel():
            self.sums = self._empty(width).to(self.sums.device)
        there = self.sums.shape[-1] - self.exact
        if there != width:
            raise ValueError(f"rank: a batch of width {width} after a width of {there}")
        if self.sums.is_inference():
            self.sums = self.sums.clone()


def _checked(embeddings) -> Tensor:
    embeddings = torch.as_tensor(embeddings)
    if embeddings.device.type == "cpu":
        spectrum.as_matrix(embeddings)
        return embeddings
    if embeddings.is_complex():
        raise ValueError(f"rank: features of type {embeddings.dtype}; real or integer numbers are needed")
    spectrum.check_shape(embeddings.shape)
    return embeddings


def add_triangles(states: Tensor) -> Tensor:
    """The triangle of all rows (P, m, K + 1), with room for 2 (K + 1) rows below it."""
    width = states.shape[-1]
    triangle = torch.linalg.qr(states.flatten(0, 1), mode="r").R
    return torch.nn.functional.pad(triangle, (0, 0, 0, 3 * width - len(triangle)))


class _Parts:
    """Views of the state of blocks (B, K + 3 or more, K): Gram matrix, sum and origin of `Sums`, number, and products.

    One tensor, so that what is gathered from the processes belongs together. Of the Gram matrix the lower triangle counts.
    """

    def __init__(self, state: Tensor):
        width = state.shape[-1]
        self.gram, self.total, self.origin = state[..., :width, :], state[..., width, :], state[..., width + 1, :]
        self.n, self.product = state[..., width + 2, :1], state[..., width + 3 :, :]

    @property
    def single(self) -> bool:
        return self.product.shape[-2] > 0

    def begin(self, rows: Tensor) -> None:
        """Take the median of rows (n, K) for the origin, if these are the first."""
        self.origin[:] = torch.where(self.n.sum() > 0, self.origin, rows[:MEDIAN].median(0).values)

    def accumulate(self, b: int, rows: Tensor) -> None:
        """Add float64 rows (n, K) to block b; they are less the origin afterwards."""
        rows -= self.origin[b]
        self.n[b] += len(rows)
        self.total[b] += rows.sum(0)
        if self.single:
            self.gram[b] += (rows.float().T @ rows.float()).double()
            self.product[b] += (rows @ _probes(rows).T).T @ rows
        elif rows.device.type == "cpu":
            rank_k_update(rows.numpy(), self.gram[b].numpy().T)
        else:
            self.gram[b].addmm_(rows.T, rows)

    def as_sums(self) -> list[Sums]:
        """One for each block, on the CPU."""
        blocks = []
        for n, total, origin, gram, product in zip(*(t.cpu().numpy() for t in (
                self.n[:, 0], self.total, self.origin, self.gram, self.product))):  # fmt: skip
            part = Sums(origin, 1.0, self.single)
            part.n, part.total, part.gram = int(n), total, gram.T
            part.product = product.T if self.single else None
            blocks.append(part)
        return blocks


def add_up(states: Tensor) -> Tensor:
    """The sums of several processes (P, B, rows, K), each about its own origin, about the mean of these: (B, rows, K)."""
    whole = torch.zeros_like(states[0])
    old, new = _Parts(states), _Parts(whole)
    n = old.n.sum(0)
    new.n[:] = n
    new.origin[:] = (old.origin * old.n).sum(0) / n.clamp(min=1)
    for p in range(len(states)):
        step = old.origin[p] - new.origin
        both = old.total[p].unsqueeze(-1) * step.unsqueeze(-2)
        change = both + both.mT + old.n[p].unsqueeze(-1) * step.unsqueeze(-1) * step.unsqueeze(-2)
        new.gram += old.gram[p] + change
        new.total += old.total[p] + old.n[p] * step
        if new.single:
            new.product += old.product[p] + _probes(states) @ change
    return whole


def _probes(like: Tensor) -> Tensor:
    return torch.from_numpy(probes(like.shape[-1]).T).to(like)


def _solver(device: torch.device):
    """Eigenvalues on a GPU that holds the sums; on the CPU otherwise, and where the GPU's solver does not converge."""
    if device.type != "cuda":
        return spectrum.eigenvalues

    def solve(gram: np.ndarray) -> np.ndarray:
        try:
            return torch.linalg.eigvalsh(torch.from_numpy(gram).to(device), UPLO="U").flip(0).cpu().numpy()
        except torch.linalg.LinAlgError as error:
            warnings.warn(f"rank: the eigenvalues did not converge on {device} ({error}); taken on the CPU", stacklevel=2)
            return spectrum.eigenvalues(gram)

    return solve


class RankMe(SpectrumMetric):
    """RankMe of all embeddings seen: see `estimators.rankme` and `SpectrumMetric`. Compare runs of one method only."""

    estimator = "rankme"


class ClassicalRank(SpectrumMetric):
    """See `estimators.classical_rank`."""

    estimator = "classical"


class EffectiveRank(SpectrumMetric):
    """See `estimators.effective_rank`."""

    estimator = "effective_rank"


class StableRank(SpectrumMetric):
    """See `estimators.stable_rank`."""

    estimator = "stable_rank"


class ParticipationRatio(SpectrumMetric):
    """See `estimators.participation_ratio`."""

    estimator = "participation_ratio"


class NESum(SpectrumMetric):
    """See `estimators.nesum`."""

    estimator = "nesum"


class PseudoConditionNumber(SpectrumMetric):
    """See `estimators.pseudo_condition_number`."""

    estimator = "pseudo_condition"


class AlphaReQ(SpectrumMetric):
    """See `estimators.alpha_req`: the nearer to 1 the better."""

    estimator = "alpha_req"


class AlphaReQFull(SpectrumMetric):
    """See `estimators.alpha_req_full`."""

    estimator = "alpha_req_full"


class RowsMetric(_EstimatorMetric):
    """An estimator that needs all embeddings (n, K) at once: they are kept on their device, as they come."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.add_state("rows", [], "cat")

    def update(self, embeddings: Tensor) -> None:
        """Keeps the rows of a batch (n, K)."""
        embeddings = _checked(embeddings)
        if len(self.rows) and embeddings.shape[1] != self.rows[0].shape[1]:
            raise ValueError(f"rank: a batch of width {embeddings.shape[1]} after a width of {self.rows[0].shape[1]}")
        self.rows.append(embeddings.detach().clone())

    def compute(self) -> Tensor:
        if isinstance(self.rows, list) and not self.rows:
            raise ValueError("rank: no samples; call update first")
        return self._valued(dim_zero_cat(self.rows))


class SelfCluster(RowsMetric):
    """See `features.self_cluster`."""

    estimator = "self_cluster"


class Coherence(RowsMetric):
    """See `features.coherence`."""

    estimator = "coherence"


class CLID(RowsMetric):
    """See `features.clid`."""

    estimator = "clid"


class LiDAR(_EstimatorMetric):
    """LiDAR of all views (q, n, K) seen, see `features.lidar`: K x K sums, made on the CPU, that add up over processes."""

    estimator = "lidar"

    def __init__(self, width: int | None = None, **kwargs):
        super().__init__(**kwargs)
        self._lazy = width is None
        size = width or 0
        self.add_state("means", torch.zeros(1, size + 3, size, dtype=torch.float64), add_up)  # of the views of a sample
        self.add_state("within", torch.zeros(size, size, dtype=torch.float64), "sum")
        self.add_state("freedom", torch.zeros((), dtype=torch.float64), "sum")

    def update(self, views: Tensor) -> None:
        """Adds q views of each of n samples, (q, n, K) with q of 2 or more."""
        views = torch.as_tensor(views).detach().cpu()
        _, freedom, _, _, within = features.lidar_sums(views)
        width, device = within.shape[0], self.within.device
        if not self.means.numel():
            self.means = torch.zeros(1, width + 3, width, dtype=torch.float64, device=device)
            self.within = torch.zeros(width, width, dtype=torch.float64, device=device)
        if self.within.shape[0] != width:
            raise ValueError(f"rank: a batch of width {width} after a width of {self.within.shape[0]}")
        means = views.double().mean(0).to(device)
        parts = _Parts(self.means)
        parts.begin(means)
        parts.accumulate(0, means)
        self.within = self.within + torch.from_numpy(within).to(device)
        self.freedom = self.freedom + freedom

    def compute(self) -> Tensor:
        if not self.freedom:
            raise ValueError("rank: no samples; call update first")
        (sums,) = _Parts(self.means).as_sums()
        outer = np.triu(sums.gram) + np.triu(sums.gram, 1).T
        value = features.lidar_of_sums(sums.n, int(self.freedom), sums.total, outer, self.within.cpu().numpy())
        return torch.tensor(value, dtype=torch.float64, device=self.device)
