"""Pretraining: the loop over the epochs of one training, what it leaves on disk, and where it goes on.

The numbers are made in training.py. A checkpoint at an epoch's end, or where a signal stopped it, continues bit for bit.
"""

import contextlib
import math
import resource
import sys
import time
from pathlib import Path

import numpy as np
import torch

from replicate import __version__, checkpoint, distributed, grid, locks, paths, preempt, stages, study
from replicate.data import cache
from replicate.errors import UserError
from replicate.grid import Run
from replicate.profile import Profile
from replicate.progress import Log, Progress
from replicate.training import Diverged, Stopped, Training, train_epoch

STOPPED = "stopped.pt"  # the state at a stop within an epoch, which is never evaluated


def pretrain(profile: Profile, run: Run, seed: int, device: str = "cpu") -> dict:
    """Train `run` or go on where it stopped; returns pretrain.json's content, a row of runs.csv. Does nothing if done.

    Under torchrun or srun every process calls it. Raises preempt.Preempted where a signal stopped it, with its
    checkpoint on disk.
    """
    folder, hash_ = paths.run_dir(profile.name, run.run, seed), study.pretrain_hash(profile, run, seed)
    torch.set_num_threads(profile.threads)
    own = distributed.join(device)
    with _lock(folder, run, seed):
        done = study.trained(profile, run, seed)
        if distributed.of_first(int(done is not None), own):
            return done or study.trained(profile, run, seed)
        if distributed.rank() == 0:
            paths.sweep(folder)
            (folder / paths.MARKER).unlink(missing_ok=True)  # it would vouch for the checkpoint that comes now
        images = source_images(profile, run)
        training = Training(profile, run, seed, own, len(images))
        log = start_log(training, folder, hash_, resume(training, folder, hash_))
        with preempt.watching() as notice:
            status, note = fit(training, images, folder, hash_, log, notice)
        row = finish(training, status, note, hash_, folder)
        if distributed.rank() == 0:
            stages.write_output(folder / paths.MARKER, hash_, row)
        distributed.barrier()
    return row


def _lock(folder: Path, run: Run, seed: int):
    """One training of a run at a time. Of many processes the first holds it; it cannot let the others wait for long."""
    if distributed.rank() > 0:
        return contextlib.nullcontext()
    return locks.held(folder / ".lock", f"{run.run} seed {seed}", wait=distributed.world_size() == 1)


def source_images(profile: Profile, run: Run):
    """What the training reads: uint8 tensor (N, 3, S, S) in memory, or a streamed set of files."""
    images = cache.load(profile, profile.source_of(run)).train
    return images if profile.streamed else torch.from_numpy(np.array(images))


def resume(training: Training, folder: Path, hash_: str) -> bool:
    """Load what a stop or an epoch's end left under the same fingerprint; the first process says which, older files go."""
    found, state = _left(folder, hash_) if distributed.rank() == 0 else (None, None)
    found = distributed.of_first(-1 if found is None else found, training.device)
    if found < 0:
        return False
    # By the CPU: AdamW counts its steps there.
    training.load_state(checkpoint.load(folder / (STOPPED, paths.CHECKPOINT)[found]) if state is None else state)
    if training.centre is not None:
        training.centre = training.centre.to(training.device)
    if distributed.of_first(training.position, training.device) != training.position:
        raise UserError(f"{folder}: the processes read different checkpoints: is the disk shared and in order?")
    return True


def _left(folder: Path, hash_: str) -> tuple[int | None, dict | None]:
    """Which of (STOPPED, paths.CHECKPOINT) goes on, and its content; files of another fingerprint are removed."""
    found = None, None
    for place, path in enumerate((folder / STOPPED, folder / paths.CHECKPOINT)):
        if not path.exists():
            continue
        state = checkpoint.load(path)
        if state.get("fingerprint") != hash_:
            path.unlink()
        elif found[0] is None:
            found = place, state
    return found


