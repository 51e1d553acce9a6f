"""Images that stay files: decoded, cropped and mirrored when they are used, in threads or in worker processes.

A crop is torchvision's RandomResizedCrop, drawn for each image from a seed of its own, so that it depends neither on
the process that decodes it nor on where a training stopped. torchvision is imported where it is needed: it takes 3 s.
"""

import functools
import io
import math
import os
import random
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from replicate import stages
from replicate.data import augment, layouts, verify
from replicate.errors import UserError

CHUNK = 32  # images that a worker hands over at once: 10 MB of two views at 224 px
AHEAD = 4  # chunks that each worker decodes in advance
FORK = "fork" if sys.platform == "linux" else None  # workers inherit the mask of signals; not Python 3.14's default
VIEW_AREA = (0.08, 1.0)  # of the probes' training crops: torchvision's default, which VISSL takes


@dataclass(frozen=True)
class Crop:
    """`count` random crops of an image, resized to px x px: each a share of its area that is uniform in `area`."""

    count: int
    px: int
    area: tuple[float, float]
    interpolation: str = "bicubic"


@dataclass(frozen=True)
class Streamed:
    """A sequence of images as a probe sees them: [i] is uint8 (3, px, px), [a:b] uint8 (n, 3, px, px), decoded then.

    files: bytes (N,), below root; in_rows: as rows of files of many images, 'data_batch_1#17'. transform: the
    evaluation transform, a manifest's. seed: of random crops in its place, one an image; None for evaluation.
    """

    root: Path
    files: np.ndarray
    in_rows: bool
    transform: str
    px: int
    seed: str | None = None

    def __len__(self) -> int:
        return len(self.files)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return len(self), 3, self.px, self.px

    def __getitem__(self, key) -> np.ndarray:
        index = np.arange(len(self))[key]
        if index.ndim == 0:
            return self._one(index)
        if len(index) == 0:
            return np.empty((0, 3, self.px, self.px), np.uint8)
        return np.stack(list(_threads().map(self._one, index)))

    def _one(self, index: int) -> np.ndarray:
        image = self.decoded(index)
        if self.seed is None:
            return evaluation(image, self.transform, self.px).numpy()
        crop, seed = Crop(1, self.px, VIEW_AREA, "bilinear"), stages.derived_seed("probe views", self.seed, index)
        return random_crops(image, (crop,), seed)[0][0].numpy()

    def decoded(self, index: int) -> Tensor:
        """The whole image, uint8 (3, H, W) RGB."""
        file = os.fsdecode(self.files[index])
        if not self.in_rows:
            return decode(self.root / file)
        name, _, row = file.rpartition("#")
        pixels = torch.from_numpy(np.array(_rows(self.root, name)[int(row)]))
        return pixels.expand(3, *pixels.shape) if pixels.ndim == 2 else pixels.permute(2, 0, 1)


def drawn(profile, name: str, n: int) -> np.ndarray:
    """Which of n training images a spectrum is taken of, in their order; all where the profile does not say how many."""
    rng = np.random.default_rng(stages.derived_seed("spectrum samples", profile.data_seed, name))
    return np.sort(rng.permutation(n)[: profile.spectrum_samples or n])


@functools.cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(verify.cores())


_rows = functools.lru_cache(maxsize=8)(layouts.rows_of)


# ---- one image ------------------------------------------------------------------------------------------------------


def decode(path: Path) -> Tensor:
    """An image file of any kind as uint8 (3, H, W) RGB; UserError names one that cannot be read."""
    from PIL import Image

    try:
        data = path.read_bytes()
        with Image.open(io.BytesIO(data)) as image:
            return _decode_jpeg(_bytes(data)) if _is_plain(image) else _by_pillow(image)
    # PIL reports damage as OSError, SyntaxError (PNG) or ValueError, a bomb as its own; torchvision as RuntimeError.
    except (OSError, SyntaxError, ValueError, RuntimeError, Image.DecompressionBombError) as problem:
        reason = " ".join(str(problem).split())
        raise UserError(f"{path}: not a readable image ({reason}); restore it from the set's archive") from None


