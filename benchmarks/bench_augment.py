"""BYOL's two views of 256 images: ours on the batch, kornia's on the batch, torchvision's v2 image by image.

    python benchmarks/bench_augment.py [--quick]

The same operations, probabilities and sizes for each, on uint8 images in memory, one thread, in one process, the three
taking turns. torchvision's v2 draws one set of parameters for all that it is given, so it is called once an image.
kornia draws each image's own, but one order of the colour changes a batch. No assertion: a table to read.
"""

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from replicate.data import augment  # noqa: E402

BATCH, STEPS = 256, 312  # a training of 8 epochs of 10,000 images
CROP_AREA = (0.08, 1.0)
VIEWS = (augment.FIRST_VIEW, augment.SECOND_VIEW)
IMPORTS = {"replicate": "import replicate.data.augment", "kornia": "import kornia.augmentation",
           "torchvision v2": "from torchvision.transforms import v2"}


def ours(images, px):
    generator = torch.Generator().manual_seed(0)
    return lambda: augment.two_views(images, px, generator, CROP_AREA)


def blur_sigma(px):
    return tuple(sigma * px / 224 for sigma in augment.BLUR_SIGMA_224)


def kornia_views(images, px):
    import kornia.augmentation as kornia
    mean, std = torch.tensor(augment.IMAGENET_MEAN), torch.tensor(augment.IMAGENET_STD)
    taps = augment.blur_taps(px)

    def view(blur, solarization):
        operations = [
            # Its default, "slice", resizes image by image and is slower here.
            kornia.RandomResizedCrop((px, px), CROP_AREA, augment.CROP_RATIO, resample="bicubic",
                                     cropping_mode="resample"),
            kornia.RandomHorizontalFlip(augment.FLIP),
            kornia.ColorJitter(augment.BRIGHTNESS, augment.CONTRAST, augment.SATURATION, augment.HUE, p=augment.JITTER),
            kornia.RandomGrayscale(p=augment.GRAYSCALE),
            kornia.RandomGaussianBlur((taps, taps), blur_sigma(px), p=blur),
            *([kornia.RandomSolarize(0.0, 0.0, p=solarization)] if solarization else []),  # 0: threshold .5 exactly
            kornia.Normalize(mean, std)]
        return torch.nn.Sequential(*operations)

    views = [view(*kind) for kind in VIEWS]

    def run():
        floats = images.to(torch.float32).div_(255)
        return [view(floats) for view in views]
    return run


def torchvision_views(images, px):
    from torchvision.transforms import InterpolationMode, v2

    def view(blur, solarization):
        jitter = v2.ColorJitter(augment.BRIGHTNESS, augment.CONTRAST, augment.SATURATION, augment.HUE)
        return v2.Compose([
            v2.RandomResizedCrop(px, CROP_AREA, augment.CROP_RATIO, InterpolationMode.BICUBIC),
            v2.RandomHorizontalFlip(augment.FLIP),
            v2.RandomApply([jitter], augment.JITTER),
            v2.RandomGrayscale(augment.GRAYSCALE),
            v2.RandomApply([v2.GaussianBlur(augment.blur_taps(px), blur_sigma(px))], blur),
            *([v2.RandomSolarize(128, solarization)] if solarization else []),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(augment.IMAGENET_MEAN, augment.IMAGENET_STD)])

    views = [view(*kind) for kind in VIEWS]
    return lambda: [torch.stack([view(image) for image in images]) for view in views]


def import_seconds(statement):
    """Seconds that an import costs a process which has torch already; the better of three."""
    code = f"import torch, time; t = time.perf_counter(); {statement}; print(time.perf_counter() - t)"
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
            for _ in range(3)]
    return min(float(run.stdout) for run in runs)


def timed(contenders, repeats):
    """Seconds of each contender's every repeat, the contenders taking turns."""
    seconds = {name: [] for name in contenders}
    for run in contenders.values():
        run()
    for _ in range(repeats):
        for name, run in contenders.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer repeats, one size")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    torch.manual_seed(0)
    costs = {name: import_seconds(statement) for name, statement in IMPORTS.items()}
    print(f"two views of {BATCH} uint8 images, one thread; a training is {STEPS} batches and one import")
    print(f"{'':<16}{'pixels':>8}{'median ms':>11}{'least ms':>10}{'ratio':>7}"
          f"{'import s':>10}{'training s':>12}{'ratio':>7}")
    for stored, px in ((32, 32),) if quick else ((32, 32), (64, 32), (64, 64)):
        images = torch.randint(0, 256, (BATCH, 3, stored, stored), dtype=torch.uint8)
        contenders = {"replicate": ours(images, px), "kornia": kornia_views(images, px),
                      "torchvision v2": torchvision_views(images, px)}
        report(timed(contenders, 3 if quick else 15), costs, f"{stored}->{px}")


def report(seconds, costs, pixels):
    median = {name: statistics.median(values) for name, values in seconds.items()}
    training = {name: STEPS * median[name] + costs[name] for name in seconds}
    for name, values in seconds.items():
        print(f"{name:<16}{pixels:>8}{1e3 * median[name]:>11.1f}{1e3 * min(values):>10.1f}"
              f"{median[name] / median['replicate']:>7.1f}{costs[name]:>10.2f}{training[name]:>12.1f}"
              f"{training[name] / training['replicate']:>7.1f}", flush=True)


if __name__ == "__main__":
    main()
