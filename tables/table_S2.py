"""Table S2: the settings of the probes, a data set and probe a row, as this package applies them."""

import layout

from replicate.data import manifest
from replicate.probes import knn, sgd, svm

TITLE = "Table S2: settings of the probes"
HEADER = ["data set", "probe", "optimizer (paper)", "optimizer (ours)", "weight decay (ours)", "momentum (ours)",
          "base learning rate (VISSL)", "base learning rate (ours)", "batch (ours)", "epochs (ours)",
          "schedule or search (ours)", "training images (ours)", "metric"]
SGD = "SGD, Nesterov"
TRAINED = ("imagenet", "inat18", "places205", "eurosat", "sun397", "cars", "cifar10", "cifar100", "clevr_count",
           "food101")
PAPER = dict.fromkeys(TRAINED, SGD) | {"voc07": "none: SVM"}  # all that is left of the paper's table
IMAGES = {"random_resized_crop": "random resized crop, mirror", "resize": "whole image, mirror"}


def build(profile) -> None:
    rows = []
    for dataset in profile.datasets:
        described = manifest.load(dataset)
        for probe in (described.probe["kind"], *described.probe.get("also", ())):
            paper = PAPER.get(dataset, layout.MISSING) if probe == described.probe["kind"] else layout.MISSING
            rows.append([dataset, probe, paper, *settings(probe, described.probe, profile), described.metric])
    layout.write(profile.name, "table-S2", TITLE, HEADER, rows, notes(profile), wide=True)


def settings(probe: str, protocol: dict, profile) -> list[str]:
    """The cells from our optimizer to the training images, of one probe."""
    if probe in ("linear", "mlp"):
        return [SGD, f"{sgd.WEIGHT_DECAY:g}", f"{sgd.MOMENTUM:g}", f"{sgd.BASE_LR:g}",
                f"{sgd.BASE_LR * profile.probe_lr_scale:g}", str(sgd.BATCH), str(protocol["epochs"]),
                schedule(protocol["schedule"]), IMAGES[protocol["transform"]]]
    search = {"svm": f"C of {numbers(profile.svm_costs)}; {svm.FOLDS} folds",
              "knn": f"k of {numbers(knn.NEIGHBOURS)}; T of {numbers(knn.TEMPERATURES)}"}
    name = {"svm": "linear SVM", "knn": "none"}[probe]
    return [name, *[layout.MISSING] * 6, search[probe], "whole image"]


def schedule(given: dict) -> str:
    if given["kind"] == "cosine":
        return f"cosine to {given['end_factor']:g} of it"
    return f"x {given['gamma']:g} at {numbers(given['milestones'])}"


def numbers(values) -> str:
    return ", ".join(f"{value:g}" for value in values)


def notes(profile) -> list[str]:
    views = (f"; {profile.probe_views} views of each image are cached for random crops, one drawn an epoch"
             if profile.engine == "native" else "")
    return [
        f"Columns marked (ours): what profile {profile.name} applies, from data_manifests and replicate/probes; engine "
        f"{profile.engine}{views}. Last epoch, never the best one.",
        "Of the paper's table S2 only the optimizers are left: its weight decays, momenta, learning rates and epochs "
        "were not recovered. It names VISSL's standard protocol, which is taken here, and a learning rate of its own "
        "for Stanford Cars, whose value is lost: VISSL's default stands in for it.",
        "Learning rates are for a batch of 256. The profile's factor on VISSL's is "
        f"{profile.probe_lr_scale:g}, for trainings of few steps where it is not 1. No weight decay on the batch norm.",
        f"{layout.MISSING}: the probe has no such setting, or the paper's table no such row.",
    ]


if __name__ == "__main__":
    layout.main(build, "table-S2")