def _is_plain(image) -> bool:
    """Whether torchvision decodes it, twice as fast; judged by the header, not by the name: ImageNet has a PNG.JPEG."""
    return image.format == "JPEG" and image.mode in ("L", "RGB")


def _bytes(data: bytes) -> Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)


def _decode_jpeg(data: Tensor) -> Tensor:
    from torchvision.io import ImageReadMode, decode_jpeg

    return decode_jpeg(data, mode=ImageReadMode.RGB)


def _by_pillow(image) -> Tensor:
    from PIL import Image

    if image.mode.startswith("I"):  # 16 bits, which PIL's convert() cuts off at 255
        image = Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8))
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


def evaluation(image: Tensor, transform: str, px: int) -> Tensor:
    """A manifest's evaluation transform of one image, uint8 (3, H, W) to (3, px, px), bilinear, antialiased.

    As VISSL's: `random_resized_crop`: shorter side to px 256 / 224, centre crop; `resize`: squashed to px;
    `resize_then_squash`: shorter side to px 256 / 224, then squashed.
    """
    from torchvision.transforms.v2 import functional

    if transform != "resize":
        image = functional.resize(image, [round(px * 256 / 224)], antialias=True)
    if transform == "random_resized_crop":
        return functional.center_crop(image, [px, px])
    return functional.resize(image, [px, px], antialias=True)


def random_crops(image: Tensor, crops: Sequence[Crop], seed: int) -> tuple[Tensor, ...]:
    """For each Crop uint8 (count, 3, px, px) out of an image (3, H, W), mirrored with probability augment.FLIP."""
    from torchvision.transforms.v2 import InterpolationMode, functional

    rng, drawn = random.Random(seed), []
    for crop in crops:
        out = image.new_empty((crop.count, 3, crop.px, crop.px))
        for place in out:
            box = random_box(*image.shape[-2:], crop.area, rng)
            kernel = InterpolationMode(crop.interpolation)
            found = functional.resized_crop(image, *box, [crop.px, crop.px], kernel, antialias=True)
            place.copy_(found.flip(-1) if rng.random() < augment.FLIP else found)
        drawn.append(out)
    return tuple(drawn)


def random_box(height: int, width: int, area: Sequence[float], rng: random.Random) -> tuple[int, int, int, int]:
    """Top, left, height and width as torchvision's RandomResizedCrop draws them: ten tries, then the centre."""
    low, high = (math.log(ratio) for ratio in augment.CROP_RATIO)
    for _ in range(augment.CROP_TRIES):
        target = height * width * (area[0] + (area[1] - area[0]) * rng.random())
        aspect = math.exp(low + (high - low) * rng.random())
        w, h = round(math.sqrt(target * aspect)), round(math.sqrt(target / aspect))
        if 0 < w <= width and 0 < h <= height:
            return int(rng.random() * (height - h + 1)), int(rng.random() * (width - w + 1)), h, w
    narrowest, widest = augment.CROP_RATIO
    w, h = min(width, round(height * widest)), min(height, round(width / narrowest))
    return (height - h) // 2, (width - w) // 2, h, w


# ---- batches of a training ------------------------------------------------------------------------------------------


