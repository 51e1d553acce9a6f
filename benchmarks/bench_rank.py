"""RankMe of a feature matrix: time, peak memory and error of this package and of what else one might run.

    python benchmarks/bench_rank.py [--shape 25600x2048] [--device cpu] [--turns 3] [--quick]

Each measurement is a process of its own, which loads the features, warms up on a few rows, then measures one
computation from the features (in memory; on a GPU: in its memory) to the number. Contenders take turns, and the table
gives the median over the turns, with the least and the greatest time. Memory is the highest above the loaded features:
resident on the CPU, torch's allocations on a GPU (with the host's beside it). Errors are relative, of RankMe with eps
1e-7, to a float64 SVD (of the triangle of a float64 QR). Random features: Gaussian, and with singular values near
1/i^2. This package's torchmetrics metric is given 1,024 rows at a time.
"""

import argparse
import importlib.util
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from replicate.rank import estimators, spectrum  # noqa: E402

CASES = (("25600x512", "gaussian"), ("25600x2048", "gaussian"), ("25600x2048", "1/i^2"), ("200000x512", "gaussian"))
KINDS = ("gaussian", "1/i^2")
EPS = 1e-7
ROWS = 8192  # rows made, or reduced for the reference, at a time
BATCH = 1024  # rows that the Metric is given at a time
QUIET = 0.5  # load average up to which the machine counts as quiet


def make(n, k, kind):
    """Random features, float32 (n, k)."""
    rng = np.random.default_rng(0)
    if kind == "gaussian":
        return rng.standard_normal((n, k), dtype=np.float32)
    decay = np.linalg.qr(rng.standard_normal((k, k)))[0] / np.arange(1, k + 1)[:, None] ** 2
    features = np.empty((n, k), np.float32)
    for start in range(0, n, ROWS):
        features[start : start + ROWS] = rng.standard_normal((min(ROWS, n - start), k)) @ decay
    return features


def reference(features):
    """RankMe from a float64 SVD; the QR, in parts, leaves the singular values as they are."""
    triangle = np.empty((0, features.shape[1]))
    for start in range(0, len(features), ROWS):
        triangle = np.linalg.qr(np.vstack([triangle, features[start : start + ROWS]]), mode="r")
    s = np.linalg.svd(triangle, compute_uv=False)
    p = s / s.sum() + EPS
    return float(np.exp(-np.sum(p * np.log(p))))


# ---- contenders: features, a torch tensor -> (value, bound on its relative error or None)


def ours(precision):
    def contender(features):
        gram = spectrum.Gram(features.shape[1], exact=True, precision=precision)
        gram.update(features)
        found = gram.spectrum(centred=False)
        return estimators.rankme(found.singular_values), estimators.rankme_error(found)

    return contender


def metric(precision):
    def contender(features):
        from replicate.rank import RankMe

        measured = RankMe(features.shape[1], precision=precision).to(features.device)
        for batch in features.split(BATCH):
            measured.update(batch)
        return measured.compute().item(), measured.error_bound

    return contender


def svdvals(dtype, eps=EPS):
    def contender(features):
        s = torch.linalg.svdvals(features.to(dtype))
        p = s / s.sum() + eps
        return torch.exp(-torch.sum(p * torch.log(p))).item(), None

    return contender


def reptrix(features):
    from reptrix.rankme import get_rankme

    return float(get_rankme(features)), None


OURS, PEER = "this package, ", "svdvals float32"
CONTENDERS = {
    f"{OURS}float64": ours("float64"),
    f"{OURS}float32": ours("float32"),
    f"{OURS}torchmetrics float64": metric("float64"),
    f"{OURS}torchmetrics float32": metric("float32"),
    PEER: svdvals(torch.float32),
    "svdvals float64": svdvals(torch.float64),
    "stable-pretraining's formula": svdvals(torch.float32, eps=1e-5),
    "reptrix": reptrix,
}
NEEDS = {
    f"{OURS}torchmetrics float64": "torchmetrics",
    f"{OURS}torchmetrics float32": "torchmetrics",
    "reptrix": "reptrix",
}
ABOUT = {
    "stable-pretraining's formula": "eps 1e-5 (restated)",
    "reptrix": "another quantity: eigenvalues of the covariance",
}


# ---- one measurement, in a process of its own


def host_peak():
    """Bytes that this process had resident at most. Linux: not ru_maxrss, which begins with that of the parent."""
    status = Path("/proc/self/status")
    if status.exists():
        return 1024 * int(re.search(r"VmHWM:\s+(\d+)", status.read_text())[1])
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def forget_peak():
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:  # elsewhere than Linux the peak begins with that of loading, which is little higher
        pass


