"""What other implementations print for five matrices, and the same numbers from this package: a Markdown table.

    python benchmarks/peers_rank.py [--write README.md]

A peer's own code is run where it is installed (reptrix, stable-pretraining, lightly); otherwise its definition is
restated here, in float32 as the peers compute, and the table says which of the two was done. "with this package" is the
expression that was evaluated, in float64, where

    s = spectrum.of(features)       l2 = spectrum.of(features / norm of each row)       N, K = features.shape

--write replaces what is between the lines `<!-- peers:begin -->` and `<!-- peers:end -->` of a file.
"""

import argparse
import math
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks import markers  # noqa: E402
from replicate.rank import estimators, spectrum  # noqa: E402

TOLERANCE = 1e-4  # relative; float32 singular values are good to about 1e-6
N, K, FLAT = 8192, 1024, 300  # rows and columns of the tall matrices; equal singular values of the collapsed one


def with_singular_values(values, n, mean=0.0):
    """A float32 (n, K) matrix: columns of mean 0, these singular values; then one mean row of norm `mean` / sqrt(n)."""
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(n, len(values), generator=generator, dtype=torch.float64)
    left = torch.linalg.qr(normal - normal.mean(0))[0]
    right = torch.linalg.qr(torch.randn(len(values), len(values), generator=generator, dtype=torch.float64))[0]
    direction = torch.randn(len(values), generator=generator, dtype=torch.float64)
    return ((left * values) @ right.T + mean * direction / direction.norm() / math.sqrt(n)).float()


def matrices(n=N, k=K, flat=FLAT):
    """Column heading -> float32 matrix, the five of the table."""
    inverse = 1 / torch.arange(1, k + 1, dtype=torch.float64)
    collapsed = torch.where(torch.arange(k) < flat, 1.0, 1e-6).double()
    few = k - 24  # rows fewer than columns
    return {
        f"Gaussian {few:,} x {k:,}": torch.randn(few, k, generator=torch.Generator().manual_seed(0)),
        f"Gaussian {n:,} x {k:,}": torch.randn(n, k, generator=torch.Generator().manual_seed(0)),
        "σ = 1/i, mean 0": with_singular_values(inverse, n),
        "σ = 1/i, mean 2σ₁": with_singular_values(inverse, n, mean=2.0),
        f"{flat} of {k:,} equal, rest 1e-6": with_singular_values(collapsed, n),
    }


@dataclass(frozen=True)
class Peer:
    """One row of the table.

    `restated` maps a float32 (N, K) tensor to the value; `own` imports the peer's code, of `package`, and returns such
    a map; `ours` is the expression that gives the value with this package.
    """

    name: str
    definition: str
    restated: Callable
    ours: str
    own: Callable | None = None
    package: str = ""


def svdvals(features):
    return torch.linalg.svdvals(features)


def entropy(p):
    return -torch.sum(p * torch.log(p))


def shifted(eps):
    """The paper's definition with this eps."""

    def value(features):
        s = svdvals(features)
        return torch.exp(entropy(s / s.sum() + eps)).item()

    return value


def shifted_twice(features, eps=1e-7):
    s = svdvals(features)
    return torch.exp(entropy(s / (s.sum() + eps) + eps)).item()


def with_eps_for_each(features, eps=1e-12):
    s = svdvals(features)
    return torch.exp(entropy(s / (s + eps).sum() + eps)).item()


def of_covariance(features, eps=1e-7):
    """Of the eigenvalues of the covariance matrix, at most 2,048 of them."""
    eigenvalues = svdvals(features - features.mean(0))[:2048] ** 2
    return torch.exp(entropy(eigenvalues / eigenvalues.sum() + eps)).item()


def centred(features):
    return shifted(0.0)(features - features.mean(0))


def normalised_entropy(features):
    s = svdvals(features)
    return entropy((s / s.sum()).clamp_min(1e-12)).item() / math.log(features.shape[1])


def of_unit_rows(features):
    return shifted(1e-12)(torch.nn.functional.normalize(features)) / min(features.shape)


def reptrix():
    from reptrix.rankme import get_rankme

    return lambda features: float(get_rankme(features))


def stable_pretraining():
    os.environ.setdefault("LOGURU_LEVEL", "ERROR")  # it logs to the output where the table goes
    from stable_pretraining.callbacks.rankme import RankMe

    def value(features):
        callback, logged = RankMe("rankme", "embedding", *features.shape, verbose=False), {}
        callback._target_queue = SimpleNamespace(data=features)
        callback.on_validation_batch_end(
            SimpleNamespace(global_rank=0), SimpleNamespace(log=logged.__setitem__), outputs={}, batch={}, batch_idx=0
        )
        return logged["rankme"]

    return value


def stable_pretraining_jax():
    os.environ.setdefault("LOGURU_LEVEL", "ERROR")
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    import jax.numpy
    from stable_pretraining.jax.callbacks.rankme import rankme

    return lambda features: rankme(jax.numpy.asarray(features.numpy()))


