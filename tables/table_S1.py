"""Table S1: the augmentations that a profile applies, beside the published ones (BYOL's, which the paper takes)."""

import layout

from replicate.data import augment

TITLE = "Table S1: augmentations"
# Grill et al. 2020 (arXiv 2006.07733), table 6: the parameter's values for the first and for the second view.
PUBLISHED = {
    "side in px": ("224", "224"), "crop probability": ("1", "1"), "crop area": ("0.08 to 1", "0.08 to 1"),
    "crop aspect ratio": ("0.75 to 1.333", "0.75 to 1.333"), "mirror probability": ("0.5", "0.5"),
    "jitter probability": ("0.8", "0.8"), "brightness, most": ("0.4", "0.4"), "contrast, most": ("0.4", "0.4"),
    "saturation, most": ("0.2", "0.2"), "hue, most": ("0.1", "0.1"), "grey probability": ("0.2", "0.2"),
    "blur probability": ("1", "0.1"), "blur taps": ("23", "23"), "blur sigma at 224 px": ("0.1 to 2", "0.1 to 2"),
    "solarize probability": ("0", "0.2"), "views an image": ("1", "1"),
}
HEADER = ["parameter", "view 1 (published)", "view 2 (published)", "view 1 (ours)", "view 2 (ours)", "differs",
          "DINO global 1 (ours)", "DINO global 2 (ours)", "DINO local (ours)"]


def build(profile) -> None:
    kinds = {"view 1": (profile.crop_area, profile.px, augment.FIRST_VIEW, 1),
             "view 2": (profile.crop_area, profile.px, augment.SECOND_VIEW, 1),
             "global 1": (profile.global_area, profile.px, augment.FIRST_VIEW, 1),
             "global 2": (profile.global_area, profile.px, augment.SECOND_VIEW, 1),
             "local": (profile.local_area, profile.local_px, augment.LOCAL_VIEW, profile.local_crops)}
    columns = {kind: applied(*values) for kind, values in kinds.items()}
    rows = []
    for name, published in PUBLISHED.items():
        ours = [columns[kind][name] for kind in kinds]
        rows.append([name, *published, *ours[:2], "yes" if tuple(ours[:2]) != published else "no", *ours[2:]])
    layout.write(profile.name, "table-S1", TITLE, HEADER, rows, notes(profile), wide=True)


def applied(area: list[float], px: int, kind: tuple[float, float], views: int) -> dict[str, str]:
    """Parameter -> value for one kind of view; marks where this profile has no such view."""
    blur, solarization = kind
    numbers = {
        "side in px": px, "crop probability": 1, "crop area": area, "crop aspect ratio": augment.CROP_RATIO,
        "mirror probability": augment.FLIP, "jitter probability": augment.JITTER,
        "brightness, most": augment.BRIGHTNESS, "contrast, most": augment.CONTRAST,
        "saturation, most": augment.SATURATION, "hue, most": augment.HUE, "grey probability": augment.GRAYSCALE,
        "blur probability": blur, "blur taps": augment.blur_taps(px), "blur sigma at 224 px": augment.BLUR_SIGMA_224,
        "solarize probability": solarization,
    }
    texts = {name: plain(value) if views else layout.MISSING for name, value in numbers.items()}
    return {**texts, "views an image": str(views)}


def plain(value) -> str:
    return " to ".join(f"{end:.4g}" for end in value) if isinstance(value, list | tuple) else f"{value:g}"


def notes(profile) -> list[str]:
    local = [] if profile.local_crops else [f"{layout.MISSING}: this profile has no local crops."]
    return [
        "Columns marked (published): BYOL's table of augmentations (Grill et al. 2020), which the paper says it takes; "
        "the numbers in the paper's own table S1 were not recovered.",
        f"Columns marked (ours): what the pipeline of profile {profile.name} applies: replicate/data/augment.py and "
        "the profile. View 1 and view 2 serve SimCLR, VICReg, VICReg-exp and VICReg-ctr. Sigma scales with the view's "
        "side.",
        "The paper's DINO takes six additional local crops; their size and all areas were not recovered.",
        *local,
    ]


if __name__ == "__main__":
    layout.main(build, "table-S1")
