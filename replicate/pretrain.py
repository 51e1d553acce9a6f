"""Pretraining: one loop for the five methods.

A training is a function of (profile, run, seed, data): every epoch draws its order and augmentations from a generator
seeded by (seed, run, epoch, process), so a checkpoint at an epoch's end continues bit for bit.
"""

import contextlib
import copy
import math
import resource
import sys
import time

import numpy as np
import torch
from torch import Tensor

from replicate import __version__, checkpoint, distributed, grid, methods, networks, optimizers, paths, stages, study
from replicate.data import augment, cache
from replicate.grid import Run
from replicate.methods import dino
from replicate.profile import Profile
from replicate.progress import Log, Progress
from replicate.rank import estimators
from replicate.rank.spectrum import Gram

RANK_SAMPLES = 1024  # embeddings of the last steps of an epoch, whose RankMe is logged
LARS_END, DINO_END_LR, DINO_CLIP = 1e-3, 1e-6, 3.0  # VICReg's end of the schedule; DINO's last lr and gradient clip


class Diverged(Exception):
    """The loss or a weight is not finite."""


class Training:
    """The state of one training: networks, optimizer and how far it came."""

    def __init__(self, profile: Profile, run: Run, seed: int, device: str, n_images: int):
        self.profile, self.run, self.seed, self.device = profile, run, seed, device
        self.batch = profile.batch_of(run)
        self.steps_per_epoch = n_images // self.batch
        self.epochs = profile.epochs_of(run)
        self.epoch, self.seconds, self.loss = 0, 0.0, math.nan
        torch.manual_seed(stages.derived_seed("init", seed, run.run))
        prototypes = profile.dino_prototypes if run.method == "DINO" else 0
        network = networks.build(profile.network, profile.width, profile.projector_of(run), prototypes)
        self.network = network.to(device, memory_format=torch.channels_last)
        self.teacher, self.centre = None, None
        if run.method == "DINO":
            self.teacher = copy.deepcopy(self.network).requires_grad_(False)
            self.centre = torch.zeros(prototypes, device=device)
            self.optimizer = optimizers.AdamW(list(self.network.parameters()))
        else:
            self.optimizer = optimizers.LARS(list(self.network.parameters()), float(run.weight_decay))
        self.parallel = distributed.wrap(self.network, device)

    @property
    def total(self) -> int:
        return self.epochs * self.steps_per_epoch

    def lr(self, step: int) -> float:
        peak, end = self.profile.lr_of(self.run), DINO_END_LR
        if self.run.optimizer == "LARS":
            end = peak * LARS_END
        warmup = round(self.profile.warmup_epochs * self.steps_per_epoch)
        return optimizers.learning_rate(step, self.total, warmup, peak, end)

    def state(self, hash_: str) -> dict:
        return {
            "fingerprint": hash_, "epoch": self.epoch, "seconds": self.seconds, "loss": self.loss,
            "network": self.network.state_dict(), "optimizer": self.optimizer.state(),
            "teacher": self.teacher.state_dict() if self.teacher else None, "centre": self.centre,
        }  # fmt: skip

    def load_state(self, state: dict) -> None:
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state(state["optimizer"])
        if self.teacher:
            self.teacher.load_state_dict(state["teacher"])
            self.centre = state["centre"]
        self.epoch, self.seconds, self.loss = state["epoch"], state["seconds"], state["loss"]

    def autocast(self):
        if self.profile.precision == "float32":
            return contextlib.nullcontext()
        return torch.autocast(self.device.split(":")[0], torch.bfloat16)


def two_view_terms(training: Training, images: Tensor, generator: torch.Generator) -> tuple[dict[str, Tensor], Tensor]:
    """The loss of SimCLR and the VICReg family on two views; also the first view's embeddings."""
    profile, run = training.profile, training.run
    views = torch.cat(augment.two_views(images, profile.px, generator, tuple(profile.crop_area)))
    with training.autocast():
        _, embeddings = training.parallel(views.to(memory_format=torch.channels_last))
    z1, z2 = embeddings.float().chunk(2)
    return methods.METHODS[run.method].loss(z1, z2, **run.loss_arguments()), z1


