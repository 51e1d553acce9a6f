"""One process or two, an interruption or none: the same training."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch
import yaml

from replicate import checkpoint, grid, paths, preempt, pretrain, profile, recompute, study, training
from replicate.data import cache
from replicate.errors import UserError

RUNS = ["SimCLR-15", "VICReg-9", "VICReg-exp-3", "VICReg-ctr-2", "DINO-3"]


def command(home, run, *options, processes=1):
    """`python -m replicate pretrain`, under torchrun where there are several processes."""
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "--no-python", sys.executable]
    words = [sys.executable, *(launch if processes > 1 else []), "-m", "replicate", "pretrain", run, *options]
    environment = {**os.environ, "REPLICATE_HOME": str(home), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    return subprocess.Popen(words, cwd=paths.ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                            text=True, start_new_session=True)


def finished(process) -> str:
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 0, output
    return output


def tensors(path) -> dict[str, torch.Tensor]:
    state = checkpoint.load(path)
    flat = {f"{part}.{name}": value for part in ("network", "teacher") for name, value in (state[part] or {}).items()}
    return {**flat, **({"centre": state["centre"]} if state["centre"] is not None else {})}


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A profile file, prepared, of a few steps; two shards."""
    def write(**changes):
        path = tmp_path / "tiny.yaml"
        smoke = yaml.safe_load((paths.ROOT / "tests" / "smoke.yaml").read_text())
        path.write_text(yaml.safe_dump({**smoke, "name": "tiny", "epochs": 1, **changes}))
        found = profile.load(str(path))
        cache.prepare(found, "imagenet")
        return found, str(path)

    monkeypatch.setattr(paths, "HOME", tmp_path)
    return write


def one_and_two(tiny, tmp_path, run, **changes):
    """Weights of one process and of two, how far the farthest moved from its start, and how far apart they are."""
    sizes, path = tiny(**changes)
    pretrain.pretrain(sizes, grid.get(run), 0)
    one = tensors(study.checkpoint_path(sizes, grid.get(run), 0))
    os.rename(tmp_path / "runs" / "tiny" / run, tmp_path / "one")
    assert finished(command(tmp_path, run, "--profile", path, processes=2)).count(f"{run} seed 0: ok") == 1
    two = tensors(study.checkpoint_path(sizes, grid.get(run), 0))
    initial = training.Training(sizes, grid.get(run), 0, "cpu", 384).network.state_dict()
    assert one.keys() == two.keys()
    return (max((one[f"network.{name}"] - value).abs().max().item() for name, value in initial.items()),
            max((one[name] - two[name]).abs().max().item() for name in one))  # fmt: skip


@pytest.mark.parametrize("run, shards", [*((run, 2) for run in RUNS), ("VICReg-9", 1), ("VICReg-9", 4)])
def test_two_processes_train_to_the_weights_of_one_with_the_whole_batch(tiny, tmp_path, run, shards):
    moved, apart = one_and_two(tiny, tmp_path, run, shards=shards, precision="float64")
    assert moved > 1e-3 and apart < 1e-9


@pytest.mark.parametrize("run", ["SimCLR-15", "VICReg-9"])
def test_also_in_float32_where_the_learning_rate_does_not_magnify_rounding(tiny, tmp_path, run):
    """At mini's rates of 3 it does: the first batch norms' gradients are sums that cancel to three digits."""
    moved, apart = one_and_two(tiny, tmp_path, run, shards=2, lr_scale={"LARS": 0.01, "AdamW": 0.01})
    assert moved > 1e-4 and apart < 1e-5


def test_batch_norm_over_processes_is_that_of_one(monkeypatch):
    """With a world of one the sums are the batch's own: values, gradients and running statistics as torch's."""
    from replicate import distributed

    monkeypatch.setattr(distributed.dist, "all_reduce", lambda total: None)
    ours, theirs = torch.nn.BatchNorm2d(3), torch.nn.BatchNorm2d(3)
    with torch.no_grad():
        for norm in (ours, theirs):
            norm.weight.copy_(torch.tensor([1.0, 2.0, -1.0]))
    ours.__class__ = distributed.SyncBatchNorm
    x = torch.randn(8, 3, 5, 5, generator=torch.Generator().manual_seed(0)) * 3 + 10
    inputs = [x.clone().requires_grad_(), x.clone().requires_grad_()]
    outputs = [norm(value) for norm, value in zip((ours, theirs), inputs)]
    for output in outputs:
        output.square().mul(torch.arange(5.0)).sum().backward()
    torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("run", ["VICReg-9", "DINO-3"])
def test_recomputed_activations_change_no_bit(tiny, monkeypatch, run):
    sizes, _ = tiny()
    whole = pretrain.pretrain(sizes, grid.get(run), 0)
    expected = tensors(study.checkpoint_path(sizes, grid.get(run), 0))
    study.pretrain_path(sizes, grid.get(run), 0).unlink()
    study.checkpoint_path(sizes, grid.get(run), 0).unlink()
    monkeypatch.setenv("RECOMPUTE", "1")
    counted, real = [], recompute.checkpoint
    monkeypatch.setattr(recompute, "checkpoint", lambda *a, **k: counted.append(1) or real(*a, **k))
    again = pretrain.pretrain(sizes, grid.get(run), 0)
    found = tensors(study.checkpoint_path(sizes, grid.get(run), 0))
    assert counted and all(torch.equal(found[name], expected[name]) for name in expected)
    assert again["final_loss"] == whole["final_loss"]