def batches(images: Streamed, steps: list[list[np.ndarray]], crops: tuple[Crop, ...], key: tuple, workers: int,
            device: str) -> Iterator[list[tuple[Tensor, ...]]]:
    """For each step, for each shard's indices (n,), a tuple of uint8 (count, n, 3, px, px), one a Crop, on `device`.

    key: names and numbers that the crops are drawn from, beside an image's index. workers: processes that decode; 0
    for none. With DECODE=gpu in the environment they read files only, and `device` decodes and crops. Raises
    UserError for an image that cannot be read, and where DECODE cannot be followed.
    """
    on_device = decodes_on(device)
    chunks = [part for step in steps for shard in step for part in _parts(shard)]
    loader = torch.utils.data.DataLoader(
        _Chunks(images, chunks, crops, key, on_device), batch_size=None, num_workers=workers, worker_init_fn=_deaf,
        prefetch_factor=AHEAD if workers else None, multiprocessing_context=FORK if workers else None,
        pin_memory=device.startswith("cuda"), generator=torch.Generator())  # fmt: skip
    arriving = zip(chunks, _unless_ended(_started(loader)), strict=True)

    def part() -> tuple[Tensor, ...]:
        index, found = next(arriving)
        if isinstance(found, str):
            raise UserError(found)
        if on_device:
            return cropped(_decode_on(device, found, images, index), index, crops, key)
        return tuple(tensor.to(device, non_blocking=True) for tensor in found)

    for step in steps:
        yield [tuple(torch.cat(tensors, 1) for tensors in zip(*(part() for _ in _parts(shard)))) for shard in step]


def decodes_on(device: str) -> bool:
    """Whether DECODE asks for decoding on `device`; UserError where that is no GPU, or DECODE is something else."""
    wanted = os.environ.get("DECODE") or "cpu"
    if wanted not in ("cpu", "gpu"):
        raise UserError(f"DECODE is {wanted}: expected cpu or gpu")
    if wanted == "gpu" and not device.startswith("cuda"):
        raise UserError(f"DECODE is gpu, but this training runs on {device}: leave DECODE out, or take DEVICE=cuda")
    if wanted == "gpu":
        _try_decoding(device)
    return wanted == "gpu"


def _try_decoding(device: str) -> None:
    """UserError where torchvision decodes no JPEG on `device`; else each image would be decoded on the CPU, unsaid."""
    from torchvision.io import decode_jpeg, encode_jpeg

    try:
        decode_jpeg([encode_jpeg(torch.zeros(3, 16, 16, dtype=torch.uint8))], device=device)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, AssertionError) as problem:  # AssertionError: a torch without CUDA
        reason = " ".join(str(problem).split())[:200]
        raise UserError(f"DECODE is gpu, but torchvision cannot decode on {device} ({reason}): leave DECODE out") from None


def cropped(pictures: Sequence[Tensor], index: np.ndarray, crops: Sequence[Crop], key: tuple) -> tuple[Tensor, ...]:
    """Random crops of images (3, H, W) that have these indices, (count, n, 3, px, px) for each Crop."""
    drawn = [random_crops(picture, crops, stages.derived_seed("crops", *key, int(i)))
             for picture, i in zip(pictures, index, strict=True)]  # fmt: skip
    return tuple(torch.stack(tensors, 1) for tensors in zip(*drawn))


def _parts(shard: np.ndarray) -> list[np.ndarray]:
    return [shard[start : start + CHUNK] for start in range(0, len(shard), CHUNK)]


class _Chunks(torch.utils.data.Dataset):
    """Crops of a chunk of images or, where a GPU decodes, the bytes of its files; an error's text in their place.

    An error that is raised in a worker would arrive with the worker's traceback in its text.
    """

    def __init__(self, images: Streamed, chunks: list[np.ndarray], crops: Sequence[Crop], key: tuple, bytes_only: bool):
        self.images, self.chunks, self.crops, self.key, self.bytes_only = images, chunks, crops, key, bytes_only

    def __len__(self) -> int:
        return len(self.chunks)

    def __getitem__(self, number: int) -> tuple[Tensor, ...] | list[Tensor | bytes] | str:
        index = self.chunks[number]
        try:
            if self.bytes_only:
                return [_bytes_or_image(self.images, i) for i in index]
            return cropped([self.images.decoded(i) for i in index], index, self.crops, self.key)
        except UserError as error:
            return str(error)