def lightly():
    from lightly.loss.regularizer.dse import DSERegularizer

    dimensions = DSERegularizer()._effective_dimensionality  # its loss normalises the rows before this
    return lambda features: dimensions(torch.nn.functional.normalize(features)).item()


PEERS = (
    Peer("rankme-reprod, decalmlutils", "p = σ/Σσ + 1e-7: this package's", shifted(1e-7), "rankme(s.singular_values)"),
    Peer("stable-pretraining, torch callback", "p = σ/Σσ + 1e-5", shifted(1e-5),
         "rankme(s.singular_values, eps=1e-5)", stable_pretraining, "stable-pretraining"),
    Peer("stable-pretraining, JAX callback", "p = σ/(Σσ + 1e-7) + 1e-7", shifted_twice,
         "rankme(s.singular_values)", stable_pretraining_jax, "stable-pretraining"),
    Peer("TensorFlow GNN", "p = σ/Σσ + 1e-12", shifted(1e-12), "rankme(s.singular_values, eps=1e-12)"),
    Peer("google-research, graph_embedding", "p = σ/Σ(σ + 1e-12) + 1e-12", with_eps_for_each,
         "rankme(s.singular_values, eps=1e-12)"),
    Peer("without eps", "p = σ/Σσ; NaN where a σ is 0", shifted(0.0), "rankme(s.singular_values, eps=0)"),
    Peer("reptrix", "p = λ/Σλ + 1e-7, λ of the covariance", of_covariance,
         "rankme(s.centred_singular_values**2)", reptrix, "reptrix"),
    Peer("effective rank, centred", "p = σ/Σσ of centred features", centred,
         "rankme(s.centred_singular_values, eps=0)"),
    Peer("normalised entropy", "H / log K, no eps", normalised_entropy,
         "log(rankme(s.singular_values, eps=0)) / log(K)"),
    Peer("lightly, DSE regulariser", "rows of norm 1; exp(H) / min(N, K)", of_unit_rows,
         "rankme(l2.singular_values, eps=0) / min(N, K)", lightly, "lightly"),
)  # fmt: skip


def code_of(peer):
    """(the function, which code it is): the peer's own where installed."""
    try:
        if peer.own:
            return peer.own(), f"its own code, {metadata.version(peer.package)}"
    except ImportError as error:
        print(f"{peer.name}: restated, {error}", file=sys.stderr)
    return peer.restated, "restated"


def names_of(features):
    """What an expression with this package may use."""
    n, k = features.shape
    l2 = features / features.norm(dim=1, keepdim=True)
    return {"rankme": estimators.rankme, "log": math.log, "min": min, "N": n, "K": k,
            "s": spectrum.of(features), "l2": spectrum.of(l2.double())}  # fmt: skip


def deviation(values, others):
    """Largest relative difference; infinite where one is not a number."""
    differences = [abs(value / other - 1) for value, other in zip(values, others)]
    return max(math.inf if math.isnan(d) else d for d in differences)


def rows(features, peers):
    """(peer, which code, its values, ours) for each peer; features: heading -> matrix."""
    names = [names_of(matrix) for matrix in features.values()]
    for peer in peers:
        function, code = code_of(peer)
        values = [function(matrix) for matrix in features.values()]
        yield peer, code, values, [eval(peer.ours, {"__builtins__": {}}, available) for available in names]


def table(features):
    """The Markdown table, with a line about it."""
    headings = ["implementation", "code", "definition", *features, "with this package", "agrees"]
    lines = [headings, ["---"] * 3 + ["---:"] * len(features) + ["---", ":---:"]]
    for peer, code, values, ours in rows(features, PEERS):
        off = deviation(values, ours)
        agrees = "✓" if off <= TOLERANCE else f"no, {off:.0e} off"
        numbers = [f"{value:.2f}" if value > 1 else f"{value:.4f}" for value in values]
        lines.append([peer.name, code, peer.definition, *numbers, f"`{peer.ours}`", agrees])
    note = (
        f"The same float32 matrices given to each; ✓: this package gives all {len(features)} numbers, to a relative "
        f"{TOLERANCE:g}. The value is exp(H), H = -Σ p log p, unless said; σ singular values, λ eigenvalues; "
        "`s = spectrum.of(features)`, `l2` the same of rows divided by their norm. restated: the peer's code was not "
        "run, its definition is written out in benchmarks/peers_rank.py."
    )
    return "\n".join([note, "", *("| " + " | ".join(cells) + " |" for cells in lines)])


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the table between this file's markers")
    path = parser.parse_args(arguments).write
    if path:
        markers.splice(path.read_text("utf-8"), "peers", "")  # before the work
    found = table(matrices())
    if path:
        path.write_text(markers.splice(path.read_text("utf-8"), "peers", found), "utf-8")
    print(found)


if __name__ == "__main__":
    main()
