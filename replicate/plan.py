"""What a study would take before any of it is sent: trainings, images, hours, days, memory and disk.

Hours follow from images and images a second: of a named machine, of the cached rows, or timed here.
"""

import collections
import dataclasses
import os
import sys
import time

from replicate import paths, results, share, status
from replicate.data import cache, manifest
from replicate.errors import UserError
from replicate.grid import METHODS, Run
from replicate.profile import GRID_BATCH, Profile
from replicate.status import State

IMAGENET = 1_281_167
# Hours of 100 epochs of SimCLR, ResNet-50 at 224 px, on 8 A100: read off figure 1 of arXiv 2303.01986 (FFCV-SSL).
NAMED = {"a100-torchvision": ("one A100", 32, "torchvision's loader"),
         "a100-ffcv": ("one A100", 12, "FFCV-SSL's loader")}  # fmt: skip
SECONDS = 4.0  # of timed steps, of each method at each of two batch sizes
TIMED_ON_CPU = {"thin_resnet": 128, "resnet18": 32, "resnet50": 16}  # images of the larger batch that is timed
NUMBER = 21  # bytes of one singular value as JSON
LINE = 120  # bytes of one image in a streamed set's lists


@dataclasses.dataclass
class Basis:
    """Throughput that hours are computed from. rates: images a second of one `unit` by method; memory: GB of one."""

    unit: str
    about: list[str]
    rates: dict[str, float]
    memory: dict[str, float] = dataclasses.field(default_factory=dict)


# ---------------------------------------------------------------- throughput


def usual(profile: Profile) -> str:
    """The machine that is meant where none is named."""
    return "a100-torchvision" if _is_papers(profile) else "cached"


def _is_papers(profile: Profile) -> bool:
    return (profile.network, profile.px) == ("resnet50", 224)


def basis(profile: Profile, runs: list[Run], machine: str, device: str, gpus: int) -> Basis:
    """By the name of the machine: one of NAMED, 'here', or 'cached'. Raises UserError where it tells nothing."""
    if machine == "here":
        return measured(profile, runs, device, gpus)
    if machine == "cached":
        return from_rows(profile)
    if machine not in NAMED:
        raise UserError(f"--machine is {machine!r}: use here, cached, {' or '.join(NAMED)}")
    if not _is_papers(profile):
        raise UserError(f"--machine {machine} tells about a ResNet-50 at 224 px, which profile {profile.name} is not: "
                        "use here")  # fmt: skip
    unit, hours, loader = NAMED[machine]
    about = [f"published (FFCV-SSL, figure 1): 100 epochs of SimCLR on 8 A100 in about {hours} h with {loader}",
             f"taken for every method; {dino_share(profile)}"]  # fmt: skip
    return Basis(unit, about, dict.fromkeys(METHODS, IMAGENET * 100 / (8 * hours * 3600)))


def dino_share(profile: Profile) -> str:
    """Pixels that DINO's networks see an image over those of two views, a forward pass counting a third."""
    student = 2 * profile.px**2 + profile.local_crops * profile.local_px**2
    ratio = (student + 2 * profile.px**2 / 3) / (2 * profile.px**2)
    return f"where arithmetic is the limit DINO's crops and teacher take {ratio:.1f} times its hours here"


def from_rows(profile: Profile) -> Basis:
    """Of the trainings in runs.csv; a method that has none gets the mean of all. Raises UserError without any."""
    images, seconds, devices = collections.Counter(), collections.Counter(), set()
    for row in results.read_rows(profile.name, "runs"):
        if row["wall_seconds"] and float(row["wall_seconds"]):
            batch = int(row["batch_size"]) * profile.batch // GRID_BATCH
            images[row["method"]] += int(row["steps"]) * batch
            seconds[row["method"]] += float(row["wall_seconds"])
            devices.add(row["device"])
    if not seconds:
        raise UserError(f"no trainings in {results.path(profile.name, 'runs')}: --machine here times some steps")
    mean = images.total() / seconds.total()
    rates = {name: images[name] / seconds[name] if seconds[name] else mean for name in METHODS}
    unit = _process(profile) if devices == {"cpu"} else "one GPU"
    return Basis(unit, [f"the cached rows' trainings, on {', '.join(sorted(devices))}; measured by us"], rates)


def _process(profile: Profile) -> str:
    return f"a process of {profile.threads} thread{'s' if profile.threads > 1 else ''}"


