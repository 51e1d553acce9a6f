"""One training, step by step: networks, views, losses and updates of the five methods. pretrain.py loops over its epochs.

A training is a function of (profile, run, seed, data), not of the number of processes: a batch is `profile.shards`
parts, each of which draws its augmentations from a generator of its own, seeded by (seed, run, epoch, shard); batch
norm sees all processes' images, and the losses all their embeddings. Its state is whole after every step.
"""

import contextlib
import copy
import math
import os
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from replicate import distributed, methods, networks, optimizers, recompute, stages
from replicate.data import augment
from replicate.errors import UserError
from replicate.grid import Run
from replicate.methods import dino
from replicate.profile import Profile
from replicate.progress import Progress
from replicate.rank import estimators
from replicate.rank.spectrum import Gram

RANK_SAMPLES = 1024  # embeddings of the last steps of an epoch, whose RankMe is logged
LARS_END, DINO_END_LR, DINO_CLIP = 1e-3, 1e-6, 3.0  # VICReg's end of the schedule; DINO's last lr and gradient clip


class Diverged(Exception):
    """The loss or a weight is not finite."""


class Stopped(Exception):
    """Asked to stop in the middle of an epoch; the state is whole."""


class Training:
    """The state of one training: networks, optimizer, and how far it came in which epoch."""

    def __init__(self, profile: Profile, run: Run, seed: int, device: str, n_images: int):
        self.profile, self.run, self.seed, self.device = profile, run, seed, device
        self.batch = profile.batch_of(run)
        self.steps_per_epoch = n_images // self.batch
        self.epochs = profile.epochs_of(run)
        self.epoch, self.seconds, self.loss = 0, 0.0, math.nan
        self.dtype = torch.float64 if profile.precision == "float64" else torch.float32  # of weights and losses
        self.shards, self.part = own_shards(self.batch, profile.shards)
        torch.manual_seed(stages.derived_seed("init", seed, run.run))
        prototypes = profile.dino_prototypes if run.method == "DINO" else 0
        network = networks.build(profile.network, profile.width, profile.projector_of(run), prototypes)
        self.network = distributed.synchronise(network, device).to(device, self.dtype, memory_format=torch.channels_last)
        self.teacher, self.centre = None, None
        if run.method == "DINO":
            self.teacher = copy.deepcopy(self.network).requires_grad_(False)
            self.centre = torch.zeros(prototypes, dtype=self.dtype, device=device)
            self.optimizer = optimizers.AdamW(list(self.network.parameters()))
        else:
            self.optimizer = optimizers.LARS(list(self.network.parameters()), float(run.weight_decay))
        if os.environ.get("RECOMPUTE") == "1":
            recompute.blocks(self.network.backbone)
        if profile.torch_compile:
            self.network.backbone.compile()
        self.parallel = distributed.wrap(self.network)
        self.begin_epoch()

    @property
    def total(self) -> int:
        return self.epochs * self.steps_per_epoch

    @property
    def position(self) -> int:
        """Steps done since the beginning."""
        return self.epoch * self.steps_per_epoch + self.step

    def begin_epoch(self) -> None:
        """Step 0, with the generators of this process's shards: the CPU's, so that views are the same on every device."""
        self.step, self.sums, self.tail = 0, {}, []
        self.generators = [torch.Generator() for _ in self.shards]
        for shard, generator in zip(self.shards, self.generators):
            generator.manual_seed(stages.derived_seed("views", self.seed, self.run.run, self.epoch, shard))

    def lr(self) -> float:
        peak, end = self.profile.lr_of(self.run), DINO_END_LR
        if self.run.optimizer == "LARS":
            end = peak * LARS_END
        warmup = round(self.profile.warmup_epochs * self.steps_per_epoch)
        return optimizers.learning_rate(self.position, self.total, warmup, peak, end)

    def state(self, hash_: str) -> dict:
        """All that a checkpoint holds. In the middle of an epoch every process must call it."""
        return {
            "fingerprint": hash_, "epoch": self.epoch, "seconds": self.seconds, "loss": self.loss,
            "network": self.network.state_dict(), "optimizer": self.optimizer.state(),
            "teacher": self.teacher.state_dict() if self.teacher else None, "centre": self.centre,
            "within": self._within() if self.step else None,
        }  # fmt: skip

    def _within(self) -> dict:
        """The state of an unfinished epoch, with all shards' generators."""
        states = distributed.gather_bytes(torch.stack([one.get_state() for one in self.generators]), self.device)
        owners = [own_shards(self.batch, self.profile.shards, rank)[0] for rank in range(distributed.world_size())]
        by_shard = {shard: state.clone() for shards, found in zip(owners, states)
                    for shard, state in zip(shards, found)}  # fmt: skip
        return {"step": self.step, "sums": self.sums, "tail": self.tail, "generators": by_shard}

    def load_state(self, state: dict) -> None:
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state(state["optimizer"])
        if self.teacher:
            self.teacher.load_state_dict(state["teacher"])
            self.centre = state["centre"]
        self.epoch, self.seconds, self.loss = state["epoch"], state["seconds"], state["loss"]
        self.begin_epoch()
        within = state.get("within")
        if within:
            self.step, self.sums, self.tail = within["step"], within["sums"], within["tail"]
            for shard, generator in zip(self.shards, self.generators):
                generator.set_state(within["generators"][shard].cpu())

    def autocast(self):
        if self.profile.precision != "bf16":
            return contextlib.nullcontext()
        return torch.autocast(self.device.split(":")[0], torch.bfloat16)


