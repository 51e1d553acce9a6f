"""Drawing primitives of the micro-world: outlines, textures, palettes and backgrounds for a batch of images at once.

Arrays: n images, px pixels a side; coordinates run from -1 to 1 over the image, y downwards. A field is (n, px, px), an
alpha is a field in [0, 1], a canvas is (n, 3, px, px) in [0, 1]. Everything is float64, so that the last bit in which
two machines' sin and exp may differ is lost when the canvas is rounded to uint8.
"""

from dataclasses import dataclass

import numpy as np

TAU = 2 * np.pi
ANGLES = 720  # entries of a polar table: half a degree, well under a pixel at 32 px


@dataclass
class Pose:
    """Where n objects stand, each (n,): centre and radius in image coordinates, rotation in radians, width / height."""

    x: np.ndarray
    y: np.ndarray
    radius: np.ndarray
    angle: np.ndarray
    aspect: np.ndarray


def poses(rng, n, shift=0.2, radius=(0.65, 0.9), turn=0.3, aspect=0.1):
    """Random poses: centre within ±shift, radius uniform, rotation within ±turn radians, aspect 1 ± aspect."""
    return Pose(
        x=rng.uniform(-shift, shift, n),
        y=rng.uniform(-shift, shift, n),
        radius=rng.uniform(*radius, n),
        angle=rng.uniform(-turn, turn, n),
        aspect=rng.uniform(1 - aspect, 1 + aspect, n),
    )


def grid(px):
    """Pixel centres: x (1, 1, px) and y (1, px, 1)."""
    centres = (np.arange(px) + 0.5) * 2 / px - 1
    return centres[None, None, :], centres[None, :, None]


def local(pose, px):
    """Coordinates u, v (n, px, px) in which the object has radius 1 and stands upright."""
    x, y = grid(px)
    dx, dy = x - column(pose.x), y - column(pose.y)
    cos, sin = column(np.cos(pose.angle) / pose.radius), column(np.sin(pose.angle) / pose.radius)
    return (cos * dx + sin * dy) / column(pose.aspect), cos * dy - sin * dx


def column(values):
    """(n,) as (n, 1, 1), to meet fields."""
    return np.asarray(values, float)[:, None, None]


def edge(distance, softness):
    """Alpha of a shape from a signed distance (positive inside): half at the border, a ramp about a pixel wide."""
    return np.clip(distance * softness + 0.5, 0, 1)


# --- outlines: star-shaped, so a table of radii over angles holds each; all are mirror images of themselves ---

def polygon_radii(theta, sides):
    sector = TAU / sides
    return np.cos(sector / 2) / np.cos((theta + np.pi / 2) % sector - sector / 2)


def star_radii(theta, points, inner):
    phase = ((theta + np.pi / 2) * points / TAU) % 1
    return inner + (1 - inner) * np.abs(2 * phase - 1)


def cross_radii(theta, half_width):
    c, s = np.abs(np.cos(theta)) + 1e-9, np.abs(np.sin(theta)) + 1e-9
    return np.maximum(np.minimum(1 / c, half_width / s), np.minimum(half_width / c, 1 / s))


def outline_table():
    theta = (np.arange(ANGLES) + 0.5) * TAU / ANGLES
    c, s = np.cos(theta), np.sin(theta)
    radii = {
        "disc": np.ones(ANGLES),
        "triangle": polygon_radii(theta, 3),
        "square": 1 / np.maximum(np.abs(c), np.abs(s)),
        "star": star_radii(theta, 5, 0.36),
        "cross": cross_radii(theta, 0.32),
        "bar": 1 / np.sqrt(c**2 + (2.6 * s) ** 2),
        "hourglass": np.minimum(1 / np.maximum(np.abs(s), 1e-9), 0.22 + np.abs(s) ** 1.5),
        "drop": 0.62 - 0.38 * s * np.abs(s) ** 3,
        "flower": 0.68 + 0.32 * np.cos(6 * theta),
        "arrow": np.where(s < 0.25, polygon_radii(theta, 3), 0.3 + 0.5 * (s > 0.9)),
        "pillar": 1 / np.maximum(2.4 * np.abs(c), np.abs(s)),
        "gem": 1 / (np.abs(c) * 1.3 + np.abs(s)),
    }
    # Equal areas: an outline is not to be told from the number of object pixels.
    return {name: 0.78 * r / np.sqrt(np.mean(r**2)) for name, r in radii.items()}


OUTLINES = list(outline_table())
RADII = np.stack(list(outline_table().values()))


def outline_alpha(outlines, pose, px, u=None, v=None):
    """Alpha of the outlines named by index into OUTLINES (n,) at their poses."""
    if u is None:
        u, v = local(pose, px)
    angle = (np.arctan2(v, u) * (ANGLES / TAU)).astype(np.int64) % ANGLES
    radii = RADII[np.asarray(outlines)[:, None, None], angle]
    return edge(radii - np.hypot(u, v), column(pose.radius * px / 2))


def box_alpha(u, v, x0, y0, x1, y1, softness):
    """Alpha of the upright rectangle x0..x1, y0..y1 (numbers or (n, 1, 1)) in coordinates u, v."""
    return edge(np.minimum(np.minimum(u - x0, x1 - u), np.minimum(v - y0, y1 - v)), softness)


# --- textures: fields in [0, 1] that mix a dark and a light tone; a mirror shifts them at most by half a period ---

def contrast(wave):
    return np.clip(1.5 * wave + 0.5, 0, 1)


