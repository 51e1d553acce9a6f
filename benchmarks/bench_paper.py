"""Images per second of one GPU at the paper's sizes: our step, with and without torch.compile, beside a plain loop.

    python benchmarks/bench_paper.py [--quick] [--methods SimCLR,DINO] [--batch 128] [--workers 8]

Ours is training.train_step of profile paper on crops that data/jpeg.py decodes in worker processes. The plain loop is
what one would write with torchvision: its ResNet-50, its v2 transforms of ImageFolder's images in a DataLoader, the
same projector and loss, SGD with momentum; of DINO there is none. Both take the same JPEGs (about 500 x 375 px, mean
size printed; few of them, again and again, so the disk does not count), batch, precision and number of workers.

Two rates each: of the step alone, on one batch that stays on the device, and with its images from files. FLOPs are
counted by torch.utils.flop_counter on our step; the share is of the GPU's dense bf16 peak by its data sheet, on other
devices of a matrix product that is timed here. Each loop runs in a process of its own, whose memory is its peak.
On a CPU the batch is tiny, the precision float32, and the rates say nothing about a GPU's.
"""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from replicate import grid, methods, networks, pretrain, profile, training  # noqa: E402
from replicate.data import augment, jpeg, microworld  # noqa: E402

RUNS = {"SimCLR": "SimCLR-15", "VICReg": "VICReg-1", "VICReg-exp": "VICReg-exp-1", "VICReg-ctr": "VICReg-ctr-1",
        "DINO": "DINO-1"}  # fmt: skip
LOOPS = ("ours", "ours, compiled", "plain", "plain, compiled")
PEAKS = {"H200": 989e12, "H100 PCIe": 756e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "B200": 2250e12}  # bf16
PHOTOS, CPU_BATCH, GPU_BATCH = 256, 4, 128  # a GPU's part of the paper's 1,024 on eight


def photos(root: Path, n: int, seed: int = 0) -> float:
    """Save n JPEGs of various sizes in root/train/{a,b}/ and return their mean size in bytes.

    Small pictures, Tiny-ImageNet's where DATA_ROOT has it, else the micro-world's, enlarged, with a photograph's grain.
    """
    from PIL import Image

    rng, found = np.random.default_rng(seed), _pictures(n)
    sizes = []
    for i, picture in enumerate(found):
        width, height = int(rng.normal(500, 40)), int(rng.normal(375, 40))
        large = np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC), np.float32)
        grain = rng.normal(0, 8, large.shape[:2])[..., None]
        path = root / "train" / "ab"[i % 2] / f"{i:05d}.JPEG"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((large + grain).clip(0, 255).astype(np.uint8)).save(path, quality=92)
        sizes.append(path.stat().st_size)
    return float(np.mean(sizes))


def _pictures(n: int) -> list:
    """n PIL images of 64 px."""
    from PIL import Image

    folder = Path(os.environ.get("DATA_ROOT") or "no-such-folder").expanduser() / "tiny-imagenet-200" / "train"
    files = sorted(folder.glob("*/images/*_0.JPEG"))
    if len(files) >= n:
        return [Image.open(file).convert("RGB") for file in files[:n]]
    return [Image.fromarray(pixels.transpose(1, 2, 0)) for pixels in microworld.make("imagenet", n, 1, 0, 64).train]


