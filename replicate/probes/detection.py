"""Object detection with a pretrained backbone: Faster R-CNN C4, the whole of it fine-tuned, from torchvision's parts.

VICReg's protocol (its appendix C.3, on MoCo's detectron2 configuration): 24,000 iterations of 16 images at a learning
rate of .1, divided by ten after three quarters and eleven twelfths, linear warm-up from a third over the first 1/24,
the region proposals' losses weighted by .2, SGD with momentum .9 and weight decay 1e-4 (none on batch norm), a batch
norm behind the last stage, nothing frozen. AP50 is VOC 2007's. It is torchvision's detector and not detectron2's: both
box losses are smooth (beta 1/9) where detectron2's are absolute, images are batched whatever their aspect, and batch
norm sees the batch of one process. `python -m replicate export --format detectron2` writes what detectron2 needs.
"""

import math
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.ops import MultiScaleRoIAlign, roi_align

from replicate import checkpoint, paths, preempt, stages, study
from replicate.data import boxes
from replicate.data.boxes import Boxed
from replicate.grid import Run
from replicate.probes import finetune, voc_ap
from replicate.profile import Profile
from replicate.progress import Progress

LR, MOMENTUM, WEIGHT_DECAY = 0.1, 0.9, 1e-4  # LR: of 16 images, else in proportion
WEIGHTS = {"loss_objectness": 0.2, "loss_rpn_box_reg": 0.2, "loss_classifier": 1.0, "loss_box_reg": 1.0}
WARMUP, WARMUP_FACTOR, STEPS = 1000 / 24_000, 0.333, (18_000 / 24_000, 22_000 / 24_000)  # shares of the iterations
SAVE_EVERY = 600.0  # seconds of training; more than any of the mini study
PRECISE_BATCHES = 200  # of training images, for the statistics that batch norm is tested with (detectron2's PRECISE_BN)


@dataclass(frozen=True)
class Sizes:
    """What follows from a network's stride and from the size of the images; the rest is the same for all networks."""

    stride: int  # of the trunk's features
    sides: tuple[int, ...]  # the shorter side in training, one drawn for each image; the last one in the test
    longest: int  # side
    anchors: tuple[float, ...]  # sides in pixels; each with the aspects 1/2, 1 and 2
    before: dict[bool, int]  # proposals kept before suppression, {in training: n}
    after: dict[bool, int]  # and after it
    anchor_samples: int  # anchors an image in the proposals' loss
    samples: int  # proposals an image in the heads' loss


PAPER = Sizes(16, tuple(range(480, 801, 32)), 1333, (32, 64, 128, 256, 512), {True: 12_000, False: 6_000},
              {True: 2_000, False: 1_000}, 256, 512)  # detectron2's Base-RCNN-C4
MICRO = Sizes(8, (64,), 64, (10, 20, 40), {True: 128, False: 64}, {True: 32, False: 16}, 64, 16)  # 32 px images doubled


class Features(nn.Module):
    """Layers run in bf16 where a profile asks for it; their outputs are float32, as boxes are."""

    def __init__(self, layers: nn.Module, channels: int, bf16: bool):
        super().__init__()
        self.layers, self.out_channels, self.bf16 = layers, channels, bf16

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.bf16):
            return self.layers(x).float()


class AlignedPool(nn.Module):
    """RoIAlign of the one feature map, half-pixel exact (detectron2's ROIAlignV2), to (n, channels, side, side)."""

    def __init__(self, side: int, stride: int):
        super().__init__()
        self.side, self.stride = side, stride

    def forward(self, features: dict[str, Tensor], proposals: list[Tensor], shapes: list[tuple[int, int]]) -> Tensor:
        return roi_align(features["0"], proposals, self.side, 1 / self.stride, aligned=True)


def split(backbone: nn.Module) -> tuple[nn.Module, nn.Module]:
    """A backbone's layers up to its last stage but one (C4), and the last stage."""
    if isinstance(backbone, nn.Sequential):
        return backbone[:6], backbone[6]
    names = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3")
    return nn.Sequential(*(getattr(backbone, name) for name in names)), backbone.layer4