def _bytes_or_image(images: Streamed, index: int) -> Tensor | bytes:
    """A JPEG's bytes where a GPU can decode them, else the decoded image."""
    from PIL import Image

    if images.in_rows:
        return images.decoded(index)
    path = images.root / os.fsdecode(images.files[index])
    try:
        data = path.read_bytes()
        with Image.open(io.BytesIO(data)) as image:
            if _is_plain(image):
                return data
    except (OSError, ValueError, Image.DecompressionBombError):
        pass  # decode() says what is wrong
    return decode(path)


def _decode_on(device: str, found: list[Tensor | bytes], images: Streamed, index: np.ndarray) -> list[Tensor]:
    """Images (3, H, W) on a GPU; what it cannot decode is decoded here, where an unreadable one is named."""
    from torchvision.io import ImageReadMode, decode_jpeg

    plain = [_bytes(one) for one in found if isinstance(one, bytes)]
    try:
        decoded = iter(decode_jpeg(plain, mode=ImageReadMode.RGB, device=device) if plain else [])
        return [next(decoded) if isinstance(one, bytes) else one.to(device) for one in found]
    except torch.OutOfMemoryError:
        raise
    except RuntimeError:
        return [images.decoded(i).to(device) for i in index]


def _deaf(worker: int) -> None:
    """A worker leaves signals to the training, which checkpoints first, and ends when that process itself says so.

    A cluster signals every process of a job; a worker that obeyed would take the training down with it.
    """
    for one in (signal.SIGINT, signal.SIGUSR1):
        signal.signal(one, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):
        threading.Thread(target=_end_when_told_by, args=(os.getppid(),), daemon=True).start()
    elif hasattr(signal, "pthread_sigmask"):  # macOS
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


def _end_when_told_by(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)


def _started(loader: torch.utils.data.DataLoader) -> Iterator:
    """The loader's items, from workers that inherit a mask of signals.

    _deaf alone comes too late: torch may have started threads in the worker by then, any of which could get them.
    """
    if not hasattr(signal, "pthread_sigmask"):
        return iter(loader)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGUSR1, signal.SIGINT})
    try:
        return _without_sigchld(loader)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _without_sigchld(loader: torch.utils.data.DataLoader) -> Iterator:
    """The loader's items, without its handler of SIGCHLD, which raises wherever the training is when a worker dies."""
    if threading.current_thread() is not threading.main_thread():  # where the loader sets no handler either
        return iter(loader)
    before = signal.getsignal(signal.SIGCHLD)
    arriving = iter(loader)
    signal.signal(signal.SIGCHLD, before or signal.SIG_DFL)
    return arriving


def _unless_ended(arriving: Iterator) -> Iterator:
    """The loader's items; UserError where the system ended one of its processes."""
    try:
        yield from arriving
    except RuntimeError as problem:
        if "DataLoader worker" not in str(problem):
            raise
        raise UserError(f"a process that decodes images was ended ({str(problem).splitlines()[0]}): memory or /dev/shm "
                        "may be too small; run the same command again, with fewer `workers` in the profile") from None


def colours(crops: Tensor, generator: torch.Generator, blur: float, solarization: float) -> Tensor:
    """Colour changes of crops, uint8 (n, 3, px, px), to float32, normalised, on their device.

    What augment does with a view once it is cropped: blur and solarization are probabilities, as in its FIRST_VIEW.
    """
    views, px = augment._unit_floats(crops), crops.shape[-1]
    augment.colour_jitter_(views, generator)
    augment._apply_(views, augment._happens(views, augment.GRAYSCALE, generator), augment.grayscale)
    low, high = (sigma * px / 224 for sigma in augment.BLUR_SIGMA_224)
    sigmas = augment._uniform(len(views), low, high, generator)
    blurred = augment._happens(views, blur, generator)
    augment._apply_(views, blurred, lambda x, sigma: augment.gaussian_blur(x, sigma, augment.blur_taps(px)), sigmas)
    augment._apply_(views, augment._happens(views, solarization, generator), augment.solarize)
    return augment._normalise_(views)