def sizes_of(batch: int, workers: int, compiled: bool, device: str) -> profile.Profile:
    """The paper's profile with a batch for one device: the run's grid value counts as the paper's 1,024."""
    return dataclasses.replace(profile.load("paper"), batch=batch, shards=max(1, batch // 32), workers=workers,
                               precision="bf16" if device == "cuda" else "float32", torch_compile=compiled)


# ---- the loops ------------------------------------------------------------------------------------------------------


def ours(name: str, files: list[Path], args, compiled: bool):
    """A function that takes one step on given parts, a batch of them, and an endless iterator of batches."""
    run = dataclasses.replace(grid.get(RUNS[name]), batch_size=grid.get("VICReg-1").batch_size)
    sizes = sizes_of(args.batch, args.workers, compiled, args.device)
    names = np.array([os.fsencode(file) for file in files] * (1 + args.batch * (args.steps + 2) // len(files)), "S")
    images = jpeg.Streamed(Path("/"), names, False, "random_resized_crop", sizes.px)
    one = training.Training(sizes, run, 0, args.device, len(images))
    return lambda parts: training.train_step(one, parts)[0]["loss"], training.batches(one, images)


class TwoViews:
    """BYOL's two views by torchvision's transforms."""

    def __init__(self, px: int):
        from torchvision.transforms import v2

        def view(blur, solarization):
            jitter = v2.ColorJitter(augment.BRIGHTNESS, augment.CONTRAST, augment.SATURATION, augment.HUE)
            return v2.Compose([
                v2.RandomResizedCrop(px, interpolation=v2.InterpolationMode.BICUBIC), v2.RandomHorizontalFlip(),
                v2.RandomApply([jitter], augment.JITTER), v2.RandomGrayscale(augment.GRAYSCALE),
                v2.RandomApply([v2.GaussianBlur(augment.BLUR_TAPS_224, augment.BLUR_SIGMA_224)], blur),
                v2.RandomSolarize(128, solarization), v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(augment.IMAGENET_MEAN, augment.IMAGENET_STD)])  # fmt: skip

        self.to_image = v2.ToImage()
        self.kinds = [view(*augment.FIRST_VIEW), view(*augment.SECOND_VIEW)]

    def __call__(self, picture):
        image = self.to_image(picture)
        return torch.stack([view(image) for view in self.kinds])


def plain(name: str, files: list[Path], args, compiled: bool):
    """As ours, of a plain torchvision loop."""
    from torch.utils.data import DataLoader, RandomSampler
    from torchvision.datasets import ImageFolder
    from torchvision.models import resnet50

    run, sizes = grid.get(RUNS[name]), sizes_of(args.batch, args.workers, compiled, args.device)
    network = resnet50()
    network.fc = networks.projector(2048, sizes.projector_of(run))
    network = network.to(args.device, memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.03, momentum=0.9, weight_decay=1e-6)
    forward = torch.compile(network) if compiled else network
    loss_of, arguments = methods.METHODS[name].loss, run.loss_arguments()

    def step(views):
        views = views.to(args.device, non_blocking=True).flatten(0, 1).contiguous(memory_format=torch.channels_last)
        with torch.autocast(args.device, torch.bfloat16, enabled=args.device == "cuda"):
            embeddings = forward(views).float()
        loss = loss_of(embeddings[::2], embeddings[1::2], **arguments)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    data = ImageFolder(files[0].parents[1], TwoViews(sizes.px))
    sampler = RandomSampler(data, replacement=True, num_samples=(args.steps + 2) * args.batch)
    loader = DataLoader(data, args.batch, sampler=sampler, num_workers=args.workers, pin_memory=args.device == "cuda")
    return step, (views for views, _ in loader)


# ---- measuring ------------------------------------------------------------------------------------------------------


def measure(name: str, loop: str, folder: Path, args) -> dict:
    """Rates of one loop in images a second, FLOPs a step (of ours), the last loss and peak memory in bytes."""
    make = ours if loop.startswith("ours") else plain
    step, batches = make(name, sorted(folder.rglob("*.JPEG")), args, loop.endswith("compiled"))
    parts, flops = next(batches), None
    for _ in range(args.warm_up):
        loss = step(parts)
    alone = _rate(lambda: step(parts), args)
    from_files = _rate(lambda: step(next(batches)), args)
    if loop == "ours":
        from torch.utils.flop_counter import FlopCounterMode

        with FlopCounterMode(display=False) as counter:
            step(parts)
        flops = counter.get_total_flops()
    return {"alone": alone, "from_files": from_files, "flops": flops, "loss": loss,
            "memory": pretrain.peak_memory_mb(args.device) * 2**20}  # fmt: skip


def _rate(step, args) -> float:
    """Images a second of some steps; each ends with a loss on the host, so that the device is waited for."""
    begun = time.perf_counter()
    for _ in range(args.steps):
        step()
    return args.steps * args.batch / (time.perf_counter() - begun)


def peak_of(device: str) -> tuple[float, str]:
    """FLOP/s that the share is of, and where they are from."""
    name = torch.cuda.get_device_name() if device == "cuda" else "this CPU"
    for known, peak in PEAKS.items():
        if known in name:
            return peak, f"{name}, dense bf16 by its data sheet"
    n, kind = (8192, torch.bfloat16) if device == "cuda" else (2048, torch.float32)
    a = torch.randn(n, n, device=device, dtype=kind)
    times = []
    for _ in range(5):
        begun = time.perf_counter()
        (a @ a)[0, 0].item()
        times.append(time.perf_counter() - begun)
    of = str(kind).removeprefix("torch.")
    return 2 * n**3 / min(times), f"a product of two {n} x {n} {of} matrices on {name}, timed here"


def alone(name: str, loop: str, folder: Path, args) -> dict:
    """`measure` in a process of its own."""
    command = [sys.executable, __file__, "--one", f"{name}:{loop}:{folder}"]
    for option in ("batch", "workers", "steps", "warm_up"):
        command += [f"--{option.replace('_', '-')}", str(getattr(args, option))]
    ended = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if ended.returncode:
        raise SystemExit(f"{name}, {loop}: ended with status {ended.returncode}")
    return json.loads(ended.stdout.splitlines()[-1])


def row(name: str, loop: str, found: dict, flops: int, peak: float, batch: int) -> str:
    done = flops * found["alone"] / batch if loop.startswith("ours") else None
    return (f"| {name} | {loop} | {found['alone']:.4g} | {found['from_files']:.4g} "
            f"| {'' if done is None else f'{done / 1e12:.3g} ({done / peak:.0%})'} | {found['memory'] / 1e9:.1f} |")


def table(names: list[str], args) -> None:
    peak, origin = peak_of(args.device)
    with tempfile.TemporaryDirectory() as folder:
        size = photos(Path(folder), PHOTOS)
        precision = sizes_of(args.batch, args.workers, False, args.device).precision
        print(f"ResNet-50, 224 px, batch {args.batch}, {precision}, {args.workers} workers, {args.steps} steps, torch "
              f"{torch.__version__}; {os.cpu_count()} cores, load at the start {os.getloadavg()[0]:.1f}\n"
              f"JPEGs of {size / 1e3:.0f} kB on average; peak {peak / 1e12:.3g} TFLOP/s: {origin}")
        if args.device == "cpu":
            print("on a CPU, with a tiny batch: only for whether the loops run, and how they compare here")
        print("\n| method | loop | images/s, step alone | images/s, from files | TFLOP/s (of the peak) | memory, GB |\n"
              "|---|---|---|---|---|---|")
        for name in names:
            flops = 0
            for loop in LOOPS:
                if (name == "DINO" and loop.startswith("plain")) or (args.quick and loop.endswith("compiled")):
                    continue
                found = alone(name, loop, Path(folder), args)
                flops = found["flops"] or flops
                print(row(name, loop, found, flops, peak, args.batch), flush=True)


def main():
    cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="SimCLR and DINO, one step, without torch.compile")
    parser.add_argument("--methods", default="", help="some of " + ",".join(RUNS))
    parser.add_argument("--batch", type=int, default=GPU_BATCH if cuda else CPU_BATCH)
    parser.add_argument("--workers", type=int, default=min(8, os.cpu_count() or 1) if cuda else 1)
    parser.add_argument("--steps", type=int, default=30 if cuda else 3)
    parser.add_argument("--warm-up", type=int, default=10 if cuda else 1)
    parser.add_argument("--one", help=argparse.SUPPRESS)  # method:loop:folder, in a process of its own
    args = parser.parse_args()
    args.device = "cuda" if cuda else "cpu"
    if args.one:
        name, loop, folder = args.one.split(":", 2)
        print(json.dumps(measure(name, loop, Path(folder), args)))
        return
    if args.quick:
        args.steps = 1
    names = [name for name in args.methods.split(",") if name] or (["SimCLR", "DINO"] if args.quick else list(RUNS))
    unknown = [name for name in names if name not in RUNS]
    if unknown:
        raise SystemExit(f"unknown method {unknown[0]}: use some of {', '.join(RUNS)}")
    table(names, args)


if __name__ == "__main__":
    main()
