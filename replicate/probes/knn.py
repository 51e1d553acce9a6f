"""The weighted k-NN classifier, all 36 combinations of neighbours and temperature from one pass."""

import warnings

import numpy as np

# 6 x 6 = the paper's 36 combinations, which it does not list; these hold every value found in the literature
# (Wu et al. 2018: k 200, T .07 and .1; SwAV: k 20 and 200; DINO: k 10 to 200, T .07).
NEIGHBOURS = (5, 10, 20, 50, 100, 200)
TEMPERATURES = (0.02, 0.05, 0.07, 0.1, 0.2, 0.5)
ROWS = 1024  # queries at a time: bounds the similarity matrix


def grid(bank, bank_labels, queries, query_labels, n_classes):
    """Top-1 in percent for each (k, temperature): {(5, 0.02): 31.2, …}, 36 entries.

    bank: (N, K), queries: (M, K) float; labels: (N,) and (M,) int in [0, n_classes). Cosine similarities s; the k
    nearest vote for their class with weight exp(s / temperature). Equal scores go to the lowest class. A k above the
    bank's size means the whole bank, with a warning. Raises ValueError for non-finite features or unfitting shapes.
    Source: Wu et al. 2018, as used by Zhuang et al. 2019 and Caron et al. 2020 (the RankMe paper's section 3.3).
    """
    bank, bank_labels = _normalised(bank, bank_labels, "bank")
    queries, query_labels = _normalised(queries, query_labels, "queries")
    if len(bank) < max(NEIGHBOURS):
        capped = [k for k in NEIGHBOURS if k > len(bank)]
        warnings.warn(f"k-NN: the bank has {len(bank)} images; k of {capped} mean all of them", stacklevel=2)
    correct = dict.fromkeys(((k, t) for k in NEIGHBOURS for t in TEMPERATURES), 0)
    for start in range(0, len(queries), ROWS):
        truth = query_labels[start : start + ROWS]
        similarities, neighbours = _nearest(queries[start : start + ROWS] @ bank.T, max(NEIGHBOURS))
        for temperature in TEMPERATURES:
            # relative to the nearest one: the same votes up to a factor, and no overflow at any temperature
            weights = np.exp((similarities - similarities[:, :1]) / temperature)
            for k, votes in _votes(weights, bank_labels[neighbours], n_classes):
                correct[k, temperature] += int((votes.argmax(1) == truth).sum())
    return {cell: 100.0 * count / len(queries) for cell, count in correct.items()}


def _normalised(features, labels, name):
    features, labels = np.asarray(features, dtype=np.float32), np.asarray(labels)
    if features.ndim != 2 or 0 in features.shape or labels.shape != features.shape[:1]:
        raise ValueError(f"k-NN: {name} of shape {features.shape} do not fit labels of shape {labels.shape}")
    if not np.isfinite(features).all():
        raise ValueError(f"k-NN: the {name} hold NaN or infinity")
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12), labels


def _nearest(similarities, k):
    """Values (float64) and bank indices of each row's k most similar, most similar first."""
    k = min(k, similarities.shape[1])
    top = np.argpartition(-similarities, k - 1, axis=1)[:, :k]
    values = np.take_along_axis(similarities, top, 1)
    order = np.argsort(-values, axis=1, kind="stable")
    return np.take_along_axis(values, order, 1).astype(np.float64), np.take_along_axis(top, order, 1)


def _votes(weights, labels, n_classes):
    """Yields (k, (M, n_classes) scores), each k going on from the smaller one's sums."""
    rows, done = len(weights), 0
    cells = labels + n_classes * np.arange(rows)[:, None]
    votes = np.zeros(rows * n_classes)
    for k in NEIGHBOURS:
        part = slice(done, k)
        votes += np.bincount(cells[:, part].ravel(), weights[:, part].ravel(), minlength=rows * n_classes)
        yield k, votes.reshape(rows, n_classes)
        done = k