def dino_terms(training: Training, images: Tensor, generator: torch.Generator) -> tuple[dict[str, Tensor], Tensor]:
    """DINO's loss on two global and some local crops; the centre follows the teacher's outputs."""
    profile, run, n = training.profile, training.run, len(images)
    crops = augment.multi_crop(images, profile.px, generator, tuple(profile.global_area), tuple(profile.local_area),
                               profile.local_px, profile.local_crops)
    crops = [c.flatten(0, 1).to(memory_format=torch.channels_last) for c in crops if len(c)]
    with training.autocast():
        embeddings = [training.parallel(c)[1] for c in crops]
        student = torch.cat([training.network.logits(e) for e in embeddings]).float()
        with torch.no_grad():
            teacher = training.teacher.logits(training.teacher(crops[0])[1]).float()
    student, teacher = student.view(-1, n, student.shape[1]), teacher.view(2, n, -1)
    terms = dino.loss(student, teacher, training.centre, **run.loss_arguments())
    training.centre = dino.update_centre(training.centre, teacher)
    return terms, embeddings[0][:n].float()


@torch.no_grad()
def dino_update(training: Training, step: int) -> None:
    """Clip each parameter's gradient, step AdamW with its weight decay's schedule, move the teacher."""
    profile, network = training.profile, training.network
    if step < profile.freeze_prototypes_epochs * training.steps_per_epoch:
        network.prototypes.grad = None
    for parameter in network.parameters():
        if parameter.grad is not None:
            parameter.grad.mul_((DINO_CLIP / (parameter.grad.norm() + 1e-6)).clamp(max=1.0))
    start, _, end = training.run.weight_decay.partition("->")
    decay = optimizers.cosine(step, training.total, float(start), float(end or start))
    training.optimizer.step(training.lr(step), decay)
    momentum = dino.momentum(step, training.total, profile.teacher_momentum)
    dino.update_teacher(training.teacher, network, momentum)


def train_step(training: Training, images: Tensor, generator: torch.Generator, step: int) -> tuple[dict, Tensor]:
    """One update. Returns the detached terms of the loss, 'loss' first, and embeddings (N, d) of one view."""
    is_dino = training.run.method == "DINO"
    terms, embeddings = (dino_terms if is_dino else two_view_terms)(training, images, generator)
    for parameter in training.network.parameters():
        parameter.grad = None
    terms["loss"].backward()
    if is_dino:
        dino_update(training, step)
    else:
        training.optimizer.step(training.lr(step))
    return {name: float(value.detach()) for name, value in terms.items()}, embeddings.detach()


def generators(training: Training) -> tuple[torch.Generator, torch.Generator]:
    """Of the epoch's order, the same on every process, and of this process's augmentations."""
    order, views = torch.Generator(), torch.Generator()  # the CPU's: the same views on every device, no wait for a GPU
    names = (training.seed, training.run.run, training.epoch)
    order.manual_seed(stages.derived_seed("order", *names))
    views.manual_seed(stages.derived_seed("views", *names, distributed.rank()))
    return order, views


def train_epoch(training: Training, images: Tensor, progress: Progress) -> dict:
    """One pass over the images, uint8 (N, 3, S, S). Returns means of the terms and the rank. Raises Diverged."""
    order, views = generators(training)
    permutation = torch.randperm(len(images), generator=order)
    share = slice(distributed.rank(), None, distributed.world_size())
    sums: dict[str, float] = {}
    gram = Gram(training.profile.projector_of(training.run)[-1])
    for i in range(training.steps_per_epoch):
        step = training.epoch * training.steps_per_epoch + i
        index = permutation[i * training.batch : (i + 1) * training.batch][share]
        batch = images[index.to(images.device)]
        terms, embeddings = train_step(training, batch.to(training.device), views, step)
        if not math.isfinite(terms["loss"]):
            raise Diverged(f"loss {terms['loss']} at step {step}")
        if (training.steps_per_epoch - i - 1) * training.batch < RANK_SAMPLES:
            gram.update(embeddings)
        sums = {name: sums.get(name, 0.0) + value for name, value in terms.items()}
        progress.update(note=f"loss {terms['loss']:.3f}")
    for name, value in training.network.state_dict().items():
        if not torch.isfinite(value).all():
            raise Diverged(f"{name} not finite after epoch {training.epoch + 1}")
    if distributed.world_size() > 1:
        gram = gram.all_reduce()
    rank = estimators.rankme(gram.spectrum(centred=False).singular_values)
    training.loss = sums["loss"] / training.steps_per_epoch
    means = {name: value / training.steps_per_epoch for name, value in sums.items()}
    return {**means, "rankme": rank}


