import dataclasses

import pytest
import torch

from replicate import checkpoint, grid, paths, plan, pretrain, profile, results, status, training
from replicate.__main__ import main
from replicate.data import cache

PAPER, MINI = profile.load("paper"), profile.load("mini")


def waiting(runs, epoch=0, state="waiting"):
    return [status.State(run, 0, state, epoch, 100) for run in runs]


def test_the_grids_hours_follow_from_the_published_ones(home):
    """110 trainings, each as many images as 100 epochs of ImageNet within 3 %: 110 x 8 GPUs x 32 or 12 hours."""
    found = waiting(grid.load(extra=False))
    for machine, hours in (("a100-torchvision", 110 * 8 * 32), ("a100-ffcv", 110 * 8 * 12)):
        based = plan.basis(PAPER, [], machine, "cpu", 8)
        assert plan.hours_of(PAPER, found, based) == pytest.approx(hours, rel=0.01)


def test_only_what_is_left_is_counted(home):
    based = plan.basis(PAPER, [], "a100-ffcv", "cpu", 8)
    whole = plan.hours_of(PAPER, waiting([grid.get("DINO-3")]), based)
    stopped = waiting([grid.get("DINO-3")], epoch=75, state="stopped")
    assert plan.hours_of(PAPER, stopped, based) == pytest.approx(whole / 4)
    for state in status.DONE:
        assert plan.hours_of(PAPER, waiting([grid.get("DINO-3")], state=state), based) == 0


def test_images_are_whole_batches(home):
    assert plan.images_of(PAPER, grid.get("VICReg-1")) == 1251 * 1024 * 100
    assert plan.images_of(PAPER, grid.get("SimCLR-15")) == 625 * 2048 * 100
    assert plan.images_of(PAPER, grid.get("iNat18-VICReg-0")) == 427 * 1024 * 300
    assert plan.images_of(MINI, grid.get("VICReg-1")) == 46 * 128 * 8


def test_cached_rows_give_the_rates_of_their_methods_and_the_mean_to_others(home):
    row = {"seed": 0, "method": "VICReg", "steps": 46, "batch_size": 1024, "device": "cpu"}
    rows = [{**row, "run": f"VICReg-{i}", "wall_seconds": seconds} for i, seconds in enumerate((4, 12))]
    rows.append({**row, "run": "SimCLR-15", "method": "SimCLR", "steps": 23, "batch_size": 2048, "wall_seconds": 16})
    results.write("mini", "runs", rows)
    based = plan.from_rows(MINI)
    images = 46 * 128
    assert based.rates["VICReg"] == 2 * images / 16 and based.rates["SimCLR"] == images / 16
    assert based.rates["DINO"] == 3 * images / 32 and based.unit == "a process of 1 thread"


def test_a_line_through_two_timings():
    assert plan._line((4, 3.0), (8, 5.0), 128) == 65.0
    assert plan._line((4, 3.0), (8, 2.5), 128) == 2.5  # noise: never falls


@pytest.mark.parametrize("name", ["SimCLR-15", "DINO-3"])
def test_checkpoints_are_as_large_as_foreseen(smoke, name):
    run = grid.get(name)
    state = training.Training(smoke, run, 0, "cpu", 128)
    if name == "DINO-3":  # whose optimizer has its buffers after the first step
        training.train_step(state, [torch.randint(0, 256, (64, 3, 32, 32), dtype=torch.uint8)])
    checkpoint.save(paths.HOME / "checkpoint.pt", state.state("x"))
    assert (paths.HOME / "checkpoint.pt").stat().st_size == pytest.approx(plan.checkpoint_bytes(smoke, run), rel=0.03)


def test_prepared_data_is_as_large_as_foreseen(smoke):
    for name in ("imagenet", "cars"):
        expected = plan.data_bytes(smoke, name)
        folder = cache.prepare(smoke, name)
        assert sum(file.stat().st_size for file in folder.iterdir()) == pytest.approx(expected, rel=0.02)


def test_timed_steps_are_those_of_a_training(smoke, monkeypatch):
    monkeypatch.setattr(plan, "SECONDS", 0.0)
    seconds, gigabytes = plan.timed_steps(dataclasses.replace(smoke, threads=1), grid.get("DINO-3"), "cpu", 4)
    assert 0 < seconds < 60 and pretrain.peak_memory_mb("cpu") * 2**20 / 1e9 >= gigabytes > 0.1


def test_the_papers_plan_fits_a_screen(home, capsys):
    assert main(["plan", "--profile", "paper"]) == 0
    out = capsys.readouterr().out
    assert "profile paper, 114 trainings: 114 waiting (4 of them extra)" in out
    assert "28,238 without the extra runs" in out
    assert "on 8" in out and "checkpoints 129.0 GB" in out and max(map(len, out.splitlines()[1:])) <= 160  # the first has the profile's hint
    assert main(["plan", "VICReg-1", "--profile", "paper", "--short"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1


@pytest.mark.parametrize("arguments, says", [
    (["--machine", "a100-ffcv", "--profile", "mini"], "which profile mini is not"),
    (["--machine", "tpu", "--profile", "paper"], "use here, cached, a100-torchvision or a100-ffcv"),
    (["--profile", "mini"], "--machine here times some steps"),
    (["--gpus", "0", "--profile", "paper"], "--gpus is 0"),
])  # fmt: skip
def test_what_tells_no_time_is_one_line(home, capsys, arguments, says):
    assert main(["plan", "VICReg-1", *arguments]) == 2
    err = capsys.readouterr().err
    assert says in err and err.count("\n") == 1
