"""Images per second of a SimCLR training: ours beside lightly's loop, on the same cores.

    python benchmarks/bench_pretrain.py [--quick]

Ours is training.train_step as the study calls it (channels last, both views in one pass, LARS), on uint8 images in
memory. lightly's is the loop of its documentation's SimCLR example: a data set of PIL images (in memory, decoded) with
lightly's transforms, a shuffling DataLoader, two forward passes, NTXentLoss, SGD. Both train profile mini's network on
the micro-world's source set, with the same batch, crop areas, augmentation probabilities and strengths (lightly's BYOL transforms, whose table is
ours, blur scaled alike; they crop bilinearly, ours bicubically), temperature, float32, and CORES cores in all.

torch takes all cores; lightly runs with 0, 1 and 2 loader processes. The contenders take turns; the table gives medians
over the turns, and the ratio to lightly's best setting.
"""

import argparse
import itertools
import os
import statistics
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from replicate import grid, networks, profile, training as trainings  # noqa: E402
from replicate.data import augment, microworld  # noqa: E402

CORES = 2
PROFILE, RUN, SEED = "mini", "SimCLR-15", 0
WARM_UP = 3  # steps before the clock starts; with loader processes they start and their queue settles


def ours(images, threads, steps, loaders):
    """Seconds of `steps` of our training steps. images: uint8 (N, 3, S, S)."""
    torch.set_num_threads(threads)
    training = trainings.Training(profile.load(PROFILE), grid.get(RUN), SEED, "cpu", len(images))
    for parts in itertools.islice(trainings.batches(training, images), WARM_UP + steps):
        if training.step == WARM_UP:
            start = time.perf_counter()
        trainings.train_step(training, parts)
        training.step += 1
    return time.perf_counter() - start


class Pictures(torch.utils.data.Dataset):
    """PIL images in memory, as torchvision's CIFAR10 returns them: a transform's views and a label."""

    def __init__(self, images, transform):
        from PIL import Image
        self.pictures = [Image.fromarray(image) for image in images.permute(0, 2, 3, 1).contiguous().numpy()]
        self.transform = transform

    def __len__(self):
        return len(self.pictures)

    def __getitem__(self, index):
        return self.transform(self.pictures[index]), 0


def lightly_transform(sizes):
    """lightly's transforms for BYOL's table, at our sizes."""
    from lightly.transforms.byol_transform import BYOLTransform, BYOLView1Transform, BYOLView2Transform
    if sizes.crop_area[1] != 1:
        raise SystemExit("lightly's transforms crop up to the whole image only: crop_area must end at 1")
    same = {"input_size": sizes.px, "min_scale": sizes.crop_area[0],
            "sigmas": tuple(sigma * sizes.px / 224 for sigma in augment.BLUR_SIGMA_224)}
    return BYOLTransform(BYOLView1Transform(**same), BYOLView2Transform(**same))


def lightly(images, threads, steps, loaders):
    """Seconds of `steps` of the loop of lightly's documentation, with `loaders` loader processes."""
    from lightly.loss import NTXentLoss
    torch.set_num_threads(threads)
    sizes, run = profile.load(PROFILE), grid.get(RUN)
    torch.manual_seed(SEED)
    network = networks.build(sizes.network, sizes.width, sizes.projector_of(run))
    batches = torch.utils.data.DataLoader(Pictures(images, lightly_transform(sizes)), sizes.batch_of(run),
                                          shuffle=True, drop_last=True, num_workers=loaders)
    criterion = NTXentLoss(temperature=run.temperature)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.06)
    for step, ((first, second), _) in enumerate(batches, start=1):
        loss = criterion(network(first)[1], network(second)[1])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if step == WARM_UP:
            start = time.perf_counter()
        if step == WARM_UP + steps:
            return time.perf_counter() - start


def one_training(contender, images, steps, loaders):
    """Images per second of one training on all cores."""
    batch = profile.load(PROFILE).batch_of(grid.get(RUN))
    return batch * steps / contender(images, CORES, steps, loaders)


def contest(layout, contenders, images, steps, repeats):
    """Prints a table of images per second, the contenders taking turns; the turns as they come."""
    print(f"\n{layout.__doc__.splitlines()[0]}")
    names = ["replicate" if contender is ours else f"lightly, {loaders} loader processes"
             for contender, loaders in contenders]
    turns = []
    for turn in range(repeats):
        turns.append([layout(contender, images, steps, loaders) for contender, loaders in contenders])
        rates = ", ".join(f"{name} {rate:.0f}" for name, rate in zip(names, turns[-1]))
        print(f"  turn {turn + 1}: {rates}", flush=True)
    medians = [statistics.median(rates) for rates in zip(*turns)]
    for name, median in zip(names, medians):
        print(f"  {name:<30}{median:>8.0f}{medians[0] / median:>8.1f} x")
    print(f"  ratio to lightly's best {medians[0] / max(medians[1:]):>22.1f} x")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a few steps, one repeat")
    quick = parser.parse_args().quick
    sizes, run = profile.load(PROFILE), grid.get(RUN)
    batch = sizes.batch_of(run)
    steps, repeats = (2, 1) if quick else (10, 5)
    n_images = batch * (WARM_UP + steps + 4)  # one epoch, and its loaders' queue is never short of work
    images = torch.from_numpy(microworld.make("imagenet", n_images, 1, SEED, sizes.storage_px).train)
    print(f"{run.run}: {sizes.network}, batch {batch}, {sizes.px} px, float32, {CORES} cores, "
          f"torch {torch.__version__}; load of the machine at the start {os.getloadavg()[0]:.1f}")
    loaders = (0, 1) if quick else (0, 1, 2)
    contest(one_training, [(ours, 0)] + [(lightly, n) for n in loaders], images, steps, repeats)


if __name__ == "__main__":
    main()
