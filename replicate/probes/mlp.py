"""The 3-layer MLP probe of the RankMe paper's section 3.3 (SUN397)."""

from replicate.probes import sgd


def fit(train, train_clean, train_labels, val, val_labels, n_classes, protocol, seed):
    """As `replicate.probes.linear.fit`, with two hidden layers of the features' own width, a ReLU after each.

    The paper's widths are lost; it says that they put no rank constraint on the features, so they are K here.
    Source of the form (batch norm first, no ReLU on the last layer): VISSL's eval_mlp head. Optimiser: the linear
    probe's.
    """
    width = train.shape[2]
    head = sgd.train(train, train_labels, n_classes, (width, width), protocol, seed)
    return sgd.accuracy(head, train_clean, train_labels), sgd.accuracy(head, val, val_labels)