def measure(name, path, device):
    """Seconds, bytes above the features and value of one computation, as a dict."""
    contender, on_gpu = CONTENDERS[name], device != "cpu"
    contender(torch.randn(300, 40, device=device))  # imports libraries, starts threads and GPU handles
    features = torch.from_numpy(np.load(path)).to(device)
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
        torch.cuda.synchronize()
        loaded = torch.cuda.memory_allocated()
    forget_peak()
    before, start = host_peak(), time.perf_counter()
    value, bound = contender(features)
    seconds = time.perf_counter() - start
    found = {"seconds": seconds, "host": host_peak() - before, "value": value, "bound": bound}
    return found | ({"gpu": torch.cuda.max_memory_allocated() - loaded} if on_gpu else {})


def turn(name, path, device):
    """`measure` in another process; {"failed": why} where that ends badly."""
    command = [sys.executable, __file__, "--measure", name, "--features", str(path), "--device", device]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        return {"failed": (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]}
    return json.loads(done.stdout.splitlines()[-1])


# ---- the tables


def contest(path, device, turns, names=CONTENDERS):
    """Name -> its measurements; a contender that is not installed has none. Says on stderr how far it is."""
    found = {name: [] for name in names}
    for i in range(turns):
        for name in names:
            if name not in NEEDS or importlib.util.find_spec(NEEDS[name]):
                print(f"turn {i + 1} of {turns}: {name}", file=sys.stderr)
                found[name].append(turn(name, path, device))
    return found


def median(measurements, key):
    return statistics.median(m[key] for m in measurements)


def memory(measurements):
    host = f"{median(measurements, 'host') / 1e6:,.0f}"
    return f"{median(measurements, 'gpu') / 1e6:,.0f} (host {host})" if "gpu" in measurements[0] else host


def remark(name, error, bound):
    if bound is None:
        return ABOUT.get(name, "")
    return f"bound {bound:.0e}" + (" BROKEN" if error > bound + 1e-12 else "")


def row(name, measurements, exact):
    """Cells of the table."""
    if not measurements:
        return [name, "not installed", "", "", "", ""]
    if failed := [m["failed"] for m in measurements if "failed" in m]:
        return [name, f"failed: {failed[0]}", "", "", "", ""]
    times = [m["seconds"] for m in measurements]
    value, bound = measurements[0]["value"], measurements[0]["bound"]
    error = abs(value / exact - 1)
    return [name, f"{statistics.median(times):.3g} ({min(times):.3g} - {max(times):.3g})", memory(measurements),
            f"{value:.6g}", f"{error:.0e}" if error else "0", remark(name, error, bound)]  # fmt: skip


def ratios(found):
    """The line with this package's times beside svdvals float32's."""
    ended = {name: median(m, "seconds") for name, m in found.items() if m and not any("failed" in one for one in m)}
    mine = [f"{name.removeprefix(OURS)} {ended[name] / ended[PEER]:.2f}"
            for name in ended if name.startswith(OURS) and PEER in ended]  # fmt: skip
    return f"Time of this package / time of {PEER}: " + (", ".join(mine) or "not measured")


def report(found, exact, title):
    """A heading, the table and the ratios, as Markdown."""
    head = ["contender", "time, s", "peak memory, MB", "RankMe", "relative error", ""]
    lines = [head, ["---"] + ["---:"] * 4 + ["---"]] + [row(name, m, exact) for name, m in found.items()]
    cells = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return f"\n### {title}: RankMe {exact:.8g}\n\n{cells}\n\n{ratios(found)}"


def run(shape, kind, devices, turns):
    n, k = map(int, shape.split("x"))
    features = make(n, k, kind)
    exact = reference(features)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "features.npy"
        np.save(path, features)
        del features
        for device in devices:
            title = f"{n:,} x {k:,}, {kind}, {device} (features: {4e-6 * n * k:,.0f} MB)"
            print(report(contest(path, device, turns), exact, title), flush=True)


def setting(devices):
    """What the numbers were taken on, and a warning where others use the machine."""
    gpu = f", {torch.cuda.get_device_name()}" if "cuda" in devices else ""
    load = os.getloadavg()[0]
    busy = f"\n\n**The machine is not quiet (load average {load:.1f}): do not use the times.**" if load > QUIET else ""
    return f"torch {torch.__version__}, numpy {np.__version__}, {torch.get_num_threads()} threads{gpu}{busy}"


def cases(options):
    if options.quick:
        return [("600x64", "gaussian")]
    if options.shape is None:
        return CASES
    listed = [case for case in CASES if case[0] == options.shape]
    return listed or [(options.shape, kind) for kind in KINDS]


def shape(text):
    if not re.fullmatch(r"[1-9]\d*x[1-9]\d*", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form 25600x2048")
    return text


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", type=shape, help="one only, as 25600x2048; one not listed runs Gaussian and 1/i^2")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="one only; else the CPU, and a GPU if there is one")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one small shape, one turn")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--features", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.measure:
        return print(json.dumps(measure(options.measure, options.features, options.device)))
    gpus = ["cuda"] if torch.cuda.is_available() else []
    devices = [options.device] if options.device else ["cpu", *gpus]
    print(setting(devices))
    for size, kind in cases(options):
        run(size, kind, devices, 1 if options.quick else options.turns)


if __name__ == "__main__":
    main()