TEXTURES = {
    "plain": lambda u, v, f: 0.85 - 0.25 * np.clip(np.hypot(u, v), 0, 1),
    "stripes": lambda u, v, f: contrast(np.sin(f * v)),
    "checks": lambda u, v, f: contrast(2 * np.sin(f * u / 1.2) * np.sin(f * v / 1.2)),
    "dots": lambda u, v, f: contrast(1.6 * (np.cos(f * u) + np.cos(f * v) - 0.7)),
    "rings": lambda u, v, f: contrast(np.cos(f * np.hypot(u, v))),
    "zigzag": lambda u, v, f: contrast(np.sin(f * v + 2.2 * np.arcsin(np.sin(f * u / 2)))),
    "spokes": lambda u, v, f: contrast(np.cos(8 * np.arctan2(v, u))),
    "bars": lambda u, v, f: contrast(np.sin(f * u)),
}
TEXTURE_NAMES = list(TEXTURES)


def texture_field(textures, u, v, frequency):
    """The textures named by index into TEXTURE_NAMES (n,) at coordinates u, v; frequency (n,) in radians a unit."""
    field = np.empty(np.broadcast_shapes(u.shape, v.shape))
    for texture in np.unique(textures):
        chosen = np.flatnonzero(textures == texture)
        draw = TEXTURES[TEXTURE_NAMES[texture]]
        field[chosen] = draw(u[chosen], v[chosen], column(frequency[chosen]))
    return field


# --- colour ---

def hsv(hue, saturation, value):
    """RGB (n, 3) of hue (in turns, wrapped), saturation and value, each broadcast to (n,)."""
    hue, saturation, value = np.broadcast_arrays(hue, saturation, value)
    wheel = np.abs((hue[:, None] * 6 + np.array([0.0, 4.0, 2.0])) % 6 - 3) - 1
    return value[:, None] * (1 - saturation[:, None] * (1 - np.clip(wheel, 0, 1)))


def two_tones(rng, hue, gap=0.55):
    """A dark and a light tone (n, 3) of about each hue (n,), the dark one darker by gap in value."""
    n = len(hue)
    light = hsv(hue, rng.uniform(0.15, 0.5, n), rng.uniform(0.85, 1.0, n))
    dark = hsv(hue + rng.normal(0, 0.04, n), rng.uniform(0.25, 0.6, n), rng.uniform(0.85, 1.0, n) - gap)
    return dark, light


def mix(field, dark, light):
    """Canvas of two colours (n, 3) mixed by a field: 0 gives dark, 1 light."""
    return dark[:, :, None, None] + field[:, None] * (light - dark)[:, :, None, None]


def over(canvas, alpha, paint):
    """Lay paint, a canvas or a colour (n, 3), over the canvas where alpha is 1."""
    if paint.ndim == 2:
        paint = paint[:, :, None, None]
    return canvas + alpha[:, None] * (paint - canvas)


def stretch(coarse, px):
    """Fields (..., k, k) enlarged bilinearly to (..., px, px), corners on corners."""
    k = coarse.shape[-1]
    position = np.linspace(0, k - 1, px)
    weights = np.clip(1 - np.abs(position[:, None] - np.arange(k)), 0, 1)
    return weights @ coarse @ weights.T


# --- pictures ---

def soft_background(rng, n, px, saturation=0.35, value=(0.25, 0.6), relief=0.07):
    """Canvas of one muted colour an image with a slow gradient."""
    base = hsv(rng.uniform(0, 1, n), rng.uniform(0, saturation, n), rng.uniform(*value, n))
    return np.clip(base[:, :, None, None] + stretch(rng.normal(0, relief, (n, 3, 3, 3)), px), 0, 1)


def speckle(rng, n, px, grain):
    """Field of smooth noise in [0, 1] with about `grain` patches a side."""
    return np.clip(0.5 + 0.45 * stretch(rng.normal(0, 1, (n, grain, grain)), px), 0, 1)


def frequency(rng, n, low=7.5, high=11.0):
    """Texture frequencies in radians an object radius; the default gives periods of 7 to 11 px at 32 px, radius .8."""
    return rng.uniform(low, high, n)


def draw_object(rng, canvas, outlines, textures, pose, hue, frequencies, gap=0.55):
    """Lay one object an image, its texture shifted at random, over the canvas; returns the canvas and its alpha."""
    px = canvas.shape[-1]
    u, v = local(pose, px)
    alpha = outline_alpha(outlines, pose, px, u, v)
    dark, light = two_tones(rng, hue, gap)
    shift_u, shift_v = rng.uniform(-0.35, 0.35, (2, len(pose.x)))  # a period, so that no pixel stands for a class
    paint = mix(texture_field(textures, u + column(shift_u), v + column(shift_v), frequencies), dark, light)
    return over(canvas, alpha, paint), alpha


def boxes(image, classes, alphas):
    """Rows [image, class, x0, y0, x1, y1] in pixels around what each alpha (b, px, px) covers; float32 (b, 6)."""
    px = alphas.shape[-1]
    sides = []
    for axis in (1, 2):  # columns give x, rows give y
        covered = alphas.max(axis) > 0.5
        sides.append((covered.argmax(1), px - covered[:, ::-1].argmax(1)))
    (x0, x1), (y0, y1) = sides
    return np.stack([image, classes, x0, y0, x1, y1], axis=1).astype(np.float32)


def to_uint8(rng, canvas, noise=0.02):
    """Round a canvas to uint8 (n, 3, px, px) after a little pixel noise (standard deviation in [0, 1] units)."""
    return np.rint(np.clip(canvas + rng.normal(0, noise, canvas.shape), 0, 1) * 255).astype(np.uint8)
