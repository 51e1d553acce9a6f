"""The benchmark of RankMe and the table of peers: what they compare with, and that they run."""

import math

import numpy as np
import pytest
import torch

from benchmarks import bench_rank, peers_rank


def by_svd(features, eps):
    s = np.linalg.svd(features.astype(np.float64), compute_uv=False)
    p = s / s.sum() + eps
    return np.exp(-np.sum(p * np.log(p)))


# the benchmark


@pytest.mark.parametrize("kind", bench_rank.KINDS)
@pytest.mark.parametrize("n", [40, 500])
def test_the_reference_is_that_of_one_svd(n, kind, monkeypatch):
    monkeypatch.setattr(bench_rank, "ROWS", 128)  # so that the QR goes in parts
    features = bench_rank.make(n, 64, kind)
    assert features.dtype == np.float32
    assert bench_rank.reference(features) == pytest.approx(by_svd(features, 1e-7), rel=1e-12)


def test_features_of_the_steep_spectrum_have_it():
    s = np.linalg.svd(bench_rank.make(4000, 16, "1/i^2").astype(np.float64), compute_uv=False)
    assert s / s[0] * np.arange(1, 17) ** 2 == pytest.approx(np.ones(16), rel=0.2)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Features on disk, where the contenders differ visibly, and their RankMe."""
    features = bench_rank.make(600, 64, "gaussian") + np.float32(1)
    path = tmp_path_factory.mktemp("bench") / "features.npy"
    np.save(path, features)
    return path, bench_rank.reference(features)


@pytest.mark.parametrize("device", ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"])
@pytest.mark.parametrize("name", bench_rank.CONTENDERS)
def test_contenders_give_rankme_but_for_those_that_say_otherwise(name, device, saved):
    if package := bench_rank.NEEDS.get(name):
        pytest.importorskip(package)
    path, exact = saved
    found = bench_rank.measure(name, path, device)
    assert found["seconds"] > 0 and found["host"] >= 0
    off = abs(found["value"] / exact - 1)
    assert off > 1e-3 if name in bench_rank.ABOUT else off < 1e-5
    if found["bound"] is not None:
        assert off <= found["bound"] + 1e-12


def test_a_process_reports_its_own_peak_not_that_of_its_parent(tmp_path):
    features = bench_rank.make(200_000, 40, "gaussian")
    np.save(tmp_path / "features.npy", features)
    ballast = np.ones(50_000_000)  # 400 MB here, beside which the copy below would go unseen
    found = bench_rank.turn("svdvals float64", tmp_path / "features.npy", "cpu")
    assert found["value"] == pytest.approx(bench_rank.reference(features), rel=1e-9)
    assert 2 * features.nbytes < found["host"] < ballast.nbytes  # a copy in float64 at least


def test_the_table_has_medians_failures_and_what_is_missing(monkeypatch):
    asked = []

    def turn(name, path, device):
        asked.append(name)
        if name == "svdvals float64":
            return {"failed": "MemoryError"}
        seconds = len(asked) if name == bench_rank.PEER else 2 * len(asked)
        return {"seconds": seconds, "host": 3e6, "value": 50.5, "bound": 1e-3 if "float32" in name else None}

    monkeypatch.setattr(bench_rank, "turn", turn)
    monkeypatch.setattr(bench_rank, "NEEDS", {"reptrix": "no_such_package"})
    names = [f"{bench_rank.OURS}float32", bench_rank.PEER, "svdvals float64", "reptrix"]
    found = bench_rank.contest("unused", "cpu", 3, names)
    assert asked == names[:3] * 3
    text = bench_rank.report(found, 50.0, "title")
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    assert "| 8 (2 - 14) | 3 | 50.5 | 1e-02 | bound 1e-03 BROKEN |" in lines[2]
    assert "failed: MemoryError" in lines[4] and "not installed" in lines[5]
    assert text.splitlines()[-1].endswith("float32 1.60")


def test_a_busy_machine_is_told(monkeypatch):
    monkeypatch.setattr("os.getloadavg", lambda: (1.5, 0, 0))
    assert "not quiet (load average 1.5)" in bench_rank.setting(["cpu"])
    monkeypatch.setattr("os.getloadavg", lambda: (0.1, 0, 0))
    assert "quiet" not in bench_rank.setting(["cpu"])


# the table of peers


@pytest.fixture(scope="module")
def small():
    return peers_rank.matrices(n=1024, k=96, flat=30)


def test_the_matrices_have_the_spectra_they_are_named_for(small):
    few, tall, inverse, shifted, collapsed = (matrix.double() for matrix in small.values())
    assert len(few) == 72 and len(tall) == 1024 and all(matrix.dtype == torch.float32 for matrix in small.values())
    assert torch.linalg.svdvals(inverse).numpy() == pytest.approx(1 / np.arange(1, 97), rel=1e-4)
    assert inverse.mean(0).norm() < 1e-8 and collapsed.mean(0).norm() < 1e-8
    assert shifted.mean(0).norm() * math.sqrt(1024) == pytest.approx(2, rel=1e-5)
    assert torch.allclose(shifted - shifted.mean(0), inverse, atol=1e-7)
    assert peers_rank.shifted(0.0)(collapsed) == pytest.approx(30, rel=1e-3)


@pytest.mark.parametrize("peer", peers_rank.PEERS, ids=lambda peer: peer.name)
def test_this_package_gives_each_peers_number(peer, small):
    (_, _, values, ours), *_ = peers_rank.rows(small, [peer])
    assert peers_rank.deviation(values, ours) < peers_rank.TOLERANCE


@pytest.mark.parametrize("peer", [p for p in peers_rank.PEERS if p.own], ids=lambda peer: peer.name)
def test_a_restated_definition_is_that_of_the_peers_code(peer, small):
    function, code = peers_rank.code_of(peer)
    if code == "restated":
        pytest.skip(f"{peer.package} is not installed")
    for matrix in small.values():
        assert peer.restated(matrix) == pytest.approx(function(matrix), rel=1e-5)


def test_definitions_differ_where_they_say(small):
    """Else a check mark would tell nothing."""
    values = {peer.name: peer.restated(small["σ = 1/i, mean 2σ₁"]) for peer in peers_rank.PEERS}
    paper = values["rankme-reprod, decalmlutils"]
    for name in ("stable-pretraining, torch callback", "reptrix", "effective rank, centred", "normalised entropy"):
        assert abs(values[name] / paper - 1) > 10 * peers_rank.TOLERANCE


def test_a_number_that_is_not_ours_is_told(small):
    other = peers_rank.Peer("other", "", peers_rank.shifted(1e-5), "rankme(s.singular_values)")
    (_, _, values, ours), *_ = peers_rank.rows(small, [other])
    assert peers_rank.deviation(values, ours) > peers_rank.TOLERANCE
    assert peers_rank.deviation([float("nan"), 1.0], [1.0, 1.0]) == math.inf


def test_write_replaces_what_is_between_the_markers(tmp_path, monkeypatch, capsys, small):
    monkeypatch.setattr(peers_rank, "matrices", lambda: dict(list(small.items())[:1]))
    monkeypatch.setattr(peers_rank, "PEERS", peers_rank.PEERS[:1])
    path = tmp_path / "README.md"
    begin, end = "<!-- peers:begin -->", "<!-- peers:end -->"
    path.write_text(f"before\n{begin}\nold\n{end}\nafter\n")
    for _ in range(2):
        peers_rank.main(["--write", str(path)])
        text = path.read_text("utf-8")
        assert text.startswith(f"before\n{begin}\n") and text.endswith(f"\n{end}\nafter\n")
        assert "old" not in text and text.count("rankme-reprod") == 1 and "| ✓ |" in text
    path.write_text("no markers")
    with pytest.raises(SystemExit, match="peers:begin"):
        peers_rank.main(["--write", str(path)])