def detector(backbone: nn.Module, profile: Profile, n_classes: int) -> FasterRCNN:
    """Faster R-CNN C4 on a backbone, which it takes over; the new layers are drawn from torch's global generator."""
    sizes = MICRO if profile.network == "thin_resnet" else PAPER
    trunk, last = split(backbone)
    channels = next(module for module in last.modules() if isinstance(module, nn.Conv2d)).in_channels
    bf16 = profile.precision == "bf16"
    head = nn.Sequential(last, nn.BatchNorm2d(profile.width), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    side = profile.px // sizes.stride  # what the last stage saw in pretraining: 14 of 224 px
    model = FasterRCNN(
        Features(trunk, channels, bf16), min_size=sizes.sides, max_size=sizes.longest,
        rpn_anchor_generator=AnchorGenerator((sizes.anchors,), ((0.5, 1.0, 2.0),)),
        rpn_pre_nms_top_n_train=sizes.before[True], rpn_pre_nms_top_n_test=sizes.before[False],
        rpn_post_nms_top_n_train=sizes.after[True], rpn_post_nms_top_n_test=sizes.after[False],
        rpn_batch_size_per_image=sizes.anchor_samples, box_batch_size_per_image=sizes.samples,
        box_roi_pool=MultiScaleRoIAlign(["0"], side, 2), box_head=Features(head, profile.width, bf16),
        box_predictor=FastRCNNPredictor(profile.width, n_classes + 1),
    )  # fmt: skip
    model.roi_heads.box_roi_pool = AlignedPool(side, sizes.stride)  # FasterRCNN's own check takes no other class
    predictor = model.roi_heads.box_predictor
    for layer, std in ((predictor.cls_score, 0.01), (predictor.bbox_pred, 0.001)):
        nn.init.normal_(layer.weight, std=std)
        nn.init.zeros_(layer.bias)
    return model


class Draws:
    """A set's images as (pixels, target) by (index, mirrored), as torchvision's detectors take them."""

    def __init__(self, boxed: Boxed):
        self.boxed = boxed
        self.rows = [boxed.boxes[:0]] * len(boxed.images)
        for rows in np.split(boxed.boxes, np.flatnonzero(np.diff(boxed.boxes[:, 0])) + 1):
            self.rows[int(rows[0, 0])] = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, which: tuple[int, bool]) -> tuple[Tensor, dict[str, Tensor]]:
        index, mirrored = which
        image = torch.from_numpy(np.array(self.boxed.images[index])).float().div_(255)
        rows = torch.from_numpy(self.rows[index])
        corners = rows[:, 2:].clone()
        if mirrored:
            image, corners[:, [0, 2]] = image.flip(-1), image.shape[-1] - corners[:, [2, 0]]
        return image, {"boxes": corners, "labels": rows[:, 1].long() + 1}  # 0 is the background


def batches(boxed: Boxed, draws: list[list[tuple[int, bool]]], workers: int, device: str) -> Iterator[tuple]:
    """Yield images and targets, lists on the device, for each list of (index, mirrored); threads decode ahead."""
    read, coming = Draws(boxed).__getitem__, []
    with ThreadPoolExecutor(max(workers, 1)) as threads:
        for draw in [*draws, []]:
            ready, coming = coming, [threads.submit(read, one) for one in draw]
            if ready:
                images, targets = zip(*(one.result() for one in ready))
                yield ([image.to(device) for image in images],
                       [{name: value.to(device) for name, value in target.items()} for target in targets])  # fmt: skip


def random_draws(n: int, batch: int, iterations: int, seed: int) -> list[list[tuple[int, bool]]]:
    """Each iteration's (index, mirrored): one random order after the other, mirrored with probability .5."""
    rng = np.random.default_rng(seed)
    order = np.concatenate([rng.permutation(n) for _ in range(math.ceil(batch * iterations / n))])
    flips = rng.random(len(order)) < 0.5
    pairs = list(zip(order.tolist(), flips.tolist()))
    return [pairs[i * batch : (i + 1) * batch] for i in range(iterations)]


def learning_rate(iteration: int, iterations: int, peak: float) -> float:
    """Linear warm-up from a third of the peak, then a tenth of it after each of STEPS."""
    warmup = WARMUP * iterations
    factor = 1.0 if iteration >= warmup else WARMUP_FACTOR + (1 - WARMUP_FACTOR) * iteration / warmup
    return peak * factor * 0.1 ** sum(iteration >= step * iterations for step in STEPS)


def optimizer(model: nn.Module) -> torch.optim.SGD:
    norms = [p for m in model.modules() if isinstance(m, nn.BatchNorm2d) for p in m.parameters()]
    others = [p for p in model.parameters() if not any(p is norm for norm in norms)]
    groups = [{"params": others, "weight_decay": WEIGHT_DECAY}, {"params": norms, "weight_decay": 0.0}]
    return torch.optim.SGD(groups, lr=LR, momentum=MOMENTUM)


@dataclass
class Resumable:
    """A detector in training, and the file that it goes on from where it was stopped."""

    model: FasterRCNN
    sgd: torch.optim.SGD
    file: Path
    hash: str  # of all that the training depends on
    iteration: int = 0

    def save(self) -> None:
        device = next(self.model.parameters()).device
        random = {"cpu": torch.get_rng_state()}
        if device.type == "cuda":
            random["cuda"] = torch.cuda.get_rng_state(device)
        checkpoint.save(self.file, {"fingerprint": self.hash, "iteration": self.iteration, "random": random,
                                    "model": self.model.state_dict(), "sgd": self.sgd.state_dict()})  # fmt: skip

    def resume(self) -> None:
        """Go on from the file if it is there and of the same training."""
        state = checkpoint.load(self.file) if self.file.exists() else {}
        if state.get("fingerprint") != self.hash:
            return
        self.model.load_state_dict(state["model"])
        self.sgd.load_state_dict(state["sgd"])
        self.iteration = state["iteration"]
        torch.set_rng_state(state["random"]["cpu"])
        if "cuda" in state["random"]:
            torch.cuda.set_rng_state(state["random"]["cuda"], next(self.model.parameters()).device)


