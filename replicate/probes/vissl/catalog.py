"""What VISSL reads: a data set as lists of image files and labels, named by a catalogue, and a run's weights.

Images without files of their own, the micro-world's and CIFAR's, are written once as PNG, which loses nothing.
"""

import json
import shutil
from pathlib import Path

import numpy as np

from replicate import checkpoint, paths, stages, study
from replicate.data import cache, folder, manifest
from replicate.errors import UserError
from replicate.grid import Run
from replicate.profile import Profile

SPLITS = ("train", "val")


def make(profile: Profile, dataset: str) -> Path:
    """The set's folder with catalog.json and {train,val}_{images,labels}.npy, made unless it is there and current.

    Images: absolute paths, (N,) unicode; labels: int64, (N,) or, for a multi-label set, (N, C) of 1, 0 and -1. Raises
    UserError where the set is not prepared or its images are missing.
    """
    target = paths.vissl_data_dir(profile.name, dataset)
    target.parent.mkdir(parents=True, exist_ok=True)
    images = cache.prepared(profile, dataset, "images")
    if cache.fingerprints(profile, dataset)["images"] != images:  # else both engines would see different ones
        raise UserError(f"data set {dataset}: its images are not those that were prepared; run "
                        f"`make data PROFILE={profile.name} DATASETS={dataset}`")
    wanted = {"images": images, "at": str(target), "root": str(profile.data_root)}
    with cache.locked(target.with_name(f".{dataset}.lock")):
        if stages.read_output(target / "made.json", stages.fingerprint(wanted)) is None:
            partial = target.with_name(f".{dataset}.partial.tmp")
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            _write(profile, dataset, partial, target)
            stages.write_output(partial / "made.json", stages.fingerprint(wanted), {})
            paths.replace_folder(partial, target)
    return target


def _write(profile: Profile, dataset: str, place: Path, target: Path) -> None:
    """Write into `place` what will lie at `target`."""
    catalogue = {}
    for split, (images, labels) in _splits(profile, dataset).items():
        files = [str(image) if isinstance(image, Path) else _png(image, f"{split}/{i:07d}.png", place, target)
                 for i, image in enumerate(images)]  # fmt: skip
        np.save(place / f"{split}_images.npy", np.array(files), allow_pickle=False)
        np.save(place / f"{split}_labels.npy", np.asarray(labels, np.int64), allow_pickle=False)
        catalogue[split] = [str(target / f"{split}_images.npy"), str(target / f"{split}_labels.npy")]
    paths.write_text(place / "catalog.json", json.dumps({dataset: catalogue}) + "\n")


def _splits(profile: Profile, dataset: str) -> dict[str, tuple]:
    """split -> (images, labels); an image is the absolute path of its file or, where it has none, a PIL image."""
    if profile.kind == "folders":
        found = folder.listing(manifest.load(dataset), profile.data_root, profile.sizes.get(dataset))
        found.root = found.root.resolve()
        return {split: (folder.images(found, getattr(found, split)), getattr(found, split).labels) for split in SPLITS}
    from PIL import Image

    from replicate.data import microworld

    raw = microworld.make(dataset, *profile.sizes[dataset], profile.data_seed, px=profile.storage_px)
    return {split: ((Image.fromarray(pixels.transpose(1, 2, 0)) for pixels in getattr(raw, split)),
                    getattr(raw, f"{split}_labels")) for split in SPLITS}  # fmt: skip


def _png(image, name: str, place: Path, target: Path) -> str:
    (place / name).parent.mkdir(exist_ok=True)
    image.save(place / name)
    return str(target / name)


def trunk_weights(profile: Profile, run: Run, seed: int) -> dict:
    """Backbone and projector of a run under the names of the worker's trunk; for DINO the teacher's. Plain tensors."""
    state = checkpoint.load(study.checkpoint_path(profile, run, seed), "cpu")
    given = state["teacher"] or state["network"]
    names = {"backbone.": "res5.", "projector.": "embedding.1."}
    return {name.replace(ours, theirs, 1): tensor for name, tensor in given.items() for ours, theirs in names.items()
            if name.startswith(ours) and not name.endswith("num_batches_tracked")}