def measured(profile: Profile, runs: list[Run], device: str, gpus: int) -> Basis:
    """Time some steps of one run a method at two batch sizes, each in a process of its own; a line goes through both.

    A batch is divided among the GPUs; a process on a CPU takes it whole.
    """
    on_gpu = device.startswith("cuda")
    timed = profile if on_gpu else dataclasses.replace(profile, precision="float32")
    timed = dataclasses.replace(timed, shards=1, threads=min(profile.threads, os.cpu_count() or 1))
    rates, memory, about = {}, {}, []
    for run in {run.method: run for run in reversed(runs)}.values():
        share_of_one = max(profile.batch_of(run) // (gpus if on_gpu else 1), 2)
        large = min(share_of_one, 64 if on_gpu else TIMED_ON_CPU[profile.network])
        points = [(size, *_in_a_process(timed, run, device, size)) for size in (large // 2, large)]
        seconds, gigabytes = (_line(*[(size, values[i]) for size, *values in points], share_of_one) for i in (0, 1))
        rates[run.method], memory[run.method] = share_of_one / seconds, gigabytes
        about.append(f"{run.run}: a step of {large // 2} images {points[0][1]:.2f} s, of {large} {points[1][1]:.2f} s")
    name = "one GPU" if on_gpu else _process(timed)
    how = f"timed here, a batch of {profile.batch} " + (f"on {gpus} GPUs" if on_gpu else "in one process, float32")
    about = [f"{how}; images in memory, so that reading and decoding files comes on top", *about]
    return Basis(name, about, rates, memory)


def _line(first: tuple[float, float], second: tuple[float, float], x: float) -> float:
    """The straight line through two points (x, y) at x; never falling."""
    slope = max((second[1] - first[1]) / (second[0] - first[0]), 0.0)
    return second[1] + slope * (x - second[0])


def _in_a_process(profile: Profile, run: Run, device: str, batch: int) -> tuple[float, float]:
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool

    print(f"timing {run.run}: steps of {batch} images", file=sys.stderr, flush=True)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(timed_steps, profile, run, device, batch).result()
        except (BrokenProcessPool, RuntimeError) as error:  # killed, or CUDA's own error for want of memory
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"{run.run}: steps of {batch} images failed ({reason}); is there memory enough?") from None


def timed_steps(profile: Profile, run: Run, device: str, batch: int) -> tuple[float, float]:
    """Seconds a step and peak GB of a process that trains `run` on `batch` random images."""
    import torch

    from replicate import pretrain, training

    torch.set_num_threads(profile.threads)
    images = torch.randint(0, 256, (batch, 3, profile.storage_px, profile.storage_px), dtype=torch.uint8)
    own, sized = dataclasses.replace(run, batch_size=batch), dataclasses.replace(profile, batch=GRID_BATCH)
    state = training.Training(sized, own, 0, device, batch)
    state.epoch = state.epochs // 2  # past what the first epochs leave out
    seconds: list[float] = []
    while len(seconds) < 2 or sum(seconds[1:]) < SECONDS:  # the first step prepares kernels
        begun = time.perf_counter()
        training.train_step(state, [images.to(device)])
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begun)
    return sum(seconds[1:]) / (len(seconds) - 1), pretrain.peak_memory_mb(device) * 2**20 / 1e9


# ---------------------------------------------------------------- work


def images_of(profile: Profile, run: Run) -> int:
    """Images that a training passes through its network: whole batches only."""
    batch = profile.batch_of(run)
    return n_images(profile, profile.source_of(run))[0] // batch * batch * profile.epochs_of(run)


def n_images(profile: Profile, dataset: str) -> tuple[int, int]:
    """Training and validation images: of the prepared set, else of the profile, else of the manifest."""
    try:
        return cache.sizes(profile, dataset)
    except UserError:
        counts, caps = manifest.load(dataset).counts, profile.sizes.get(dataset)
        if profile.kind == "microworld":
            return tuple(caps)
        return tuple(min(count, cap) for count, cap in zip((counts["train"], counts["val"]), caps or (10**12, 10**12)))


def left_of(one: State) -> float:
    """The share of a training that is still to be done."""
    return 0.0 if one.state in status.DONE else 1 - one.epoch / max(one.epochs, 1)


# ---------------------------------------------------------------- disk


def checkpoint_bytes(profile: Profile, run: Run) -> int:
    """Of one checkpoint: network, optimizer (LARS a buffer a weight, AdamW two) and DINO's teacher."""
    network = share.abstract_network(profile, run)
    weights = sum(one.numel() * one.element_size() for one in network.parameters())
    state = sum(one.numel() * one.element_size() for one in network.state_dict().values())
    return 2 * state + 2 * weights if run.method == "DINO" else state + weights


def cell_bytes(profile: Profile, run: Run) -> int:
    """About what the spectra and ranks of one run take, most of it for the source, with spectra of parts of it."""
    widths = profile.width + profile.projector_of(run)[-1] * (2 if run.method == "DINO" else 1)
    return 2 * NUMBER * widths * (len(profile.datasets) + 8)


def data_bytes(profile: Profile, dataset: str) -> int:
    """Of a prepared set: squares at storage size and at the network's, augmented views; of a streamed one its lists."""
    train, val = n_images(profile, dataset)
    if profile.streamed:
        return LINE * (train + val)
    views = profile.probe_views if manifest.load(dataset).probe["transform"] == "random_resized_crop" else 0
    return 3 * (profile.storage_px**2 * train + profile.px**2 * (train * (1 + views) + val))


def archive_bytes(profile: Profile) -> int:
    """Of the original archives of a profile's real sets, as far as their manifests know."""
    names = profile.datasets if profile.kind == "folders" else []
    return sum(archive.get("bytes", 0) for name in names for archive in manifest.load(name).source.get("archives", ()))


# ---------------------------------------------------------------- what is said


def first_line(profile: Profile, found: list[State]) -> str:
    extra = sum(one.run.extra for one in found)
    some = f" ({extra} of them extra)" if extra else ""
    return f"profile {profile.name}, {status.summary(found)}{some}. {profile.hours_hint}".rstrip()


def show(profile: Profile, found: list[State], machine: str, device: str, gpus: int, jobs: int) -> None:
    """Print the plan for the trainings that are not done; days on so many GPUs, or with so many processes at a time."""
    print(first_line(profile, found))
    based = basis(profile, [one.run for one in found], machine, device, gpus)
    units = jobs if based.unit.startswith("a process") else gpus
    titles = ["trainings", "to do", "images", "images/s", "hours", f"on {units}", "checkpoints"]
    titles += ["memory"] if based.memory else []
    print(f"{'method':11}" + "".join(f"{title:>13}" for title in titles))
    rows = {method: [one for one in found if one.run.method == method] for method in METHODS}
    for method, ones in rows.items():
        if ones:
            images = sum(images_of(profile, one.run) * left_of(one) for one in ones)
            hours = hours_of(profile, ones, based)
            line = (len(ones), sum(left_of(one) > 0 for one in ones), f"{images:.3g}",
                    f"{based.rates[method]:,.{0 if based.rates[method] >= 10 else 2}f}",
                    f"{hours:,.1f}", status.duration(3600 * hours / units),
                    size(sum(checkpoint_bytes(profile, one.run) for one in ones)),
                    *([f"{based.memory[method]:.1f} GB"] if based.memory else []))  # fmt: skip
            print(f"{method:11}" + "".join(f"{text:>13}" for text in line))
    hours = hours_of(profile, found, based)
    own = hours_of(profile, [one for one in found if not one.run.extra], based)
    print(f"trainings: {hours:,.{1 if hours < 100 else 0}f} hours of {based.unit}"
          + (f" ({own:,.{1 if hours < 100 else 0}f} without the extra runs)" if own < hours else "")
          + f", {status.duration(3600 * hours / units)} on {units}; probes and fine-tuning come on top")  # fmt: skip
    for line in based.about:
        print(f"  {line}")
    show_disk(profile, found)


def hours_of(profile: Profile, found: list[State], based: Basis) -> float:
    """Of one unit, for what is left of the trainings."""
    return sum(images_of(profile, one.run) * left_of(one) / based.rates[one.run.method] for one in found) / 3600


def show_disk(profile: Profile, found: list[State]) -> None:
    prepared = [name for name in profile.datasets if paths.is_prepared(profile.name, name)]
    kinds = {
        "checkpoints": sum(checkpoint_bytes(profile, one.run) for one in found),
        "spectra, ranks": sum(cell_bytes(profile, one.run) for one in found),
        f"prepared data ({len(prepared)} of {len(profile.datasets)} there)":
            sum(data_bytes(profile, name) for name in profile.datasets),
        "archives of the originals, and as much again unpacked": archive_bytes(profile),
    }  # fmt: skip
    print("disk: " + "; ".join(f"{kind} {size(count)}" for kind, count in kinds.items() if count))


def size(count: float) -> str:
    for unit, one in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= one:
            return f"{count / one:,.1f} {unit}"
    return f"{count / 1e3:,.0f} kB"
