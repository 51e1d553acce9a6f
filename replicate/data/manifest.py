"""Data manifests: one YAML a data set in data_manifests/, with its source, layout, counts, terms and probe protocol."""

import re
from dataclasses import dataclass, field, fields
from pathlib import Path

import yaml

from replicate import paths
from replicate.errors import UserError

LAYOUTS = {  # kind: (keys that it may have beside kind and path, parts without which a set counts as missing)
    "imagefolder": ({"train", "val"}, ("{train}", "{val}")),
    "tiny_imagenet": (set(), ("wnids.txt", "train", "val/images", "val/val_annotations.txt")),
    "eurosat": ({"train_per_class", "val_per_class"}, (".",)),
    "imagenet_list": ({"images", "list"}, ("{images}/train", "{images}/val", "{list}")),
    "inat18": (set(), ("train_val2018", "train2018.json", "val2018.json")),
    "places205": (set(), ("data/vision/torralba/deeplearning/images256", "trainvalsplit_places205/train_places205.csv",
                          "trainvalsplit_places205/val_places205.csv")),
    "sun397": (set(), ("ClassName.txt",)),
    "cars": (set(), ("cars_train", "cars_test", "devkit/cars_meta.mat", "devkit/cars_train_annos.mat",
                     "cars_test_annos_withlabels.mat")),
    "cifar10": (set(), ("batches.meta", "test_batch") + tuple(f"data_batch_{i}" for i in range(1, 6))),
    "cifar100": (set(), ("meta", "train", "test")),
    "idx": (set(), ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz",
                    "t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz")),
    "food101": (set(), ("images", "meta/classes.txt", "meta/train.txt", "meta/test.txt")),
    "clevr": (set(), ("images/train", "images/val", "scenes/CLEVR_train_scenes.json", "scenes/CLEVR_val_scenes.json")),
    "voc": ({"train", "val", "annotations"}, ()),  # lists such as VOC2007/trainval, each one a part
}  # fmt: skip
NESTED_KEYS = {
    "source": {"urls", "archives", "terms", "registration", "torchvision", "archive_layout", "download"},
    "counts": {"train", "val", "total", "tolerance"},
    "probe": {"kind", "epochs", "schedule", "transform", "also"},
}
ARCHIVE_KEYS = {"file", "url", "bytes", "about", "md5", "sha256", "to"}
REDUCED_KEYS = {"train", "val", "total", "what"}
PROBES = ("linear", "svm", "finetune", "detection")
# random_resized_crop: so in training, tested at 256 and cropped to 224. resize: squashed to 224.
# resize_then_squash: the shorter side to 256, then squashed, as VISSL does for VOC07.
TRANSFORMS = ("random_resized_crop", "resize", "resize_then_squash")
SCHEDULES = {"steps": {"milestones", "gamma"}, "cosine": {"end_factor"}}
DEFAULT_PROBE = {
    "kind": "linear",
    "epochs": 28,
    "schedule": {"kind": "steps", "milestones": [8, 16, 24], "gamma": 0.1},
    "transform": "resize",
}


@dataclass(frozen=True)
class Manifest:
    """What data_manifests/<name>.yaml says; `name` and `layout` are enough, the rest has defaults.

    layout: kind (a key of LAYOUTS), path below DATA_ROOT, and what that kind takes. alternatives: other layouts that
    are accepted; the first that is there is read. classes: number of classes or None. counts: images of the train and
    val splits, total with those that the split leaves unused, tolerance (images) where a count is not exact.
    reduced: known smaller copies, each with the counts that it differs in and `what` it is. balanced: the splits in
    which every class has as many images. source.archives: file, url, md5, sha256, bytes (or `about`, in words), and
    the folder below DATA_ROOT that it is unpacked to (`to`). source.download: whether licence and address allow
    `data download`. probe: kind (PROBES), epochs, schedule ({kind: steps, milestones, gamma} or {kind: cosine,
    end_factor}), transform (of TRANSFORMS), also (further probes). unverified: the statements of the
    file for which no source was opened. file: where it was read.
    """

    name: str
    layout: dict
    title: str = ""
    classes: int | None = None
    metric: str = "top-1"
    licence: str = "unknown"
    source: dict = field(default_factory=dict)
    alternatives: tuple = ()
    counts: dict = field(default_factory=dict)
    balanced: tuple = ()
    reduced: tuple = ()
    split: str = ""
    instructions: str = ""
    probe: dict = field(default_factory=lambda: dict(DEFAULT_PROBE))
    unverified: tuple = ()
    file: Path | None = None


def load(name: str) -> Manifest:
    """The manifest of a data set by name; UserError where there is none, or where it has an unknown or bad key."""
    file = paths.MANIFESTS / f"{name}.yaml"
    if not file.is_file():
        raise UserError(f"no data set {name!r}: {file} does not exist (there are: {', '.join(names())})")
    return read(file)