@pytest.mark.parametrize("run", ["SimCLR-15", "DINO-3"])
def test_a_stop_in_the_middle_of_an_epoch_changes_no_bit(tiny, monkeypatch, run):
    sizes, _ = tiny(epochs=2, shards=2)
    whole = pretrain.pretrain(sizes, grid.get(run), 0)
    log = study.checkpoint_path(sizes, grid.get(run), 0).with_name("log.jsonl")
    expected, lines = tensors(study.checkpoint_path(sizes, grid.get(run), 0)), log.read_text().splitlines()
    study.pretrain_path(sizes, grid.get(run), 0).unlink()
    study.checkpoint_path(sizes, grid.get(run), 0).unlink()
    for step in range(1, 6):  # after every step of both epochs but the last
        calls = []

        def after(count, real=training.train_step):
            def one(*arguments):
                calls.append(1)
                if len(calls) == count:
                    signal.raise_signal(signal.SIGUSR1)
                return real(*arguments)
            return one

        with monkeypatch.context() as patch:
            patch.setattr(training, "train_step", after(1))
            try:
                last = pretrain.pretrain(sizes, grid.get(run), 0)
            except preempt.Preempted as stop:
                assert "checkpoint written" in str(stop)
                last = None
        if last:
            break
    last = last or pretrain.pretrain(sizes, grid.get(run), 0)
    found = tensors(study.checkpoint_path(sizes, grid.get(run), 0))
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert last["final_loss"] == whole["final_loss"]
    assert '"rankme"' in lines[-1] and lines[-1].split('"rankme"')[1] == log.read_text().splitlines()[-1].split('"rankme"')[1]


@pytest.mark.parametrize("processes", [1, 2])
def test_a_signal_ends_the_command_with_its_own_status_and_the_next_one_goes_on(tiny, tmp_path, processes):
    sizes, path = tiny(epochs=30, shards=2)
    process = command(tmp_path, "SimCLR-15", "--profile", path, processes=processes)
    log = study.checkpoint_path(sizes, grid.get("SimCLR-15"), 0).with_name("log.jsonl")
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (log.exists() and '"rankme"' in log.read_text()):
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGTERM)
    output = process.communicate(timeout=120)[0]
    assert process.returncode == (preempt.STATUS if processes == 1 else 1), output
    assert output.count("checkpoint written") == 1 and '"stopped"' in log.read_text()
    stopped = log.with_name(pretrain.STOPPED)
    assert checkpoint.load(stopped)["within"]["generators"].keys() == {0, 1}
    finished(command(tmp_path, "SimCLR-15", "--profile", path))
    assert not stopped.exists()


def test_several_trainings_in_one_command_of_several_processes(tiny, tmp_path):
    _, path = tiny(shards=2)
    output = finished(command(tmp_path, "SimCLR-15", "--profile", path, "--seeds", "0,1", processes=2))
    assert "SimCLR-15 seed 0: ok" in output and "SimCLR-15 seed 1: ok" in output


def test_a_run_that_was_stopped_and_then_diverges_keeps_its_last_epochs_checkpoint(tiny, monkeypatch):
    sizes, _ = tiny(epochs=3)
    run, steps, real = grid.get("SimCLR-15"), [], training.train_step

    def step(one, parts):
        steps.append(one.position)
        if one.position == one.steps_per_epoch:  # the first of the second epoch
            signal.raise_signal(signal.SIGTERM)
        terms, embeddings = real(one, parts)
        return ({**terms, "loss": float("nan")} if one.position > one.steps_per_epoch else terms), embeddings

    monkeypatch.setattr(training, "train_step", step)
    with pytest.raises(preempt.Preempted):
        pretrain.pretrain(sizes, run, 0)
    row = pretrain.pretrain(sizes, run, 0)
    assert row["status"] == "diverged" and row["epochs"] == 1
    state = checkpoint.load(study.checkpoint_path(sizes, run, 0))
    assert state["epoch"] == 1 and state["within"] is None
    assert not study.checkpoint_path(sizes, run, 0).with_name(pretrain.STOPPED).exists()


def test_a_checkpoint_of_another_configuration_is_never_taken_for_a_finished_one(tiny):
    """Done under A, begun under B and stopped, back to A: A is trained again."""
    (sizes, _), run = tiny(epochs=1), grid.get("SimCLR-15")
    other, _ = tiny(epochs=2)
    pretrain.pretrain(sizes, run, 0)
    expected = tensors(study.checkpoint_path(sizes, run, 0))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "train_step", lambda one, parts: ({"loss": float("nan")}, torch.zeros(1, 1)))
        pretrain.pretrain(other, run, 0)
    assert study.trained(sizes, run, 0) is None
    pretrain.pretrain(sizes, run, 0)
    found = tensors(study.checkpoint_path(sizes, run, 0))
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_processes_that_cannot_share_a_batch_are_told(monkeypatch):
    monkeypatch.setattr(training.distributed, "world_size", lambda: 3)
    with pytest.raises(UserError, match="3 processes cannot share a batch of 64 images in 2 shards evenly"):
        training.own_shards(64, 2, rank=0)


@pytest.mark.parametrize("world, shards", [(1, 1), (1, 4), (2, 4), (4, 4), (8, 4), (4, 1)])
def test_every_image_of_a_batch_has_one_process(monkeypatch, world, shards):
    monkeypatch.setattr(training.distributed, "world_size", lambda: world)
    batch, seen = torch.arange(64), []
    for rank in range(world):
        own, part = training.own_shards(64, shards, rank)
        seen += [row for shard in own for row in batch[shard::shards][part].tolist()]
    assert sorted(seen) == batch.tolist() and len(seen) == 64


def test_a_notice_stands_and_the_signals_are_the_systems_again_afterwards():
    before = signal.getsignal(signal.SIGTERM)
    with preempt.watching() as notice:
        assert not notice()
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGTERM):
            signal.raise_signal(number)
            assert notice()
    assert [signal.getsignal(one) for one in preempt.SIGNALS] == [before, signal.SIG_DFL]
