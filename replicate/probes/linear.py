"""The linear probe: VISSL's batch norm and linear layer on frozen features."""

from replicate.probes import sgd


def fit(train, train_clean, train_labels, val, val_labels, n_classes, protocol, seed):
    """Top-1 in percent on the training and on the validation features after the last epoch: (train_value, value).

    train: (V, N, K) float32, V cached augmented views of each image, one of which is drawn for each image and epoch;
    train_clean: (N, K) and val: (M, K), the evaluation transform's; train_labels (N,), val_labels (M,): int in
    [0, n_classes). protocol: {"epochs": 28, "schedule": {"kind": "steps", "milestones": [8, 16, 24], "gamma": 0.1}} or
    {"kind": "cosine", "end_factor": 0.01}. Raises ValueError for non-finite features or shapes that do not fit.
    Source: VISSL, configs/config/benchmark/linear_image_classification (see `replicate.probes.sgd`).
    """
    head = sgd.train(train, train_labels, n_classes, (), protocol, seed)
    return sgd.accuracy(head, train_clean, train_labels), sgd.accuracy(head, val, val_labels)
