"""The micro-world: eleven synthetic data sets at 32 px that play the roles of the paper's eleven, made from a seed.

imagenet     24 classes, one object before a soft background: 6 outlines x 4 textures, a loose colour prior a class
inat18       48 species on foliage, 6 bodies x 4 patterns x ears or none; long tail in training, balanced validation
places205    16 scenes, told by layout (coast, ridge, skyline, trunks) and ground texture, with a distracting object
sun397       20 scenes, 5 other layouts (corridor, room, arcade, alley, rows) x 4 wall textures
eurosat      10 kinds of land seen from above, in any rotation
cars         16 models of one category: 4 roofs x 2 wheel sizes x 2 trims, in any colour
cifar10      10 objects and cifar100 25 objects (5 outlines x 5 textures), drawn at half the resolution and enlarged
food101      20 dishes: 5 palettes x 4 textures on a plate
voc07        1 to 4 objects of 6 classes an image, multi-label 1 / 0 / -1 (tiny or mostly hidden: difficult), with boxes
clevr_count  3 to 10 small objects that never touch; the class is their number

The sets share outlines, textures and palettes, so that features may transfer; their distributions differ. No class
changes in a mirror. Designed for learnability only, by the probe accuracy of SimCLR runs, and frozen on a development
seed; nothing else about a run was looked at.
"""

import hashlib
from dataclasses import dataclass
from typing import Callable

import numpy as np

from replicate.data import RawSet
from replicate.data import shapes
from replicate.data.shapes import OUTLINES, TAU, TEXTURE_NAMES, column, draw_object, frequency, over
from replicate.errors import UserError

CHUNK = 250  # images drawn at once: the fields of a chunk stay in cache; part of what a seed means, so fixed

SOURCE_OUTLINES = ["disc", "triangle", "square", "star", "cross", "bar"]
SOURCE_TEXTURES = ["plain", "stripes", "checks", "rings"]
SPECIES_OUTLINES = ["disc", "drop", "star", "flower", "hourglass", "gem"]
SPECIES_TEXTURES = ["plain", "stripes", "dots", "rings"]
LOWRES_PAIRS = [("disc", "stripes"), ("star", "plain"), ("cross", "checks"), ("bar", "plain"), ("hourglass", "stripes"),
                ("flower", "rings"), ("arrow", "plain"), ("gem", "checks"), ("triangle", "rings"), ("pillar", "bars")]
LOWRES_OUTLINES = ["square", "triangle", "cross", "flower", "arrow"]
LOWRES_TEXTURES = ["plain", "stripes", "checks", "rings", "bars"]
PLACES = ["coast", "ridge", "skyline", "trunks"]
INTERIORS = ["corridor", "room", "arcade", "alley", "rows"]
SCENE_TEXTURES = ["plain", "stripes", "checks", "dots"]
LANDS = ["forest", "crops", "pasture", "highway", "river", "residential", "industrial", "lake", "orchard", "patchwork"]
ROOFS = ["saloon", "hatchback", "van", "pickup"]
PALETTES = {"berry": (0.95, 0.75), "leaf": (0.3, 0.15), "citrus": (0.12, 0.03), "sea": (0.55, 0.1),
            "earth": (0.06, 0.35)}  # hues of the dark and the light tone
FOOD_TEXTURES = ["dots", "checks", "rings", "spokes"]
VOC_CLASSES = [("square", "stripes"), ("disc", "checks"), ("triangle", "plain"), ("star", "plain"), ("cross", "rings"),
               ("bar", "dots")]
COUNTS = range(3, 11)


def product(*parts):
    """Class names: every combination of the parts, the last one fastest."""
    names = [""]
    for part in parts:
        names = [f"{name} {word}".strip() for name in names for word in part]
    return names


def indices(names, of):
    return np.array([of.index(name) for name in names])


# --- objects ---

