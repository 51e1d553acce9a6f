"""Average precision of PASCAL VOC 2007: 11 points, intersection over union above .5, difficult objects ignored.

Source: Everingham et al. 2010, section 4.2, and the devkit's VOCevaldet. Boxes are continuous here, x0 y0 x1 y1 with
area (x1 - x0)(y1 - y0): the devkit's whole-pixel boxes with one taken off their first corner, of the same overlaps.
"""

import numpy as np

OVERLAP = 0.5


def ap50(boxes: np.ndarray, difficult: np.ndarray, found: np.ndarray, scores: np.ndarray) -> float:
    """Mean average precision in percent over the classes that have an object which is not difficult.

    boxes (n, 6) and found (m, 6): rows of image, class, x0, y0, x1, y1. difficult: bool (n,). scores (m,): higher is
    surer; of equal scores the earlier row counts first. Raises ValueError where no object counts.
    """
    classes = np.unique(boxes[~difficult, 1])
    if not len(classes):
        raise ValueError("no object that counts: average precision is of nothing")
    precisions = []
    for one in classes:
        objects, answers = boxes[:, 1] == one, found[:, 1] == one
        outcome = match(boxes[objects], difficult[objects], found[answers], scores[answers])
        precisions.append(eleven_points(outcome, int((~difficult[objects]).sum())))
    return 100 * float(np.mean(precisions))


def match(boxes: np.ndarray, difficult: np.ndarray, found: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Detections of one class, surest first: True where one is the first on its object, else False.

    Each is compared with the object of its image that it overlaps most; if that one is difficult, the detection is
    left out of the result, neither right nor wrong.
    """
    of_image: dict[float, list[int]] = {}
    for i, image in enumerate(boxes[:, 0]):
        of_image.setdefault(image, []).append(i)
    taken, outcome = np.zeros(len(boxes), bool), []
    for row in found[np.argsort(-scores, kind="stable")]:
        here = of_image.get(row[0], [])
        overlaps = overlap(row[2:], boxes[here, 2:])
        best = here[int(overlaps.argmax())] if here else -1
        if best < 0 or overlaps.max() <= OVERLAP:
            outcome.append(False)
        elif not difficult[best]:
            outcome.append(not taken[best])
            taken[best] = True
    return np.array(outcome, bool)


def overlap(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Intersection over union of a box (4,) with boxes (n, 4)."""
    sides = np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2])
    common = sides.clip(0).prod(1)
    return common / ((box[2:] - box[:2]).prod() + (boxes[:, 2:] - boxes[:, :2]).prod(1) - common)


def eleven_points(outcome: np.ndarray, n_objects: int) -> float:
    """Mean over the recalls 0, .1, … 1 of the best precision there or at a higher recall; outcome as match gives it.

    Recalls are compared as whole numbers of objects, so that a recall of exactly .3 reaches the point .3.
    """
    right = np.cumsum(outcome)
    precision = right / np.arange(1, len(outcome) + 1)
    reached = (precision[10 * right >= point * n_objects] for point in range(11))
    return float(np.mean([at.max(initial=0.0) for at in reached]))