def names() -> list[str]:
    """All data sets that have a manifest, sorted."""
    return sorted(file.stem for file in paths.MANIFESTS.glob("*.yaml"))


def read(file: Path) -> Manifest:
    """Read and validate one manifest file; UserError names the file and the key."""
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as problem:
        raise UserError(f"{file}: not readable as YAML ({' '.join(str(problem).split())})") from None
    if not isinstance(content, dict):
        raise UserError(f"{file}: expected keys and values")
    _only(file, "", content, {f.name for f in fields(Manifest)} - {"file"})
    for key in ("name", "layout"):
        if key not in content:
            raise UserError(f"{file}: key {key!r} is missing")
    if content["name"] != file.stem:
        raise UserError(f"{file}: name is {content['name']!r}, but the file's name says {file.stem!r}")
    _check_layout(file, "layout", content["layout"])
    for i, layout in enumerate(_entries(file, content, "alternatives")):
        _check_layout(file, f"alternatives[{i}]", layout)
    for key, allowed in NESTED_KEYS.items():
        _only(file, f"{key}.", content.get(key, {}), allowed)
    content["probe"] = _probe(file, content.get("probe", {}))
    _check_source(file, content.get("source", {}))
    _check_counts(file, content)
    for key in ("unverified", "alternatives", "balanced", "reduced"):
        content[key] = tuple(_entries(file, content, key))
    if content.get("metric", "top-1") not in ("top-1", "mAP", "AP50"):
        raise UserError(f"{file}: metric must be top-1, mAP or AP50, not {content['metric']!r}")
    return Manifest(**{"title": content["name"], **content}, file=file)


def present(manifest: Manifest, data_root: Path | None) -> dict | None:
    """The layout in which a set is below data_root, the main one before its alternatives; None where it is not."""
    if data_root is None:
        return None
    layouts = (manifest.layout, *manifest.alternatives)
    return next((one for one in layouts if all(path.exists() for path in parts(one, data_root))), None)


def available(manifest: Manifest, data_root: Path | None) -> bool:
    """Whether a set can be read: what one of its layouts names is below data_root (not opened)."""
    return present(manifest, data_root) is not None


def parts(layout: dict, data_root: Path) -> list[Path]:
    """The folders and files without which a set counts as missing."""
    root = Path(data_root) / layout["path"]
    if layout["kind"] == "voc":
        lists = (one.split("/") for one in layout["train"] + layout["val"])
        return [root / year / "ImageSets" / "Main" / f"{name}.txt" for year, name in lists]
    return [root / part.format(**{"train": "train", "val": "val", **layout}) for part in LAYOUTS[layout["kind"]][1]]


def no_root(data_root: Path) -> UserError:
    """The error for a DATA_ROOT that is no folder."""
    what = "is a file" if Path(data_root).exists() else "does not exist"
    return UserError(f"DATA_ROOT={data_root} {what}: correct it, or make the folder and put the sets there")


def missing(manifest: Manifest, data_root: Path | None) -> UserError:
    """The error for a set that is not there: what was looked for, and the manifest's instructions."""
    if data_root is not None and not Path(data_root).is_dir():
        return no_root(data_root)
    if data_root is None:
        problem = f"data set {manifest.name}: DATA_ROOT is not set (the folder that holds {manifest.layout['path']}/)"
    else:
        wanted = [parts(layout, data_root) for layout in (manifest.layout, *manifest.alternatives)]
        nearest = max(wanted, key=lambda paths_: sum(path.exists() for path in paths_) / len(paths_))
        absent = next((path for path in nearest if not path.exists()), data_root)
        problem = f"data set {manifest.name}: {absent} does not exist (DATA_ROOT={data_root})"
    instructions = " ".join(manifest.instructions.split())
    return UserError(f"{problem}. {instructions} Or SKIP_MISSING=1 leaves the set out, as a declared gap.")


def _only(file: Path, prefix: str, content, allowed: set) -> None:
    if not isinstance(content, dict):
        raise UserError(f"{file}: {prefix.rstrip('.')} must hold keys and values, not {content!r}")
    for key in content:
        if key not in allowed:
            raise UserError(f"{file}: unknown key {prefix}{key} (allowed: {', '.join(sorted(allowed))})")


def _entries(file: Path, content: dict, key: str) -> list:
    entries = content.get(key, [])
    if not isinstance(entries, list):
        raise UserError(f"{file}: {key} must be a list, not {entries!r}")
    return entries


def _inside(path) -> bool:
    """Whether a path of a manifest stays below the folder that it is relative to."""
    return isinstance(path, str) and bool(path) and not path.startswith("/") and ".." not in path.split("/")


