"""Profiles: the sizes of a study. A profile changes sizes, never definitions (grid, losses, estimators, protocol)."""

import dataclasses
import os
import types
import typing
from pathlib import Path

import yaml

from replicate import paths
from replicate.errors import UserError
from replicate.grid import METRICS, Run

KINDS = ("microworld", "folders")
NETWORKS = {"thin_resnet": 128, "resnet18": 512, "resnet50": 2048}  # network -> width of its representation
PRECISIONS = ("float32", "bf16", "float64")  # of the training; float64 is for checks: a process or many, to 1e-12
FINETUNE_TASKS = tuple(METRICS)
ENGINES = {"native": "evaluate", "vissl": "vissl"}  # of the probes -> the stage that its cells belong to
GRID_EPOCHS, GRID_BATCH, GRID_WIDTH = 100, 1024, 2048  # what 1 epoch unit, 1 batch and 1 width are in grid.csv


@dataclasses.dataclass(frozen=True)
class Profile:
    """One YAML file of profiles/. Ratios of the grid are kept: batch, epochs and projector follow from the sizes here."""

    name: str
    kind: str  # microworld: made on the spot; folders: real images below DATA_ROOT
    datasets: list[str]
    sources: dict[str, str]  # source in grid.csv -> data set that plays it here; a source left out is not run
    data_seed: int
    storage_px: int  # side of the stored images that training crops from
    px: int  # side of the network's input
    sizes: dict[str, list[int]]  # data set -> [training images, validation images]; for folders a cap, else all
    probe_views: int  # cached augmented views an image, for probes whose protocol crops at random
    probe_lr_scale: float  # for probes of few steps: 280 instead of 140,000
    svm_costs: list[float]
    network: str
    batch: int
    epochs: int
    warmup_epochs: float
    lr_scale: dict[str, float]  # one factor an optimizer, for trainings of few steps
    crop_area: list[float]
    global_area: list[float]
    local_area: list[float]
    local_crops: int
    local_px: int
    dino_hidden: int
    dino_bottleneck: int
    dino_prototypes: int
    teacher_momentum: float
    freeze_prototypes_epochs: int
    precision: str
    threads: int  # a process; fixed, so that sums are taken in the same order on every machine
    checkpoint_every: int  # epochs
    engine: str = "native"  # of the probes whose rows the study is made of
    streamed: bool = False  # images stay files, decoded when they are used, instead of arrays of storage_px squares
    spectrum_samples: int = 0  # training images whose features a spectrum is taken of, drawn once; 0: all of them
    workers: int = 0  # processes that decode files for one training process
    shards: int = 1  # parts of a batch that draw augmentations apart, so that one process or many draw the same
    torch_compile: bool = False  # the backbone by torch.compile
    tasks: list[str] = dataclasses.field(default_factory=list)  # fine-tuning tasks of table 3 (FINETUNE_TASKS)
    finetune_lr_scale: float = 1.0  # for fine-tunings of few steps
    detection_iterations: int = 24_000
    detection_batch: int = 16
    hours_hint: str = ""  # what a user should expect, printed before a long run

    @property
    def width(self) -> int:
        return NETWORKS[self.network]

    @property
    def data_root(self) -> Path | None:
        return paths.data_root()

    @property
    def images(self) -> str:
        """What the numbers of this profile are about."""
        return "synthetic micro-world" if self.kind == "microworld" else "real images"

    @property
    def provenance(self) -> str:
        """What its numbers are, in the words of every figure and table."""
        return f"profile {self.name}: {self.images}, measured by us"

    def source_of(self, run: Run) -> str | None:
        """The data set on which `run` is pretrained in this profile, None where it has none."""
        return self.sources.get(run.source)

    def batch_of(self, run: Run) -> int:
        return run.batch_size * self.batch // GRID_BATCH

    def epochs_of(self, run: Run) -> int:
        return run.epochs * self.epochs // GRID_EPOCHS

    def lr_of(self, run: Run) -> float:
        """Peak learning rate: base x batch / 256 x lr_scale of the optimizer."""
        return run.base_lr * self.batch_of(run) / 256 * self.lr_scale[run.optimizer]

    def projector_of(self, run: Run) -> list[int]:
        """Widths of the projector's layers: 4w-4w-d as 8192-8192-d in the paper; DINO's own, up to its bottleneck."""
        if run.method == "DINO":
            return [self.dino_hidden, self.dino_hidden, self.dino_bottleneck]
        return [4 * self.width, 4 * self.width, run.proj_dim * self.width // GRID_WIDTH]


def load(name: str) -> Profile:
    """Read profiles/<name>.yaml, or the file `name` if it ends in .yaml. Raises UserError naming key and file."""
    path = Path(name) if name.endswith(".yaml") else paths.PROFILES / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in paths.PROFILES.glob("*.yaml")))
        raise UserError(f"unknown profile '{name}': use one of {known}, or the path of a .yaml file")
    values = _read_yaml(path)
    if "base" in values:
        base = _read_yaml(paths.PROFILES / f"{values.pop('base')}.yaml")
        values = {**base, **values}
    if os.environ.get("PRECISION"):
        values["precision"] = os.environ["PRECISION"]
    return _checked(values, path)


