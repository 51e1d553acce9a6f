import dataclasses
import json
import math

import pytest
import torch

from replicate import checkpoint, grid, pretrain, stages, study, training
from replicate.data import cache
from replicate.errors import UserError

RUNS = ["SimCLR-15", "VICReg-9", "VICReg-exp-3", "VICReg-ctr-2", "DINO-3"]
TIMES = ("wall_seconds", "peak_memory_mb", "checkpoint_sha256")  # the checkpoint holds its seconds


@pytest.fixture
def prepared(smoke):
    cache.prepare(smoke, "imagenet")
    return smoke


def weights(profile, run):
    state = checkpoint.load(study.checkpoint_path(profile, run, 0))
    return {f"{part}.{name}": value for part in ("network", "teacher") for name, value in (state[part] or {}).items()}


def interrupted_after(epochs, monkeypatch):
    """Make the loop stop as a killed process would, once a checkpoint of that epoch is on disk."""
    real, seen = checkpoint.save, []

    def save(path, state):
        real(path, state)
        seen.append(path)
        if len(seen) == epochs:
            raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "save", save)


@pytest.mark.parametrize("name", RUNS)
def test_four_epochs_are_two_and_a_resume_and_two_bit_for_bit(prepared, name, monkeypatch):
    profile, run = dataclasses.replace(prepared, epochs=4), grid.get(name)
    whole = pretrain.pretrain(profile, run, 0)
    expected = weights(profile, run)
    for path in (study.checkpoint_path(profile, run, 0), study.pretrain_path(profile, run, 0)):
        path.unlink()
    with monkeypatch.context() as patch:
        interrupted_after(2, patch)
        with pytest.raises(KeyboardInterrupt):
            pretrain.pretrain(profile, run, 0)
    resumed = pretrain.pretrain(profile, run, 0)
    found = weights(profile, run)
    assert all(torch.equal(found[key], expected[key]) for key in expected) and found.keys() == expected.keys()
    assert {k: v for k, v in whole.items() if k not in TIMES} == {k: v for k, v in resumed.items() if k not in TIMES}
    lines = [json.loads(line) for line in open(study.checkpoint_path(profile, run, 0).with_name("log.jsonl"))]
    assert [line["epoch"] for line in lines if "epoch" in line] == [1, 2, 3, 4]
    assert lines[0]["config"]["run"] == name and lines[3]["from_epoch"] == 2


def test_repeats_and_seeds_are_trainings_of_their_own(prepared):
    losses = {pretrain.pretrain(prepared, grid.get(name), seed)["final_loss"]
              for name, seed in (("SimCLR-15", 0), ("SimCLR-20", 0), ("SimCLR-15", 1))}
    assert len(losses) == 3


def test_a_finished_training_is_not_repeated_and_a_changed_one_is(prepared):
    run = grid.get("SimCLR-15")
    first = pretrain.pretrain(prepared, run, 0)
    before = study.checkpoint_path(prepared, run, 0).stat().st_mtime_ns
    assert pretrain.pretrain(prepared, run, 0) == {"fingerprint": first["config_hash"], **first}
    assert study.checkpoint_path(prepared, run, 0).stat().st_mtime_ns == before
    changed = dataclasses.replace(prepared, lr_scale={**prepared.lr_scale, "LARS": 1.0})
    assert pretrain.pretrain(changed, run, 0)["config_hash"] != first["config_hash"]
    assert study.pretrain_hash(changed, grid.get("DINO-3"), 0) == study.pretrain_hash(prepared, grid.get("DINO-3"), 0)


def test_a_loss_that_is_not_finite_ends_the_run_as_diverged(prepared, monkeypatch):
    profile, run = dataclasses.replace(prepared, epochs=3), grid.get("SimCLR-15")
    real, steps = training.train_step, []

    def train_step(one, parts):
        terms, embeddings = real(one, parts)
        steps.append(one.position)
        return ({**terms, "loss": math.nan} if one.position >= 5 else terms), embeddings

    monkeypatch.setattr(training, "train_step", train_step)
    row = pretrain.pretrain(profile, run, 0)
    assert row["status"] == "diverged" and "step 5" in row["note"]
    per_epoch = 384 // profile.batch_of(run)
    assert row["epochs"] == 5 // per_epoch and max(steps) == 5
    assert checkpoint.load(study.checkpoint_path(profile, run, 0))["epoch"] == row["epochs"]
    assert stages.read_output(study.pretrain_path(profile, run, 0), row["config_hash"])["status"] == "diverged"


def test_an_older_checkpoint_does_not_stand_for_a_run_that_diverges_at_once(prepared, monkeypatch):
    run, changed = grid.get("VICReg-9"), dataclasses.replace(prepared, epochs=1)
    pretrain.pretrain(prepared, run, 0)
    monkeypatch.setattr(training, "train_step", lambda one, parts: ({"loss": math.nan}, torch.zeros(1, 1)))
    row = pretrain.pretrain(changed, run, 0)
    assert row["status"] == "diverged" and row["epochs"] == 0 and row["checkpoint_sha256"] is None
    assert not study.checkpoint_path(changed, run, 0).exists()


def test_a_truncated_checkpoint_is_one_clear_error(prepared):
    run = grid.get("VICReg-9")
    pretrain.pretrain(prepared, run, 0)
    study.pretrain_path(prepared, run, 0).unlink()
    path = study.checkpoint_path(prepared, run, 0)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match="damaged checkpoint"):
        pretrain.pretrain(prepared, run, 0)


def test_training_learns(prepared):
    """The loss of the last epoch is below that of the first; DINO is left out, whose target moves with its teacher."""
    profile = dataclasses.replace(prepared, epochs=6)
    for name in RUNS[:4]:
        run = grid.get(name)
        pretrain.pretrain(profile, run, 0)
        log = study.checkpoint_path(profile, run, 0).with_name("log.jsonl")
        losses = [line["loss"] for line in map(json.loads, open(log)) if "loss" in line]
        assert losses[-1] < losses[0], name


def test_dinos_centre_and_teacher_move_and_are_kept(prepared):
    run = grid.get("DINO-3")
    pretrain.pretrain(prepared, run, 0)
    state = checkpoint.load(study.checkpoint_path(prepared, run, 0))
    assert state["centre"].abs().sum() > 0
    difference = [(state["network"][k] - state["teacher"][k]).abs().max() for k in state["network"] if "conv" in k]
    assert max(difference) > 0
