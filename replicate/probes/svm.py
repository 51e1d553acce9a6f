"""The VOC07 linear SVM by VISSL's protocol (tools/train_svm.py, vissl/utils/svm_utils)."""

import warnings

import numpy as np

FOLDS = 3
# liblinear visits the images in a random order; fixed, so that a run repeats.
RANDOM_STATE = 0


def mean_average_precision(train, train_targets, val, val_targets, costs):
    """(train mAP, mAP) x 100 of one linear SVM a class.

    train: (N, K), val: (M, K) float; targets: (N, C) and (M, C) int, 1 present, 0 absent, -1 difficult objects only;
    costs: the values of C to choose from. Difficult images are negatives in training and left out in validation, as in
    VISSL. Each class's cost is the one of the highest mean average precision in a 3-fold cross-validation (the first of
    equals); then the SVM is fitted on all of train. The train mAP is this SVM's on its training images.

    A class with 2 positives gets 2 folds; one with a single positive cannot be cross-validated and takes the middle
    cost; one without positives (or negatives) in train, or without positives in val, is left out of both means: each
    with a warning. Raises ValueError for non-finite features, shapes that do not fit, or when no class is left.
    """
    train, train_targets = _checked(train, train_targets, "train")
    val, val_targets = _checked(val, val_targets, "val")
    values = []
    for k in range(train_targets.shape[1]):
        labels, judged = np.where(train_targets[:, k] == 1, 1, -1), val_targets[:, k] != -1
        positive = val_targets[judged, k] == 1
        if abs(labels.sum()) == len(labels) or not positive.any():
            warnings.warn(f"SVM: class {k} has one kind of image only in train or val; left out", stacklevel=2)
            continue
        classifier = _fit(train, labels, choose_cost(train, labels, costs, k))
        train_ap = average_precision(labels == 1, classifier.decision_function(train))
        values.append((train_ap, average_precision(positive, classifier.decision_function(val[judged]))))
    if not values:
        raise ValueError("SVM: no class has positive and negative images in train and positive ones in val")
    train_map, val_map = 100 * np.mean(values, axis=0)
    return float(train_map), float(val_map)


def choose_cost(features, labels, costs, name=""):
    """The cost of the highest mean cross-validated average precision; labels 1 and -1."""
    from sklearn.metrics import average_precision_score  # 2 s to import: only the SVM pays
    from sklearn.model_selection import StratifiedKFold

    folds = min(FOLDS, int((labels == 1).sum()), int((labels == -1).sum()))
    if folds < FOLDS:
        used = folds if folds > 1 else "none"
        warnings.warn(f"SVM: class {name} is too rare for {FOLDS} folds; {used} used", stacklevel=3)
    if folds < 2 or len(costs) == 1:
        return costs[len(costs) // 2]
    scores = np.zeros(len(costs))
    for fit, held_out in StratifiedKFold(folds).split(features, labels):
        for i, cost in enumerate(costs):
            margin = _fit(features[fit], labels[fit], cost).decision_function(features[held_out])
            scores[i] += average_precision_score(labels[held_out], margin)
    return costs[int(scores.argmax())]


def average_precision(positive, scores):
    """Area under the envelope of precision over recall, every point (VISSL's evaluate.py, VOC's measure since 2010).

    positive: (M,) bool with at least one True; scores: (M,) float. Images of equal score enter together, so that the
    value does not depend on their order (VISSL takes them one by one in an unspecified order).
    """
    order = np.argsort(-scores, kind="stable")
    scores, hits = scores[order], np.cumsum(positive[order])
    last_of_equals = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)
    hits = hits[last_of_equals]
    precision, recall = hits / (last_of_equals + 1), hits / hits[-1]
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(recall, prepend=0.0) * envelope))


def _fit(features, labels, cost):
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.svm import LinearSVC

    classifier = LinearSVC(
        C=cost, class_weight={1: 2, -1: 1}, intercept_scaling=1.0, penalty="l2", loss="squared_hinge", tol=1e-4,
        dual=True, max_iter=2000, random_state=RANDOM_STATE,
    )
    with warnings.catch_warnings():  # large costs reach max_iter, in VISSL as here
        warnings.simplefilter("ignore", ConvergenceWarning)
        return classifier.fit(features, labels)


def _checked(features, targets, name):
    features, targets = np.asarray(features, dtype=np.float64), np.asarray(targets)
    if features.ndim != 2 or 0 in features.shape or targets.ndim != 2 or len(targets) != len(features):
        raise ValueError(f"SVM: {name} features of shape {features.shape} do not fit targets of shape {targets.shape}")
    if not np.isfinite(features).all():
        raise ValueError(f"SVM: the {name} features hold NaN or infinity")
    if not np.isin(targets, (-1, 0, 1)).all():
        raise ValueError(f"SVM: the {name} targets hold other values than 1 (present), 0 (absent), -1 (difficult)")
    return features / (np.linalg.norm(features, axis=1, keepdims=True) + 1e-5), targets