def train(training: Resumable, boxed: Boxed, profile: Profile, seed: int, device: str) -> None:
    """The whole schedule, or the rest of it.

    Raises ValueError where the loss stops being finite, preempt.Preempted where a signal stopped it, its file written.
    """
    training.resume()
    draws = random_draws(len(boxed.images), profile.detection_batch, profile.detection_iterations, seed)
    progress, saved = Progress("detection", profile.detection_iterations, training.iteration), time.monotonic()
    training.model.train()
    with preempt.watching() as asked:
        for images, targets in batches(boxed, draws[training.iteration :], profile.workers, device):
            loss = step(training, profile, images, targets)
            training.iteration += 1
            progress.update(note=f"loss {loss:.3f}")
            progress.seldom(f"loss {loss:.3f}", 60)
            if asked() or time.monotonic() - saved > SAVE_EVERY:
                training.save()
                saved = time.monotonic()
            if asked():
                raise preempt.Preempted(f"detection stopped after iteration {training.iteration}, checkpoint written")
    progress.close()


def step(training: Resumable, profile: Profile, images: list[Tensor], targets: list[dict]) -> float:
    """One update; returns the loss. Raises ValueError where it is not finite."""
    for group in training.sgd.param_groups:
        group["lr"] = learning_rate(training.iteration, profile.detection_iterations, LR * profile.detection_batch / 16)
    loss = sum(WEIGHTS[name] * value for name, value in training.model(images, targets).items())
    if not torch.isfinite(loss):
        raise ValueError(f"detection: the loss is {float(loss.detach())} at iteration {training.iteration}")
    training.sgd.zero_grad()
    loss.backward()
    training.sgd.step()
    return float(loss.detach())


@torch.no_grad()
def estimate_statistics(model: FasterRCNN, boxed: Boxed, profile: Profile, seed: int, device: str) -> None:
    """Give each batch norm the mean statistics of PRECISE_BATCHES training batches instead of the moving average."""
    model.train()
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch's name for the plain average
    count = min(PRECISE_BATCHES, math.ceil(len(boxed.images) / profile.detection_batch))
    draws = random_draws(len(boxed.images), profile.detection_batch, count, seed)
    for images, targets in batches(boxed, draws, profile.workers, device):
        model(images, targets)


@torch.no_grad()
def detect(model: FasterRCNN, boxed: Boxed, profile: Profile, device: str) -> tuple[np.ndarray, np.ndarray]:
    """Detections (m, 6), rows of image, class, x0, y0, x1, y1, and their scores (m,)."""
    model.eval()
    n, batch = len(boxed.images), profile.detection_batch
    draws = [[(i, False) for i in range(start, min(start + batch, n))] for start in range(0, n, batch)]
    rows, scores, number = [], [], 0
    for images, _ in batches(boxed, draws, profile.workers, device):
        for answer in model(images):
            image = torch.full_like(answer["scores"], number)[:, None]
            rows.append(torch.hstack([image, answer["labels"][:, None] - 1, answer["boxes"]]).cpu().numpy())
            scores.append(answer["scores"].cpu().numpy())
            number += 1
    return np.concatenate(rows), np.concatenate(scores)


def fit(profile: Profile, run: Run, seed: int, device: str = "cpu") -> dict:
    """Fine-tune a detector on a run's backbone: {"train_value": None, "value": AP50 in percent, "note": …}.

    The new layers, the order of the images and their mirrors depend on the seed only, so that runs differ in nothing
    else. Raises as train does, and UserError where data or checkpoint are missing or damaged.
    """
    torch.set_num_threads(profile.threads)
    train_set, test_set, classes = boxes.read(profile)
    backbone = finetune.backbone(profile, run, seed)
    torch.manual_seed(stages.derived_seed("detection", seed))
    model = detector(backbone, profile, len(classes)).to(device, memory_format=torch.channels_last)
    file = paths.run_dir(profile.name, run.run, seed) / "finetune" / "detection.pt"
    training = Resumable(model, optimizer(model), file, _hash(profile, run, seed))
    train(training, train_set, profile, stages.derived_seed("detection order", seed), device)
    estimate_statistics(model, train_set, profile, stages.derived_seed("detection statistics", seed), device)
    found, scores = detect(model, test_set, profile, device)
    file.unlink(missing_ok=True)
    return {"train_value": None, "value": voc_ap.ap50(test_set.boxes, test_set.difficult, found, scores),
            "note": "torchvision's Faster R-CNN C4, VOC 2007's 11-point metric"}  # fmt: skip


def _hash(profile: Profile, run: Run, seed: int) -> str:
    return stages.fingerprint({
        "backbone": checkpoint.sha256(study.checkpoint_path(profile, run, seed)), "data": boxes.fingerprint(profile),
        "iterations": profile.detection_iterations, "batch": profile.detection_batch, "precision": profile.precision,
        "code": stages.code_hash(study.DETECTION_CODE),
    })  # fmt: skip