def _read_yaml(path: Path) -> dict:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise UserError(f"{path}: not a readable YAML file ({' '.join(str(error).split())})") from error
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected keys and values, as in profiles/mini.yaml")
    return values


def _checked(values: dict, path: Path) -> Profile:
    fields = {field.name: field for field in dataclasses.fields(Profile)}
    for key in values:
        if key not in fields:
            raise UserError(f"{path}: unknown key '{key}': the keys are those of profiles/mini.yaml")
    for key, field in fields.items():
        if key not in values and {field.default, field.default_factory} == {dataclasses.MISSING}:
            raise UserError(f"{path}: key '{key}' is missing")
        if key in values and not _has_type(values[key], field.type):
            raise UserError(f"{path}: key '{key}' is {values[key]!r}, expected {_type_name(field.type)}")
    profile = Profile(**values)
    for key, fine in _bounds(profile).items():
        if not fine:
            raise UserError(f"{path}: key '{key}' has the impossible value {getattr(profile, key)!r}")
    return profile


def _has_type(value, wanted) -> bool:
    origin = typing.get_origin(wanted)
    if origin is list:
        return isinstance(value, list) and all(_has_type(v, typing.get_args(wanted)[0]) for v in value)
    if origin is dict:
        key, item = typing.get_args(wanted)
        return isinstance(value, dict) and all(_has_type(k, key) and _has_type(v, item) for k, v in value.items())
    if wanted is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, wanted) and isinstance(value, bool) == (wanted is bool)


def _type_name(wanted) -> str:
    return str(wanted) if isinstance(wanted, types.GenericAlias) else wanted.__name__


def _bounds(p: Profile) -> dict[str, bool]:
    """For each key whether its value is possible."""

    def is_area(area: list[float]) -> bool:
        return len(area) == 2 and 0 < area[0] <= area[1] <= 1

    positive = ("storage_px", "px", "probe_views", "batch", "epochs", "local_px", "dino_hidden", "dino_bottleneck",
                "dino_prototypes", "threads", "checkpoint_every", "shards", "finetune_lr_scale", "detection_iterations",
                "detection_batch")
    return {
        **{key: getattr(p, key) > 0 for key in positive},
        "name": bool(p.name) and "/" not in p.name,
        "kind": p.kind in KINDS,
        "datasets": bool(p.datasets) and len(set(p.datasets)) == len(p.datasets),
        "sources": bool(p.sources) and set(p.sources.values()) <= set(p.datasets),
        "sizes": set(p.sizes) <= set(p.datasets)
        and all(len(size) == 2 and min(size) > 0 for size in p.sizes.values())
        and (p.kind != "microworld" or set(p.sizes) == set(p.datasets)),
        "network": p.network in NETWORKS,
        "precision": p.precision in PRECISIONS,
        "engine": p.engine in ENGINES,
        "batch": p.batch >= 2 and p.batch % 2 == 0 and p.batch % max(p.shards, 1) == 0,
        "streamed": not p.streamed or p.kind == "folders",
        "spectrum_samples": p.spectrum_samples >= 0,
        "workers": p.workers >= 0,
        "tasks": set(p.tasks) <= set(FINETUNE_TASKS) and len(set(p.tasks)) == len(p.tasks),
        "warmup_epochs": 0 <= p.warmup_epochs <= p.epochs,
        "lr_scale": set(p.lr_scale) == {"LARS", "AdamW"} and min(p.lr_scale.values(), default=0) > 0,
        "crop_area": is_area(p.crop_area),
        "global_area": is_area(p.global_area),
        "local_area": is_area(p.local_area),
        "local_crops": p.local_crops >= 0,
        "teacher_momentum": 0 < p.teacher_momentum <= 1,
        "freeze_prototypes_epochs": p.freeze_prototypes_epochs >= 0,
        "probe_lr_scale": p.probe_lr_scale > 0,
        "svm_costs": bool(p.svm_costs) and min(p.svm_costs) > 0,
    }
