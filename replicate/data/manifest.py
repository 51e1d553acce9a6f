"""Data manifests: one YAML a data set in data_manifests/, with its source, layout, counts, terms and probe protocol."""

from dataclasses import dataclass, field, fields
from pathlib import Path

import yaml

from replicate import paths
from replicate.errors import UserError

LAYOUTS = {  # kind: the keys that it may have
    "imagefolder": {"path", "train", "val"},
    "tiny_imagenet": {"path"},
    "eurosat": {"path", "train_per_class", "val_per_class"},
    "voc": {"path"},
}
WITHOUT_READER = {"voc"}
NESTED_KEYS = {
    "source": {"urls", "archives", "terms", "registration", "torchvision", "archive_layout"},
    "counts": {"train", "val"},
    "probe": {"kind", "epochs", "schedule", "transform", "also"},
}
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

    layout: kind (a key of LAYOUTS), path below DATA_ROOT, and what that kind takes. classes: number of classes or
    None. counts: images of the official train and val splits. probe: kind (linear | svm), epochs, schedule
    ({kind: steps, milestones, gamma} or {kind: cosine, end_factor}), transform (random_resized_crop | resize), also
    (further probes). unverified: the statements of the file for which no source was opened. file: where it was read.
    """

    name: str
    layout: dict
    title: str = ""
    classes: int | None = None
    metric: str = "top-1"
    licence: str = "unknown"
    source: dict = field(default_factory=dict)
    counts: dict = field(default_factory=dict)
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
    _check_layout(file, content["layout"])
    for key, allowed in NESTED_KEYS.items():
        _only(file, f"{key}.", content.get(key, {}), allowed)
    content["probe"] = _probe(file, content.get("probe", {}))
    content["unverified"] = tuple(content.get("unverified", ()))
    if content.get("metric", "top-1") not in ("top-1", "mAP"):
        raise UserError(f"{file}: metric must be top-1 or mAP, not {content['metric']!r}")
    return Manifest(**{"title": content["name"], **content}, file=file)


def available(manifest: Manifest, data_root: Path | None) -> bool:
    """Whether a set can be read: there is a reader, and what the layout names is below data_root (not opened)."""
    if data_root is None or manifest.layout["kind"] in WITHOUT_READER:
        return False
    return all(path.exists() for path in parts(manifest, data_root))


def parts(manifest: Manifest, data_root: Path) -> list[Path]:
    """The folders and files without which a set counts as missing."""
    layout = manifest.layout
    root = Path(data_root) / layout["path"]
    if layout["kind"] == "imagefolder":
        return [root / layout.get("train", "train"), root / layout.get("val", "val")]
    if layout["kind"] == "tiny_imagenet":
        return [root / "wnids.txt", root / "train", root / "val" / "images", root / "val" / "val_annotations.txt"]
    return [root]


def missing(manifest: Manifest, data_root: Path | None) -> UserError:
    """The error for a set that is not there: what was looked for, and the manifest's instructions."""
    if data_root is None:
        problem = f"data set {manifest.name}: DATA_ROOT is not set (the folder that holds {manifest.layout['path']}/)"
    else:
        absent = next((path for path in parts(manifest, data_root) if not path.exists()), data_root)
        problem = f"data set {manifest.name}: {absent} does not exist (DATA_ROOT={data_root})"
    instructions = " ".join(manifest.instructions.split())
    return UserError(f"{problem}. {instructions} Or SKIP_MISSING=1 leaves the set out, as a declared gap.")


def _only(file: Path, prefix: str, content, allowed: set) -> None:
    if not isinstance(content, dict):
        raise UserError(f"{file}: {prefix.rstrip('.')} must hold keys and values, not {content!r}")
    for key in content:
        if key not in allowed:
            raise UserError(f"{file}: unknown key {prefix}{key} (allowed: {', '.join(sorted(allowed))})")


def _check_layout(file: Path, layout) -> None:
    kind = layout.get("kind") if isinstance(layout, dict) else None
    if kind not in LAYOUTS:
        raise UserError(f"{file}: layout.kind must be one of {', '.join(LAYOUTS)}, not {kind!r}")
    _only(file, "layout.", layout, LAYOUTS[kind] | {"kind"})
    if not layout.get("path"):
        raise UserError(f"{file}: layout.path is missing (the set's folder below DATA_ROOT)")
    for key in ("train_per_class", "val_per_class"):
        count = layout.get(key)
        if kind == "eurosat" and not (isinstance(count, int) and count > 0):
            raise UserError(f"{file}: layout.{key} must be a positive number of images, not {count!r}")


def _probe(file: Path, given: dict) -> dict:
    # An SVM has no epochs; the linear defaults are those of most of VISSL's configurations.
    probe = dict(given) if given.get("kind") == "svm" else {**DEFAULT_PROBE, **given}
    if probe["kind"] not in ("linear", "svm"):
        raise UserError(f"{file}: probe.kind must be linear or svm, not {probe['kind']!r}")
    if probe.get("transform") not in ("random_resized_crop", "resize"):
        given = probe.get("transform")
        raise UserError(f"{file}: probe.transform must be random_resized_crop or resize, not {given!r}")
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
