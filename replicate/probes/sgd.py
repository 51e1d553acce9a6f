"""The trainer that the linear and the MLP probe share: a batch norm, fully connected layers, a softmax, and SGD.

Protocol: VISSL's linear_image_classification configurations. Head `eval_mlp` (a batch norm, then linear layers, ReLU
between them), SGD with Nesterov momentum 0.9, weight decay 5e-4 on the linear weights and biases and none on the batch
norm, batch 256 with the short last batch kept, learning rate 0.01 x batch / 256, changed once an epoch, last epoch.

Forward and backward are written out in numpy: a step on cached features is so small that overhead is most of it. With
2,560 x 128 features and one thread a linear probe takes 0.4 and an MLP 0.5 of what autograd with torch.optim takes
(`python -m benchmarks.bench_probes`), and neither pays the 3 s that importing torch.optim's first optimizer costs.
"""

import math
from dataclasses import dataclass

import numpy as np

BATCH = 256
BASE_LR = 0.01  # at batch 256
MOMENTUM = 0.9
WEIGHT_DECAY = 5e-4
BN_EPS = 1e-5  # torch.nn.BatchNorm1d's
BN_MOMENTUM = 0.1


@dataclass
class Head:
    """Batch norm and layers [(weight, bias), …]: views into the flat `parameters`, so that SGD is a few operations."""

    parameters: np.ndarray
    gamma: np.ndarray
    beta: np.ndarray
    layers: list
    running_mean: np.ndarray
    running_var: np.ndarray

    @property
    def n_norm(self):
        """How many of the flat parameters belong to the batch norm (they come first)."""
        return 2 * len(self.gamma)


def train(views, labels, n_classes, hidden, protocol, seed):
    """Trains a head on cached features and returns it.

    views: (V, N, K) float32, V cached views of each image; labels: (N,) int in [0, n_classes); hidden: widths of the
    hidden layers, () for a linear probe; protocol: epochs, schedule (see `learning_rate`) and, where a data set was
    tuned, lr (at batch 256). Equal arguments give equal heads. Raises ValueError for what cannot be trained on.
    """
    views, labels = np.asarray(views, dtype=np.float32), np.asarray(labels)
    check(views, labels, n_classes)
    rng = np.random.default_rng(seed)
    head = initial(views.shape[2], [*hidden, n_classes], rng)
    velocity = np.zeros_like(head.parameters)
    decay = np.full_like(head.parameters, WEIGHT_DECAY)
    decay[: head.n_norm] = 0
    gradient = like(head)
    for epoch in range(protocol["epochs"]):
        lr = learning_rate(epoch, protocol)
        for view, index in batches(len(views), len(labels), rng):
            backward(head, views[view, index], labels[index], gradient)
            nesterov(head.parameters, gradient.parameters, velocity, decay, lr)
    return head


def accuracy(head, features, labels):
    """Top-1 in percent of (M, K) features, the batch norm with its running statistics."""
    features, labels = np.asarray(features, dtype=np.float32), np.asarray(labels)
    check(features[None], labels, len(head.layers[-1][1]))
    return 100.0 * int((logits(head, features).argmax(1) == labels).sum()) / len(labels)


def check(views, labels, n_classes):
    """Raises ValueError, saying what is wrong, for (V, N, K) features or (N,) labels that a probe cannot take."""
    if views.ndim != 3 or 0 in views.shape or labels.shape != views.shape[1:2]:
        raise ValueError(f"probe: features of shape {views.shape[1:]} do not fit labels of shape {labels.shape}")
    if not np.isfinite(views).all():
        raise ValueError("probe: the features hold NaN or infinity")
    if labels.min() < 0 or labels.max() >= n_classes:
        raise ValueError(f"probe: labels from {labels.min()} to {labels.max()} with {n_classes} classes")


def learning_rate(epoch, protocol):
    """Rate of an epoch, counted from 0. steps: times gamma at each milestone; cosine: from 1 x to end_factor x."""
    schedule, lr = protocol["schedule"], protocol.get("lr", BASE_LR) * BATCH / 256
    if schedule["kind"] == "steps":
        return lr * schedule["gamma"] ** sum(epoch >= milestone for milestone in schedule["milestones"])
    if schedule["kind"] == "cosine":
        end = schedule["end_factor"]
        return lr * (end + (1 - end) * (1 + math.cos(math.pi * epoch / protocol["epochs"])) / 2)
    raise ValueError(f"probe: unknown schedule kind {schedule['kind']!r}; it is steps or cosine")