def source_objects(labels, rng, px):
    """imagenet: canvas (n, 3, px, px) of labels (n,)."""
    n = len(labels)
    outlines = indices(SOURCE_OUTLINES, OUTLINES)[labels // 4]
    textures = indices(SOURCE_TEXTURES, TEXTURE_NAMES)[labels % 4]
    hue = labels * 0.381966 + rng.normal(0, 0.1, n)  # golden-ratio steps spread the priors over the wheel
    # A quiet background: what tells two images apart should be their objects.
    canvas = shapes.soft_background(rng, n, px, saturation=0.2, relief=0.04)
    return draw_object(rng, canvas, outlines, textures, shapes.poses(rng, n), hue, frequency(rng, n))[0]


def species(labels, rng, px):
    """inat18: label = (outline, pattern, ears)."""
    n = len(labels)
    outlines = indices(SPECIES_OUTLINES, OUTLINES)[labels // 8]
    textures = indices(SPECIES_TEXTURES, TEXTURE_NAMES)[labels // 2 % 4]
    hue = labels // 8 / 6 + rng.normal(0, 0.12, n)  # a prior a genus, as loose as the source's
    leaves = shapes.speckle(rng, n, px, 7)
    green = rng.uniform(0.22, 0.38, n)
    canvas = shapes.mix(leaves, shapes.hsv(green, 0.4, 0.28), shapes.hsv(green, 0.35, 0.42))
    pose = shapes.poses(rng, n, shift=0.15, radius=(0.65, 0.85))
    u, v = shapes.local(pose, px)
    distance = 0.3 - np.hypot(np.abs(u) - 0.6, v + 0.7)
    ears = shapes.edge(distance, column(pose.radius * px / 2)) * column(labels % 2)
    canvas = over(canvas, ears, shapes.hsv(hue, 0.3, 0.95))
    return draw_object(rng, canvas, outlines, textures, pose, hue, frequency(rng, n))[0]


def low_resolution(outlines, textures, rng, px):
    """cifar10 and cifar100: objects drawn at half the resolution with coarser textures, then enlarged."""
    n, small = len(outlines), max(8, px // 2)
    canvas = shapes.soft_background(rng, n, small, saturation=0.6, relief=0.1)
    pose = shapes.poses(rng, n, radius=(0.6, 0.85))
    canvas, _ = draw_object(rng, canvas, outlines, textures, pose, rng.uniform(0, 1, n), frequency(rng, n, 6.5, 8.5))
    return shapes.stretch(canvas, px)


def low_resolution_pairs(labels, rng, px):
    outlines, textures = (indices(names, of) for names, of in zip(zip(*LOWRES_PAIRS), (OUTLINES, TEXTURE_NAMES)))
    return low_resolution(outlines[labels], textures[labels], rng, px)


def low_resolution_products(labels, rng, px):
    outlines, textures = indices(LOWRES_OUTLINES, OUTLINES), indices(LOWRES_TEXTURES, TEXTURE_NAMES)
    return low_resolution(outlines[labels // 5], textures[labels % 5], rng, px)


def dishes(labels, rng, px):
    """food101: label = (palette, texture); the food fills most of a pale plate."""
    n = len(labels)
    palette = np.array(list(PALETTES.values()))[labels // 4] + rng.normal(0, 0.03, (n, 2))
    canvas = shapes.soft_background(rng, n, px, saturation=0.5)
    pose = shapes.poses(rng, n, shift=0.15, radius=(1.0, 1.3), turn=np.pi)
    u, v = shapes.local(pose, px)
    softness = column(pose.radius * px / 2)
    canvas = over(canvas, shapes.edge(0.78 - np.hypot(u, v), softness), shapes.hsv(0.1, 0.05, rng.uniform(0.8, 1, n)))
    field = shapes.texture_field(indices(FOOD_TEXTURES, TEXTURE_NAMES)[labels % 4], u, v, frequency(rng, n, 15, 21))
    field = np.clip(field + 0.3 * (shapes.speckle(rng, n, px, 9) - 0.5), 0, 1)
    tones = [shapes.hsv(hue, rng.uniform(0.6, 0.9, n), value) for hue, value in zip(palette.T, (0.5, 0.9))]
    return over(canvas, shapes.edge(0.62 - np.hypot(u, v), softness), shapes.mix(field, *tones))


def cars(labels, rng, px):
    """cars: label = (roof, wheels, trim); colour, background and the way it faces are free."""
    n = len(labels)
    roof, large, striped = labels // 4, labels // 2 % 2, labels % 2
    pose = shapes.poses(rng, n, shift=0.12, radius=(0.75, 0.92), turn=0.08, aspect=0.08)
    u, v = shapes.local(pose, px)
    u, softness = u * column(rng.choice([-1, 1], n)), column(pose.radius * px / 2)
    _, y = shapes.grid(px)
    road = shapes.edge(y - column(pose.y + 0.25 * pose.radius), px / 2)
    canvas = shapes.soft_background(rng, n, px, value=(0.4, 0.85))
    canvas = over(canvas, road, shapes.hsv(rng.uniform(0, 1, n), 0.1, rng.uniform(0.3, 0.5, n)))
    rear, front, rake, top = (column(np.array(part)[roof]) for part in (
        (-0.55, -0.9, -0.95, 0.0), (0.45, 0.35, 0.75, 0.6), (0.5, 0.25, 0.05, 0.2), (-0.5, -0.5, -0.8, -0.6)))
    slope = rake * (v + 0.05)  # zero at the waist; negative above it, where it narrows the cabin
    cabin = np.minimum(np.minimum(u - rear + slope, front - u + slope), np.minimum(v - top, 0.05 - v))
    body = shapes.box_alpha(u, v, -0.97, -0.08, 0.97, 0.4, softness)
    dark, light = shapes.two_tones(rng, rng.uniform(0, 1, n), gap=0.6)
    canvas = over(over(canvas, shapes.edge(cabin, softness), light), body, light)
    canvas = over(canvas, shapes.edge(np.minimum(cabin - 0.1, -0.1 - v), softness), dark * 0.6)
    band = shapes.box_alpha(u, v, -0.97, 0.02, 0.97, 0.26, softness) * (np.sin(13 * u) > 0) * column(striped)
    canvas = over(canvas, band, dark)
    wheels = column(0.16 + 0.14 * large) - np.hypot(np.abs(u) - 0.58, v - 0.4)
    canvas = over(canvas, shapes.edge(wheels, softness), shapes.hsv(0, 0, rng.uniform(0.05, 0.15, n)))
    return over(canvas, shapes.edge(wheels - 0.11, softness), shapes.hsv(0, 0, rng.uniform(0.7, 0.9, n)))


# --- scenes ---

def scene_tones(rng, n, gap=0.35):
    return shapes.two_tones(rng, rng.uniform(0, 1, n), gap)


def distract(rng, canvas):
    """A small object of any outline, texture and colour, which says nothing about the scene."""
    n = len(canvas)
    pose = shapes.poses(rng, n, shift=0.7, radius=(0.15, 0.28))
    outlines, textures = rng.integers(0, len(OUTLINES), n), rng.integers(0, len(TEXTURE_NAMES), n)
    return draw_object(rng, canvas, outlines, textures, pose, rng.uniform(0, 1, n), frequency(rng, n, 6, 9))[0]


def places(labels, rng, px):
    """places205: label = (what stands on the horizon, texture of the ground in perspective)."""
    n = len(labels)
    layout, textures = labels // 4, indices(SCENE_TEXTURES, TEXTURE_NAMES)[labels % 4]
    x, y = shapes.grid(px)
    horizon = column(rng.uniform(-0.1, 0.2, n))
    sky = shapes.hsv(rng.normal(0.58, 0.08, n), rng.uniform(0.1, 0.5, n), rng.uniform(0.7, 1.0, n))
    canvas = sky[:, :, None, None] * (1 + 0.15 * y)[:, None].clip(0.8, 1.1) + np.zeros((1, 1, 1, px))
    standing = np.select([column(layout) == k for k in range(4)], [
        0.22 - np.hypot(x - column(rng.uniform(-0.6, 0.6, n)), y + column(rng.uniform(0.5, 0.7, n))),
        y - horizon + 0.7 * np.abs(np.sin(column(rng.uniform(2, 3, n)) * x + column(rng.uniform(0, TAU, n)))),
        y - horizon + rng.uniform(0.15, 0.9, (n, 7))[:, None, ((x + 1) * 3.5).astype(int).ravel()],
        np.sin(column(rng.uniform(9, 12, n)) * x + column(rng.uniform(0, TAU, n))) * 0.15 - 0.05 + 0 * y])
    dark, light = scene_tones(rng, n)
    canvas = over(canvas, shapes.edge(standing, px / 2), dark)
    depth = 1 / np.maximum(y - horizon + 0.35, 0.35)
    field = shapes.texture_field(textures, x * depth, depth + column(rng.uniform(0, 1, n)), frequency(rng, n, 9, 12))
    ground = shapes.mix(field, *scene_tones(rng, n))
    return distract(rng, over(canvas, shapes.edge(y - horizon, px / 2), ground))


def interiors(labels, rng, px):
    """sun397: label = (layout, texture of the walls)."""
    n = len(labels)
    layout, textures = labels // 4, indices(SCENE_TEXTURES, TEXTURE_NAMES)[labels % 4]
    x, y = shapes.grid(px)
    x = x - column(rng.uniform(-0.25, 0.25, n))
    y = y - column(rng.uniform(-0.2, 0.2, n))
    far = np.maximum(np.abs(x), np.abs(y))
    u = np.broadcast_to(x, far.shape)
    v = np.broadcast_to(y, far.shape)
    arch = (u * 1.5 + 0.5) % 1 - 0.5
    opening = np.select([column(layout) == k for k in range(5)], [
        0.3 - far,
        np.minimum(v - 0.3, 0 * u + 1),
        0.3 - np.where(v < 0, np.hypot(arch, v / 1.5), np.abs(arch)),
        0.15 + 0.45 * (0.6 - v) - np.abs(u),
        v + 0.35])
    dark, light = scene_tones(rng, n)
    field = shapes.texture_field(textures, u, v, frequency(rng, n, 12, 17))
    canvas = shapes.mix(field, dark, light)
    beyond = shapes.hsv(rng.uniform(0, 1, n), rng.uniform(0.1, 0.5, n), rng.choice([0.2, 0.9], n))
    canvas = over(canvas, shapes.edge(opening, px / 2), beyond)
    # What makes the layout more than an opening: a corridor's edges, the furniture of a room, the rows of a field.
    lines = np.select([column(layout) == k for k in (0, 1, 4)], [
        np.minimum(0.06 - np.abs(np.abs(u) - np.abs(v)), far - 0.3),
        np.minimum(0.4 - np.abs(u - 0.1), np.minimum(v + 0.1, 0.5 - v)),
        np.minimum(np.sin(9 * u / (v + 0.8).clip(0.2)) * 0.12, v + 0.35)], -1.0)
    return distract(rng, over(canvas, shapes.edge(lines, px / 2), dark * 0.5))


# --- land from above ---

def land(labels, rng, px):
    """eurosat: each kind is a field in a random rotation, mixed from two earthy tones."""
    n = len(labels)
    pose = shapes.poses(rng, n, shift=0.6, radius=(0.85, 1.2), turn=np.pi, aspect=0.1)
    u, v = shapes.local(pose, px)
    f = column(frequency(rng, n, 9, 17))
    bend = 0.35 * np.sin(column(rng.uniform(2.5, 4, n)) * u)
    patches = shapes.texture_field(np.full(n, TEXTURE_NAMES.index("checks")), u, v, frequency(rng, n, 3.5, 4.5))
    rough, smooth = shapes.speckle(rng, n, px, 15), shapes.speckle(rng, n, px, 4)
    contrast = shapes.contrast
    field = np.select([column(labels) == k for k in range(10)], [
        rough,
        contrast(np.sin(f * v)),
        0.35 + 0.4 * smooth,
        np.maximum(0.5 * smooth, shapes.edge(0.09 - np.abs(v), px / 2)),
        np.maximum(0.5 * smooth, shapes.edge(0.22 - np.abs(v - bend), px / 2)),
        contrast(np.minimum(np.sin(f * u), np.sin(f * v)) + 0.3) * (np.sin(f * v / 3) > -0.7),
        contrast(np.minimum(np.sin(f * u / 2.3), np.sin(f * v / 2.3))) * (0.6 + 0.4 * smooth),
        0.1 + 0.1 * contrast(np.sin(1.2 * f * v)) + 0 * u,
        contrast(1.6 * (np.cos(f * u) + np.cos(f * v) - 0.7)) * 0.8,
        0.8 * patches + 0.2 * contrast(np.sin(f * (u + v)))])
    hue = rng.normal(0.25, 0.12, n)
    dark = shapes.hsv(hue, 0.5, rng.uniform(0.2, 0.45, n))
    light = shapes.hsv(hue + rng.normal(0, 0.1, n), 0.35, rng.uniform(0.6, 0.9, n))
    return np.clip(shapes.mix(field, dark, light) + shapes.stretch(rng.normal(0, 0.08, (n, 3, 5, 5)), px), 0, 1)


# --- several objects ---

def several(first, rng, px):
    """voc07: 1 to 4 objects of distinct classes an image, the class `first` (n,) among them.

    Returns canvas, targets int8 (n, 6) and boxes float32 (b, 6). An object is difficult (-1) when it is tiny or when
    later ones hide more than 60 % of it. One object a class and image, so a target says whether its box is difficult.
    """
    n, slots = len(first), 4
    classes = (first[:, None] + np.argsort(rng.random((n, 5)), axis=1)[:, :slots - 1] + 1) % 6
    classes = np.take_along_axis(np.column_stack([first, classes]), np.argsort(rng.random((n, slots)), axis=1), axis=1)
    # The first class is always drawn; of the other three each with its own chance, so that 1 to 4 appear.
    present = (rng.random((n, slots)) < 0.4) | (classes == first[:, None])
    outlines, textures = (indices(names, of) for names, of in zip(zip(*VOC_CLASSES), (OUTLINES, TEXTURE_NAMES)))
    canvas = shapes.soft_background(rng, n, px)
    tiny = rng.random((n, slots)) < 0.12
    corner = np.argsort(rng.random((n, slots)), axis=1)  # objects start from the four quarters, so few hide each other
    extent, visible = np.zeros((2, n, slots, px, px))
    for slot in range(slots):
        pose = shapes.poses(rng, n, shift=0.3, radius=(0.38, 0.6))
        pose.x += (corner[:, slot] % 2 - 0.5) * 0.8
        pose.y += (corner[:, slot] // 2 - 0.5) * 0.8
        pose.radius = np.where(tiny[:, slot], 0.35, 1) * pose.radius
        kind, shown = classes[:, slot], present[:, slot, None, None]
        drawn, alpha = draw_object(rng, canvas, outlines[kind], textures[kind], pose, rng.uniform(0, 1, n),
                                   frequency(rng, n, 6, 9))
        canvas = np.where(shown[:, None], drawn, canvas)
        extent[:, slot] = visible[:, slot] = alpha * shown
        visible[:, :slot] *= 1 - extent[:, slot, None]
    difficult = tiny | (visible.sum((2, 3)) < 0.4 * extent.sum((2, 3)))
    targets = np.zeros((n, 6), np.int8)
    image, slot = np.nonzero(present)
    targets[image, classes[image, slot]] = np.where(difficult[image, slot], -1, 1)
    return canvas, targets, shapes.boxes(image, classes[image, slot], extent[image, slot])


def counted(labels, rng, px):
    """clevr_count: label + 3 objects in distinct cells of a 4 x 4 board; returns the canvas and the objects' alpha."""
    n = len(labels)
    cells = np.argsort(rng.random((n, 16)), axis=1)
    canvas = shapes.soft_background(rng, n, px, saturation=0.2, relief=0.05)
    kinds = indices(["disc", "square"], OUTLINES)
    union = np.zeros((n, px, px))
    for slot in range(max(COUNTS)):
        pose = shapes.poses(rng, n, shift=0.03, radius=(0.14, 0.19), turn=np.pi, aspect=0.0)
        pose.x += (cells[:, slot] % 4 - 1.5) / 2
        pose.y += (cells[:, slot] // 4 - 1.5) / 2
        alpha = shapes.outline_alpha(kinds[rng.integers(0, 2, n)], pose, px) * column(slot < labels + min(COUNTS))
        canvas = over(canvas, alpha, shapes.two_tones(rng, rng.uniform(0, 1, n))[1])
        union = np.maximum(union, alpha)
    return canvas, union


# --- data sets ---

@dataclass(frozen=True)
class World:
    """One set: its class names and what paints a chunk, paint(labels (n,), rng, px) -> canvas (n, 3, px, px)."""

    classes: list
    paint: Callable
    long_tail: bool = False


WORLDS = {
    "imagenet": World(product(SOURCE_OUTLINES, SOURCE_TEXTURES), source_objects),
    "inat18": World(product(SPECIES_OUTLINES, SPECIES_TEXTURES, ["earless", "eared"]), species, long_tail=True),
    "places205": World(product(PLACES, SCENE_TEXTURES), places),
    "eurosat": World(LANDS, land),
    "sun397": World(product(INTERIORS, SCENE_TEXTURES), interiors),
    "cars": World(product(ROOFS, ["small wheels", "large wheels"], ["painted", "banded"]), cars),
    "cifar10": World([" ".join(pair) for pair in LOWRES_PAIRS], low_resolution_pairs),
    "cifar100": World(product(LOWRES_OUTLINES, LOWRES_TEXTURES), low_resolution_products),
    "food101": World(product(PALETTES, FOOD_TEXTURES), dishes),
    "voc07": World([" ".join(pair) for pair in VOC_CLASSES], several),
    "clevr_count": World([str(count) for count in COUNTS], lambda labels, rng, px: counted(labels, rng, px)[0]),
}


def make(name, n_train, n_val, seed, px=32):
    """The micro-world's set `name`, the same images for the same arguments whatever was made before.

    Training and validation are drawn independently. Labels are balanced to within one image a class, but for inat18's
    training split (frequency falls as 1 / rank) and for voc07, whose int8 targets (n, 6) are 1 present, 0 absent, -1
    difficult only; its boxes include the difficult objects. Raises UserError for an unknown name.
    """
    if name not in WORLDS:
        raise UserError(f"micro-world: no data set {name!r}; choose one of {', '.join(WORLDS)}")
    train, train_labels, train_boxes = split(name, "train", n_train, seed, px)
    val, val_labels, val_boxes = split(name, "val", n_val, seed, px)
    return RawSet(train=train, train_labels=train_labels, val=val, val_labels=val_labels,
                  classes=list(WORLDS[name].classes), multilabel=name == "voc07",
                  train_boxes=train_boxes, val_boxes=val_boxes)


def split(name, part, n, seed, px):
    """Images uint8 (n, 3, px, px), labels and boxes (None but for voc07) of one part, `train` or `val`."""
    world = WORLDS[name]
    digest = hashlib.sha256(f"{seed}/{name}/{part}".encode()).digest()
    rng = np.random.default_rng(int.from_bytes(digest[:8], "little"))
    drawn = long_tailed if world.long_tail and part == "train" else balanced
    labels = drawn(rng, n, len(world.classes))
    images, targets, found = np.empty((n, 3, px, px), np.uint8), [], []
    for start in range(0, n, CHUNK):
        painted = world.paint(labels[start:start + CHUNK], rng, px)
        if name == "voc07":
            painted, target, rows = painted
            targets.append(target)
            found.append(rows + np.float32([start, 0, 0, 0, 0, 0]))
        images[start:start + CHUNK] = shapes.to_uint8(rng, painted)
    if name == "voc07":
        return images, np.concatenate(targets), np.concatenate(found)
    return images, labels, None


def balanced(rng, n, classes):
    """Labels int64 (n,) in random order, each class n / classes times, give or take one."""
    return rng.permutation(np.arange(n) % classes)


def long_tailed(rng, n, classes):
    """Labels int64 (n,), frequency falling as 1 / rank, at least one a class if n allows, classes in random order."""
    weights = 1 / np.arange(1, classes + 1)
    ideal = max(n - classes, 0) * weights / weights.sum() + 1
    edges = np.rint(np.cumsum(ideal) * n / ideal.sum()).astype(int)
    labels = np.searchsorted(edges, np.arange(n), side="right")
    return rng.permutation(rng.permutation(classes)[labels])