def start_log(training: Training, folder: Path, hash_: str, resumed: bool) -> Log | None:
    """The log, its first line the command and configuration; the first process's alone."""
    if distributed.rank() > 0:
        return None
    log = Log(folder / paths.LOG, fresh=not resumed)
    log.write(command=sys.argv, config=study.training_config(training.profile, training.run, training.seed),
              fingerprint=hash_, from_epoch=training.epoch, from_step=training.step, processes=distributed.world_size())
    return log


def fit(training: Training, images, folder: Path, hash_: str, log: Log | None, stop) -> tuple[str, str]:
    """Train to the end; checkpoints on the way. Returns status and note. Raises preempt.Preempted."""
    progress = Progress(f"{training.run.run} seed {training.seed}", training.total, training.position,
                        quiet=log is None)  # fmt: skip
    try:
        while training.epoch < training.epochs:
            fit_epoch(training, images, log, progress, stop)
            last = training.epoch == training.epochs
            if last or training.epoch % training.profile.checkpoint_every == 0:
                save(training, folder / paths.CHECKPOINT, hash_)
                forget_stop(folder)
    except Diverged as error:
        forget_stop(folder)
        if log:
            log.write(diverged=str(error), epoch=training.epoch)
        saved = training.epoch - training.epoch % training.profile.checkpoint_every
        return "diverged", f"{error}; last finite checkpoint: epoch {saved} of {training.epochs}"
    except Stopped:
        save(training, folder / STOPPED, hash_)
        where = f"in epoch {training.epoch + 1} of {training.epochs}, after its step {training.step}"
        if log:
            log.write(stopped=where)
        raise preempt.Preempted(f"{training.run.run} seed {training.seed}: stopped {where}, checkpoint written") from None
    finally:
        progress.close()
    return "ok", ""


def fit_epoch(training: Training, images, log: Log | None, progress: Progress, stop) -> None:
    """The rest of the epoch, its line in the log and its seconds."""
    start, first = time.monotonic(), training.step
    try:
        values = train_epoch(training, images, progress, stop)
    finally:
        seconds = time.monotonic() - start
        training.seconds += seconds
    rate = (training.steps_per_epoch - first) * training.batch / seconds
    if log:
        log.write(epoch=training.epoch, images_per_second=round(rate), seconds=round(seconds, 2), **values)
        progress.line(f"loss {values['loss']:.3f}, RankMe {values['rankme']:.1f}, {rate:.0f} images/s")


def save(training: Training, path: Path, hash_: str) -> None:
    """Write the state; all processes call it, and none goes on before it is on disk."""
    state = training.state(hash_)
    if distributed.rank() == 0:
        checkpoint.save(path, state)
    distributed.barrier()


def forget_stop(folder: Path) -> None:
    """A stop's state is no checkpoint to evaluate: it is in the middle of an epoch, and perhaps no longer finite."""
    if distributed.rank() == 0:
        (folder / STOPPED).unlink(missing_ok=True)


def finish(training: Training, status: str, note: str, hash_: str, folder: Path) -> dict:
    """The row of runs.csv, and the checksum of the checkpoint that it is about."""
    profile, run = training.profile, training.run
    if run.extra:
        note = "; ".join(filter(None, [f"extra: beyond the end of sweep {' '.join(run.sweeps)}", note]))
    return {
        "run": run.run, "method": run.method, "source": profile.source_of(run),
        "sweeps": "" if run.extra else " ".join(run.sweeps), "seed": training.seed, "status": status, "note": note,
        "epochs": training.epoch, "steps": training.epoch * training.steps_per_epoch,
        **{name: getattr(run, name) for name in grid.HYPERPARAMETERS},
        "final_loss": training.loss if math.isfinite(training.loss) else None, "wall_seconds": round(training.seconds, 1),
        "peak_memory_mb": peak_memory_mb(training.device), "device": device_name(training.device),
        "precision": profile.precision, "torch_version": torch.__version__, "code_version": __version__,
        "config_hash": hash_, "checkpoint_sha256": checkpoint.sha256(folder / paths.CHECKPOINT),
    }  # fmt: skip


def peak_memory_mb(device: str) -> int:
    """Of the GPU where there is one, else of the process."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device) // 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def device_name(device: str) -> str:
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else "cpu"
