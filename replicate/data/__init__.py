"""Data sets as arrays: RawSet is what a reader or the micro-world gives, ImageSet what trainings and probes read."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass
class RawSet:
    """A data set at its storage size, before any evaluation transform.

    train, val: uint8 (N, 3, S, S), RGB. train_labels, val_labels: int64 (N,), or int8 (N, C) where a set is
    multi-label: 1 present, 0 absent, -1 only difficult instances (VOC). classes: C names in label order.
    train_boxes, val_boxes: None, or float32 (n_boxes, 6), rows of image index, class, x0, y0, x1, y1 in pixels of S.
    """

    train: np.ndarray
    train_labels: np.ndarray
    val: np.ndarray
    val_labels: np.ndarray
    classes: list[str]
    multilabel: bool = False
    train_boxes: np.ndarray | None = None
    val_boxes: np.ndarray | None = None


@dataclass
class ImageSet:
    """A prepared data set, its arrays memory-mapped from runs/<profile>/data/<name>/.

    train: uint8 (N, 3, S, S), the images for pretraining. train_eval, val_eval: uint8 (N, 3, px, px), (M, 3, px, px),
    the set's evaluation transform. train_views: uint8 (V, N, 3, px, px), the probe's augmented views, or None where
    its training takes only the image and its mirror. Labels, classes and boxes as in RawSet (boxes in pixels of S).
    protocol: the manifest's probe block. fingerprint: the hash of everything that the arrays were made from.

    Of a streamed profile the images are jpeg.Streamed: sequences of such arrays, decoded when they are asked for. train
    is then the whole set by its evaluation transform, and to a training the list of its files; train_eval and
    train_views (a list of V) are of spectrum_samples training images, to which train_labels do not belong.
    """

    name: str
    train: np.ndarray | Sequence
    train_eval: np.ndarray | Sequence
    val_eval: np.ndarray | Sequence
    train_views: np.ndarray | Sequence | None
    train_labels: np.ndarray
    val_labels: np.ndarray
    classes: list[str]
    multilabel: bool
    protocol: dict
    fingerprint: str
    train_boxes: np.ndarray | None = None
    val_boxes: np.ndarray | None = None