def _check_layout(file: Path, name: str, layout) -> None:
    kind = layout.get("kind") if isinstance(layout, dict) else None
    if kind not in LAYOUTS:
        raise UserError(f"{file}: {name}.kind must be one of {', '.join(LAYOUTS)}, not {kind!r}")
    keys = LAYOUTS[kind][0]
    _only(file, f"{name}.", layout, keys | {"kind", "path"})
    if not _inside(layout.get("path")):
        raise UserError(f"{file}: {name}.path must be the set's folder below DATA_ROOT, not {layout.get('path')!r}")
    for key in keys & {"train_per_class", "val_per_class"}:
        if not _is_count(layout.get(key)):
            raise UserError(f"{file}: {name}.{key} must be a positive number of images, not {layout.get(key)!r}")
    for key in ("images", "list") if kind == "imagenet_list" else ():
        if not _inside(layout.get(key)):
            raise UserError(f"{file}: {name}.{key} must be a path below layout.path, not {layout.get(key)!r}")
    for key in ("train", "val") if kind == "voc" else ():
        lists = layout.get(key)
        if not (isinstance(lists, list) and lists and all(re.fullmatch(r"\w+/\w+", str(one)) for one in lists)):
            raise UserError(f"{file}: {name}.{key} must hold lists such as VOC2007/trainval, not {lists!r}")


def _is_count(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _check_counts(file: Path, content: dict) -> None:
    for key, value in content.get("counts", {}).items():
        if not _is_count(value):
            raise UserError(f"{file}: counts.{key} must be a positive number of images, not {value!r}")
    for i, copy in enumerate(_entries(file, content, "reduced")):
        _only(file, f"reduced[{i}].", copy, REDUCED_KEYS)
        if not copy.get("what") or not all(_is_count(copy[key]) for key in copy if key != "what"):
            raise UserError(f"{file}: reduced[{i}] must say `what` it is and hold positive numbers of images")
    for part in _entries(file, content, "balanced"):
        if part not in ("train", "val"):
            raise UserError(f"{file}: balanced may hold train and val, not {part!r}")


def _check_source(file: Path, source: dict) -> None:
    for i, archive in enumerate(_entries(file, source, "archives")):
        name = f"source.archives[{i}]"
        _only(file, f"{name}.", archive, ARCHIVE_KEYS)
        for key in ("file", "to"):
            if not _inside(archive.get(key, "." if key == "to" else None)):
                raise UserError(f"{file}: {name}.{key} must be a path below DATA_ROOT, not {archive.get(key)!r}")
        for key, digits in (("md5", 32), ("sha256", 64)):
            if key in archive and not re.fullmatch(f"[0-9a-f]{{{digits}}}", str(archive[key])):
                raise UserError(f"{file}: {name}.{key} must have {digits} hexadecimal digits, not {archive[key]!r}")
        if source.get("download") and not ("url" in archive and archive.keys() & {"md5", "sha256"}):
            raise UserError(f"{file}: {name} needs a url and a checksum, because source.download is true")


def _probe(file: Path, given: dict) -> dict:
    # An SVM has no epochs; the linear defaults are those of most of VISSL's configurations.
    probe = {**DEFAULT_PROBE, **given} if given.get("kind", "linear") == "linear" else dict(given)
    if probe["kind"] not in PROBES:
        raise UserError(f"{file}: probe.kind must be one of {', '.join(PROBES)}, not {probe['kind']!r}")
    transform = probe.get("transform")
    if transform not in TRANSFORMS:
        raise UserError(f"{file}: probe.transform must be one of {', '.join(TRANSFORMS)}, not {transform!r}")
    for extra in probe.get("also", ()):
        if extra not in ("mlp", "knn"):
            raise UserError(f"{file}: probe.also may hold mlp and knn, not {extra!r}")
    if probe["kind"] == "linear":
        _check_schedule(file, probe)
    return probe


def _check_schedule(file: Path, probe: dict) -> None:
    schedule, epochs = probe["schedule"], probe["epochs"]
    if not (isinstance(epochs, int) and epochs > 0):
        raise UserError(f"{file}: probe.epochs must be a positive integer, not {epochs!r}")
    kind = schedule.get("kind") if isinstance(schedule, dict) else None
    if kind not in SCHEDULES:
        raise UserError(f"{file}: probe.schedule.kind must be steps or cosine, not {kind!r}")
    _only(file, "probe.schedule.", schedule, SCHEDULES[kind] | {"kind"})
    for key in SCHEDULES[kind] - set(schedule):
        raise UserError(f"{file}: probe.schedule.{key} is missing")
    if kind == "steps" and not all(0 < step < epochs for step in schedule["milestones"]):
        raise UserError(f"{file}: probe.schedule.milestones must lie between 0 and {epochs} epochs")