def batches(n_views, n_images, rng):
    """One epoch: (view of each image, image) index pairs. A last batch of one image is left out: it has no variance."""
    view, order = rng.integers(n_views, size=n_images), rng.permutation(n_images)
    for start in range(0, n_images, BATCH):
        index = order[start : start + BATCH]
        if len(index) > 1:
            yield view[index], index


def initial(width, widths, rng):
    """Batch norm at one and zero; weights and biases uniform within 1 / sqrt(inputs), torch.nn.Linear's default."""
    shapes = list(zip(widths, [width, *widths[:-1]]))
    head = _views(np.zeros(2 * width + sum(out * (fan_in + 1) for out, fan_in in shapes), np.float32), width, shapes)
    head.gamma[:] = 1
    for weight, bias in head.layers:
        bound = 1 / math.sqrt(weight.shape[1])
        weight[:] = rng.uniform(-bound, bound, weight.shape)
        bias[:] = rng.uniform(-bound, bound, bias.shape)
    return head


def like(head):
    """A head of the same shapes, for the gradient."""
    shapes = [weight.shape for weight, _ in head.layers]
    return _views(np.zeros_like(head.parameters), len(head.gamma), shapes)


def _views(flat, width, shapes):
    layers, at = [], 2 * width
    for out, fan_in in shapes:
        weight = flat[at : at + out * fan_in].reshape(out, fan_in)
        layers.append((weight, flat[at + out * fan_in : at + out * (fan_in + 1)]))
        at += out * (fan_in + 1)
    running_mean, running_var = np.zeros(width, np.float32), np.ones(width, np.float32)
    return Head(flat, flat[:width], flat[width : 2 * width], layers, running_mean, running_var)


def logits(head, features):
    """(M, C) from (M, K), the batch norm with its running statistics."""
    scale = head.gamma / np.sqrt(head.running_var + BN_EPS)
    return _forward(head, (features - head.running_mean) * scale + head.beta)[-1]


def _forward(head, hidden):
    """Inputs of each layer, then the logits."""
    activations = [hidden]
    for depth, (weight, bias) in enumerate(head.layers, start=1):
        hidden = hidden @ weight.T + bias
        if depth < len(head.layers):
            np.maximum(hidden, 0, out=hidden)
        activations.append(hidden)
    return activations


def backward(head, features, labels, gradient):
    """Fills `gradient` with that of the mean cross-entropy of a batch and updates the running statistics.

    With x the normalised features, the first layer needs only G'x and the sums of G (G: the gradient at its output):
    dW = (G'x) gamma + (sum G) beta', dgamma = sum_c W (G'x), dbeta = (sum G) W: the batch norm costs no more products.
    """
    normalised = _normalise(head, features)
    activations = _forward(head, normalised * head.gamma + head.beta)
    upstream = _softmax_gradient(activations.pop(), labels)
    for (weight, _), (d_weight, d_bias), hidden in zip(head.layers[:0:-1], gradient.layers[:0:-1], activations[:0:-1]):
        np.matmul(upstream.T, hidden, out=d_weight)
        upstream.sum(0, out=d_bias)
        upstream = (upstream @ weight) * (hidden > 0)
    (weight, _), (d_weight, d_bias) = head.layers[0], gradient.layers[0]
    product = upstream.T @ normalised
    upstream.sum(0, out=d_bias)
    np.multiply(product, head.gamma, out=d_weight)
    d_weight += d_bias[:, None] * head.beta
    np.einsum("ck,ck->k", weight, product, out=gradient.gamma)
    np.matmul(d_bias, weight, out=gradient.beta)


def _normalise(head, features):
    n = len(features)
    mean = features.mean(0)
    centred = features - mean
    var = np.einsum("nk,nk->k", centred, centred) / n
    centred /= np.sqrt(var + BN_EPS)
    head.running_mean += BN_MOMENTUM * (mean - head.running_mean)
    head.running_var += BN_MOMENTUM * (var * (n / (n - 1)) - head.running_var)  # torch keeps the unbiased one
    return centred


def _softmax_gradient(scores, labels):
    scores -= scores.max(1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(1, keepdims=True)
    scores[np.arange(len(labels)), labels] -= 1
    scores /= len(labels)
    return scores


def nesterov(parameters, gradient, velocity, decay, lr):
    """One step of torch.optim.SGD(momentum=.9, nesterov=True), in place; decay: a weight decay for each parameter."""
    gradient += decay * parameters
    velocity *= MOMENTUM
    velocity += gradient
    parameters -= lr * (gradient + MOMENTUM * velocity)