def pretrain(profile: Profile, run: Run, seed: int, device: str = "cpu") -> dict:
    """Train `run` or go on where it stopped; returns pretrain.json's content, a row of runs.csv. Does nothing if done."""
    folder, hash_ = paths.run_dir(profile.name, run.run, seed), study.pretrain_hash(profile, run, seed)
    done = stages.read_output(folder / "pretrain.json", hash_)
    if done:
        return done
    torch.set_num_threads(profile.threads)
    with distributed.group(device):
        images = torch.from_numpy(np.array(cache.load(profile, profile.source_of(run)).train))
        training = Training(profile, run, seed, device, len(images))
        resumed = resume(training, folder, hash_)
        log = Log(folder / "log.jsonl", fresh=not resumed)
        log.write(command=sys.argv, config=study.training_config(profile, run, seed), fingerprint=hash_,
                  from_epoch=training.epoch)
        status, note = fit(training, images, folder, hash_, log)
        row = finish(training, status, note, hash_)
        if distributed.rank() == 0:
            stages.write_output(folder / "pretrain.json", hash_, row)
    return row


def resume(training: Training, folder, hash_: str) -> bool:
    """Load the checkpoint of the same fingerprint if there is one; an older one is overwritten in time."""
    path = folder / "checkpoint.pt"
    if not path.exists():
        return False
    state = checkpoint.load(path, training.device)
    if state.get("fingerprint") != hash_ or state["optimizer"] is None:
        path.unlink()
        return False
    training.load_state(state)
    return True


def fit(training: Training, images: Tensor, folder, hash_: str, log: Log) -> tuple[str, str]:
    """Train to the end; checkpoints on the way. Returns status and note."""
    name = f"{training.run.run} seed {training.seed}"
    progress = Progress(name, training.total, training.epoch * training.steps_per_epoch)
    try:
        while training.epoch < training.epochs:
            start = time.monotonic()
            values = train_epoch(training, images, progress)
            training.epoch += 1
            seconds = time.monotonic() - start
            training.seconds += seconds
            rate = training.steps_per_epoch * training.batch / seconds
            log.write(epoch=training.epoch, images_per_second=round(rate), seconds=round(seconds, 2), **values)
            progress.line(f"loss {values['loss']:.3f}, RankMe {values['rankme']:.1f}, {rate:.0f} images/s")
            last = training.epoch == training.epochs
            if distributed.rank() == 0 and (last or training.epoch % training.profile.checkpoint_every == 0):
                checkpoint.save(folder / "checkpoint.pt", training.state(hash_))
    except Diverged as error:
        log.write(diverged=str(error), epoch=training.epoch)
        return "diverged", f"{error}; last finite checkpoint: epoch {training.epoch} of {training.epochs}"
    finally:
        progress.close()
    return "ok", ""


def finish(training: Training, status: str, note: str, hash_: str) -> dict:
    """The row of runs.csv."""
    profile, run = training.profile, training.run
    if run.extra:
        note = "; ".join(filter(None, [f"extra: beyond the end of sweep {' '.join(run.sweeps)}", note]))
    return {
        "run": run.run, "method": run.method, "source": profile.source_of(run),
        "sweeps": "" if run.extra else " ".join(run.sweeps), "seed": training.seed, "status": status, "note": note,
        "epochs": training.epoch, "steps": training.epoch * training.steps_per_epoch,
        **{name: getattr(run, name) for name in grid.HYPERPARAMETERS},
        "final_loss": training.loss if math.isfinite(training.loss) else None, "wall_seconds": round(training.seconds, 1),
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, "device": device_name(training.device),
        "precision": profile.precision, "torch_version": torch.__version__, "code_version": __version__,
        "config_hash": hash_,
    }  # fmt: skip


def device_name(device: str) -> str:
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else "cpu"