def own_shards(batch: int, shards: int, rank: int | None = None) -> tuple[list[int], slice]:
    """Which of a batch's shards a process draws (its own if no rank is given), and which of their rows it keeps.

    With more processes than shards several draw the same one and each keeps its part. Raises UserError where the
    processes do not divide the batch evenly.
    """
    world, rank = distributed.world_size(), distributed.rank() if rank is None else rank
    if max(world, shards) % min(world, shards) or batch % max(world, shards):
        raise UserError(f"{world} processes cannot share a batch of {batch} images in {shards} shards evenly: "
                        "take a number of processes that divides them, or a multiple of the shards that divides the batch")
    if world <= shards:
        return list(range(rank, shards, world)), slice(None)
    return [rank % shards], slice(rank // shards, None, world // shards)


def batches(training: Training, images) -> Iterator[list]:
    """From the current step of the epoch on, for each step a list over this process's shards of what views are made of.

    images: uint8 tensor (N, 3, S, S), of which each shard is rows (n, 3, S, S) on the training's device; or a streamed
    set of files, of which each shard is a tuple of uint8 crops (count, n, 3, px, px).
    """
    order = torch.Generator().manual_seed(stages.derived_seed("order", training.seed, training.run.run, training.epoch))
    whole = torch.randperm(len(images), generator=order)[: training.steps_per_epoch * training.batch]
    steps = [[index[shard :: training.profile.shards] for shard in training.shards]
             for index in whole.split(training.batch)[training.step :]]  # fmt: skip
    if isinstance(images, Tensor):
        for parts in steps:
            yield [images[part.to(images.device)].to(training.device) for part in parts]
        return
    from replicate.data import jpeg  # torchvision, 3 s to import, needless for arrays

    indices = [[part.numpy() for part in parts] for parts in steps]
    key = (training.seed, training.run.run, training.epoch)
    yield from jpeg.batches(images, indices, crops(training), key, training.profile.workers, training.device)


def crops(training: Training) -> tuple:
    """What is cut out of a file for one image: two views, or DINO's global and local crops."""
    from replicate.data.jpeg import Crop

    profile = training.profile
    if training.run.method != "DINO":
        return (Crop(2, profile.px, tuple(profile.crop_area)),)
    return (Crop(2, profile.px, tuple(profile.global_area)),
            Crop(profile.local_crops, profile.local_px, tuple(profile.local_area)))  # fmt: skip


def views(training: Training, parts: list) -> list[Tensor]:
    """This process's views of a batch, a tensor (count, n, 3, px, px) for each size: two views; for DINO its crops."""
    drawn = [_coloured(part, generator) if isinstance(part, tuple) else _augmented(training, part, generator)
             for part, generator in zip(parts, training.generators)]  # fmt: skip
    return [torch.cat(same, dim=1)[:, training.part].to(training.dtype) for same in zip(*drawn)]


def _augmented(training: Training, images: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
    profile = training.profile
    if training.run.method != "DINO":
        return (torch.stack(augment.two_views(images, profile.px, generator, tuple(profile.crop_area))),)
    return augment.multi_crop(images, profile.px, generator, tuple(profile.global_area), tuple(profile.local_area),
                              profile.local_px, profile.local_crops)


def _coloured(cut: tuple[Tensor, ...], generator: torch.Generator) -> tuple[Tensor, ...]:
    """Crops of files, coloured as augment colours its own: the first tensor BYOL's two views, a second one local crops."""
    from replicate.data import jpeg

    kinds = [(augment.FIRST_VIEW, augment.SECOND_VIEW), (augment.LOCAL_VIEW,) * len(cut[-1])]
    return tuple(torch.stack([jpeg.colours(one, generator, *kind) for one, kind in zip(same, kind_of)])
                 for same, kind_of in zip(cut, kinds) if len(same))  # fmt: skip


def two_view_terms(training: Training, pair: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """The loss of SimCLR and the VICReg family on two views (2, n, 3, px, px); also the first view's embeddings."""
    run = training.run
    with training.autocast():
        _, embeddings = training.parallel(pair.flatten(0, 1).to(memory_format=torch.channels_last))
    z1, z2 = embeddings.to(training.dtype).chunk(2)
    return methods.METHODS[run.method].loss(z1, z2, **run.loss_arguments()), z1


def dino_terms(training: Training, crops: list[Tensor]) -> tuple[dict[str, Tensor], Tensor]:
    """DINO's loss on two global and some local crops; the centre follows the teacher's outputs."""
    run, n = training.run, crops[0].shape[1]
    crops = [c.flatten(0, 1).to(memory_format=torch.channels_last) for c in crops if len(c)]
    with training.autocast():
        embeddings = [training.parallel(c)[1] for c in crops]
        student = torch.cat([training.network.logits(e) for e in embeddings]).to(training.dtype)
        with torch.no_grad():
            teacher = training.teacher.logits(training.teacher(crops[0])[1]).to(training.dtype)
    student, teacher = student.view(-1, n, student.shape[1]), teacher.view(2, n, -1)
    terms = dino.loss(student, teacher, training.centre, **run.loss_arguments())
    training.centre = dino.update_centre(training.centre, teacher)
    return terms, embeddings[0][:n].to(training.dtype)


@torch.no_grad()
def dino_update(training: Training) -> None:
    """Clip each parameter's gradient, step AdamW with its weight decay's schedule, move the teacher."""
    profile, network, step = training.profile, training.network, training.position
    if step < profile.freeze_prototypes_epochs * training.steps_per_epoch:
        network.prototypes.grad = None
    for parameter in network.parameters():
        if parameter.grad is not None:
            parameter.grad.mul_((DINO_CLIP / (parameter.grad.norm() + 1e-6)).clamp(max=1.0))
    start, _, end = training.run.weight_decay.partition("->")
    decay = optimizers.cosine(step, training.total, float(start), float(end or start))
    training.optimizer.step(training.lr(), decay)
    momentum = dino.momentum(step, training.total, profile.teacher_momentum)
    dino.update_teacher(training.teacher, network, momentum)


def train_step(training: Training, parts: list) -> tuple[dict[str, float], Tensor]:
    """One update from one item of `batches`. Returns the terms of this process's loss and its embeddings of one view."""
    drawn = views(training, parts)
    is_dino = training.run.method == "DINO"
    terms, embeddings = dino_terms(training, drawn) if is_dino else two_view_terms(training, drawn[0])
    for parameter in training.network.parameters():
        parameter.grad = None
    terms["loss"].backward()
    if is_dino:
        dino_update(training)
    else:
        training.optimizer.step(training.lr())
    return {name: float(value.detach()) for name, value in terms.items()}, embeddings.detach()


def train_epoch(training: Training, images, progress: Progress, stop: Callable[[], bool] = lambda: False) -> dict:
    """The rest of the epoch. Returns means of the loss's terms and RankMe. Raises Diverged; Stopped where stop() says so."""
    for parts in batches(training, images):
        terms, embeddings = train_step(training, parts)
        terms = distributed.mean({**terms, "stop": float(stop())}, training.device)
        stopped = terms.pop("stop") > 0
        if not math.isfinite(terms["loss"]):
            raise Diverged(f"loss {terms['loss']} at step {training.position}")
        if (training.steps_per_epoch - training.step - 1) * training.batch < RANK_SAMPLES:
            training.tail.append(distributed.gather(embeddings))
        training.sums = {name: training.sums.get(name, 0.0) + value for name, value in terms.items()}
        training.step += 1
        progress.update(note=f"loss {terms['loss']:.3f}")
        if stopped:
            raise Stopped
    return end_epoch(training)


def end_epoch(training: Training) -> dict:
    """What the epoch gave, and on to the next one. Raises Diverged."""
    for name, value in training.network.state_dict().items():
        if not torch.isfinite(value).all():
            raise Diverged(f"{name} not finite after epoch {training.epoch + 1}")
    gram = Gram(training.profile.projector_of(training.run)[-1])
    for embeddings in training.tail:
        gram.update(embeddings)
    rank = estimators.rankme(gram.spectrum(centred=False).singular_values)
    means = {name: value / training.steps_per_epoch for name, value in training.sums.items()}
    training.loss = means["loss"]
    training.epoch += 1
    training.begin_epoch()
    return {**means, "rankme": rank}
