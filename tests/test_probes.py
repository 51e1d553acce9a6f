import math
import warnings

import numpy as np
import pytest
import torch

from replicate.probes import knn, linear, mlp, sgd, svm

STEPS = {"epochs": 5, "schedule": {"kind": "steps", "milestones": [2, 4], "gamma": 0.1}}
COSINE = {"epochs": 5, "schedule": {"kind": "cosine", "end_factor": 0.01}}
SHORT_VISSL = {"epochs": 28, "schedule": {"kind": "steps", "milestones": [8, 16, 24], "gamma": 0.1}}


def clusters(n, width, n_classes, seed, spread=1.0, views=2):
    """Gaussian clusters with the same centres whatever the seed: (views, n, width) features and labels."""
    centres = np.random.default_rng(99).normal(size=(n_classes, width))
    rng = np.random.default_rng(seed)
    labels = rng.integers(n_classes, size=n)
    return (centres[labels] + spread * rng.normal(size=(views, n, width))).astype(np.float32), labels


def torch_head(width, hidden, n_classes, head):
    """torch's own modules with the head's parameters."""
    widths = [width, *hidden, n_classes]
    modules = [torch.nn.BatchNorm1d(width)]
    for fan_in, fan_out, (weight, bias) in zip(widths, widths[1:], head.layers):
        modules += [torch.nn.Linear(fan_in, fan_out), torch.nn.ReLU()]
        modules[-2].weight.data, modules[-2].bias.data = torch.tensor(weight), torch.tensor(bias)
    return torch.nn.Sequential(*modules[:-1])


def torch_train(views, labels, n_classes, hidden, protocol, seed):
    """The same training with autograd, torch.optim and torch's own schedulers, on the same batches."""
    rng = np.random.default_rng(seed)
    width = views.shape[2]
    model = torch_head(width, hidden, n_classes, sgd.initial(width, [*hidden, n_classes], rng))
    norm, layers = list(model[0].parameters()), list(model[1:].parameters())
    optimizer = torch.optim.SGD([{"params": norm, "weight_decay": 0}, {"params": layers}],
                                lr=0.01, momentum=0.9, nesterov=True, weight_decay=5e-4)
    schedule = protocol["schedule"]
    if schedule["kind"] == "steps":
        scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, schedule["milestones"], schedule["gamma"])
    else:
        end = 0.01 * schedule["end_factor"]
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, protocol["epochs"], end)
    for _ in range(protocol["epochs"]):
        for view, index in sgd.batches(len(views), len(labels), rng):
            optimizer.zero_grad()
            scores = model(torch.tensor(views[view, index]))
            torch.nn.functional.cross_entropy(scores, torch.tensor(labels[index])).backward()
            optimizer.step()
        scheduler.step()
    return model.eval()


@pytest.mark.parametrize("hidden", [(), (24, 24)])
@pytest.mark.parametrize("protocol", [STEPS, COSINE])
def test_training_equals_autograd_and_torch_optim(hidden, protocol):
    views, labels = clusters(700, 24, 7, seed=0)  # 256 + 256 + 188
    head = sgd.train(views, labels, 7, hidden, protocol, seed=3)
    model = torch_train(views, labels, 7, hidden, protocol, seed=3)
    expected = [p.detach().numpy() for p in model.parameters()]
    found = [head.gamma, head.beta, *[p for layer in head.layers for p in layer]]
    for ours, torchs in zip(found, expected, strict=True):
        assert np.abs(ours - torchs).max() < 1e-5
    assert np.abs(head.running_mean - model[0].running_mean.numpy()).max() < 1e-5
    assert np.abs(head.running_var - model[0].running_var.numpy()).max() < 1e-4
    with torch.no_grad():
        assert np.abs(sgd.logits(head, views[0]) - model(torch.tensor(views[0])).numpy()).max() < 1e-4


def test_gradient_equals_finite_differences():
    views, labels = clusters(40, 6, 3, seed=1)
    head = sgd.initial(6, [5, 3], np.random.default_rng(0))
    head = sgd._views(head.parameters.astype(np.float64), 6, [(5, 6), (3, 5)])
    head.gamma[:] = np.linspace(0.5, 1.5, 6)
    head.beta[:] = np.linspace(-0.3, 0.3, 6)
    features, gradient = views[0].astype(np.float64), sgd.like(head)
    sgd.backward(head, features, labels, gradient)

    def loss(i, step):
        head.parameters[i] += step
        normalised = (features - features.mean(0)) / np.sqrt(features.var(0) + sgd.BN_EPS)
        scores = sgd._forward(head, normalised * head.gamma + head.beta)[-1]
        head.parameters[i] -= step
        return np.mean(np.log(np.exp(scores).sum(1)) - scores[np.arange(40), labels])

    numeric = [(loss(i, 1e-6) - loss(i, -1e-6)) / 2e-6 for i in range(len(head.parameters))]
    assert gradient.parameters == pytest.approx(np.array(numeric), abs=1e-8)


def test_initial_layers_have_torch_linears_range():
    head = sgd.initial(100, [300], np.random.default_rng(0))
    (weight, bias), reference = head.layers[0], torch.nn.Linear(100, 300)
    for ours, torchs in ((weight, reference.weight), (bias, reference.bias)):
        assert 0.09 < np.abs(ours).max() <= 0.1 and ours.std() == pytest.approx(torchs.std().item(), rel=0.1)


def test_schedules():
    rates = [sgd.learning_rate(epoch, SHORT_VISSL) for epoch in (0, 7, 8, 15, 16, 24, 27)]
    assert rates == pytest.approx([1e-2, 1e-2, 1e-3, 1e-3, 1e-4, 1e-5, 1e-5])
    clevr = {"epochs": 50, "schedule": {"kind": "cosine", "end_factor": 0.01}}
    assert [sgd.learning_rate(epoch, clevr) for epoch in (0, 25, 50)] == pytest.approx([1e-2, 5.05e-3, 1e-4])
    assert sgd.learning_rate(9, {**SHORT_VISSL, "lr": 0.3}) == pytest.approx(0.03)
    with pytest.raises(ValueError, match="linear"):
        sgd.learning_rate(0, {"epochs": 1, "schedule": {"kind": "linear"}})


def test_an_epoch_shows_each_image_once_in_any_of_its_views():
    views, order = map(np.concatenate, zip(*sgd.batches(4, 600, np.random.default_rng(0))))
    assert np.array_equal(np.sort(order), np.arange(600)) and not np.array_equal(order, np.arange(600))
    assert set(views) == {0, 1, 2, 3}
    assert [len(index) for _, index in sgd.batches(1, 600, np.random.default_rng(0))] == [256, 256, 88]
    assert [len(index) for _, index in sgd.batches(1, 257, np.random.default_rng(0))] == [256]


@pytest.mark.parametrize("probe, width", [(linear, 32), (mlp, 128)])
def test_separable_clusters_are_told_apart(probe, width):
    train, labels = clusters(2560, width, 10, seed=0, spread=0.05)
    val, val_labels = clusters(500, width, 10, seed=1, spread=0.05)
    assert probe.fit(train, train[0], labels, val[0], val_labels, 10, SHORT_VISSL, seed=0) == (100.0, 100.0)


@pytest.mark.parametrize("probe", [linear, mlp])
def test_random_labels_give_chance(probe):
    rng = np.random.default_rng(0)
    train, val = rng.normal(size=(1, 2000, 16)).astype(np.float32), rng.normal(size=(4000, 16)).astype(np.float32)
    labels, val_labels = rng.integers(4, size=2000), rng.integers(4, size=4000)
    train_value, value = probe.fit(train, train[0], labels, val, val_labels, 4, STEPS, 0)
    assert abs(value - 25) < 3 and train_value < 40


def test_train_value_is_that_of_the_clean_features():
    train, labels = clusters(600, 16, 4, seed=0, spread=0.05)
    shuffled = np.random.default_rng(0).permutation(train[0])
    train_value, value = linear.fit(train, shuffled, labels, train[0], labels, 4, STEPS, 0)
    assert value == 100 and train_value < 50


@pytest.mark.parametrize("probe", [linear, mlp])
def test_same_seed_same_head_and_another_seed_another(probe):
    train, labels = clusters(500, 12, 6, seed=0, spread=3.0)
    val, val_labels = clusters(2000, 12, 6, seed=1, spread=3.0)
    values = [probe.fit(train, train[0], labels, val[0], val_labels, 6, STEPS, seed) for seed in (0, 0, 1)]
    assert values[0] == values[1] != values[2]


def test_constant_features_are_no_error():
    train, labels = np.ones((1, 300, 8), np.float32), np.arange(300) % 3
    assert linear.fit(train, train[0], labels, train[0], labels, 3, STEPS, 0) == pytest.approx((100 / 3, 100 / 3))


def test_probes_refuse_what_they_cannot_take():
    train, labels = clusters(100, 8, 3, seed=0)
    broken = train.copy()
    broken[0, 5, 2] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        linear.fit(broken, train[0], labels, train[0], labels, 3, STEPS, 0)
    with pytest.raises(ValueError, match="NaN"):
        linear.fit(train, train[0], labels, broken[0], labels, 3, STEPS, 0)
    with pytest.raises(ValueError, match="2 classes"):
        linear.fit(train, train[0], labels, train[0], labels, 2, STEPS, 0)
    with pytest.raises(ValueError, match="do not fit"):
        linear.fit(train, train[0], labels[:-1], train[0], labels, 3, STEPS, 0)
    with pytest.raises(ValueError, match="queries hold"):
        knn.grid(train[0], labels, broken[0], labels, 3)
    targets = (labels[:, None] == np.arange(3)).astype(int)
    with pytest.raises(ValueError, match="val features hold"):
        svm.mean_average_precision(train[0], targets, broken[0], targets, [1.0])
    with pytest.raises(ValueError, match="targets hold"):
        svm.mean_average_precision(train[0], targets + 2, train[0], targets, [1.0])


# k-NN


def test_knn_equals_a_loop():
    bank, bank_labels = clusters(230, 10, 5, seed=0, spread=2.0)
    queries, labels = clusters(60, 10, 5, seed=1, spread=2.0)
    found = knn.grid(bank[0], bank_labels, queries[0], labels, 5)
    assert set(found) == {(k, t) for k in (5, 10, 20, 50, 100, 200) for t in (0.02, 0.05, 0.07, 0.1, 0.2, 0.5)}
    unit = [x / np.linalg.norm(x) for x in bank[0].astype(float)]
    for (k, temperature), value in found.items():
        correct = 0
        for query, label in zip(queries[0].astype(float), labels):
            similarity = np.array([u @ query for u in unit]) / np.linalg.norm(query)
            votes = np.zeros(5)
            for i in np.argsort(-similarity)[:k]:
                votes[bank_labels[i]] += math.exp(similarity[i] / temperature)
            correct += votes.argmax() == label
        assert value == pytest.approx(100 * correct / 60)


def test_knn_at_an_endless_temperature_is_sklearns_majority(monkeypatch):
    from sklearn.neighbors import KNeighborsClassifier

    monkeypatch.setattr(knn, "TEMPERATURES", (1e9,))
    monkeypatch.setattr(knn, "NEIGHBOURS", (5, 21, 55))
    monkeypatch.setattr(knn, "ROWS", 64)  # several blocks of queries
    bank, bank_labels = clusters(400, 10, 2, seed=0, spread=3.0)  # two classes and odd k: no ties
    queries, labels = clusters(150, 10, 2, seed=1, spread=3.0)
    for (k, _), value in knn.grid(bank[0], bank_labels, queries[0], labels, 2).items():
        peer = KNeighborsClassifier(k, metric="cosine").fit(bank[0], bank_labels)
        assert value == pytest.approx(100 * peer.score(queries[0], labels))


def test_knn_of_a_small_bank_and_of_zero_features():
    bank, labels = clusters(30, 8, 3, seed=0, spread=0.01)
    with pytest.warns(UserWarning, match=r"30 images.*\[50, 100, 200\]"):
        found = knn.grid(bank[0], labels, bank[1], labels, 3)
    assert found[5, 0.07] == 100 and found[50, 0.07] == found[200, 0.07]
    with pytest.warns(UserWarning):
        chance = knn.grid(np.zeros((30, 8)), labels, bank[1], labels, 3)
    assert chance[200, 0.5] == pytest.approx(100 * np.mean(labels == np.bincount(labels).argmax()))


# SVM


def test_average_precision_by_hand():
    # hits at positions 1, 3, 4 of 5: precision 1, 2/3, 3/4; the envelope lifts 2/3 to 3/4
    positive = np.array([False, True, True, True, False])
    scores = np.array([0.4, 0.5, 0.2, 0.3, 0.1])
    assert svm.average_precision(positive, scores) == pytest.approx((1 + 3 / 4 + 3 / 4) / 3)
    assert svm.average_precision(positive, np.zeros(5)) == pytest.approx(3 / 5)
    assert svm.average_precision(positive, positive * 1.0) == 1


def test_average_precision_is_the_envelope_of_sklearns_curve():
    from sklearn.metrics import precision_recall_curve

    rng = np.random.default_rng(0)
    for _ in range(20):
        positive, scores = rng.random(80) < 0.3, np.round(rng.normal(size=80), 1)  # with ties
        precision, recall, _ = precision_recall_curve(positive, scores)
        envelope = np.maximum.accumulate(precision[:-1])
        assert svm.average_precision(positive, scores) == pytest.approx(np.sum(-np.diff(recall) * envelope))


def multilabel(n, seed):
    rng = np.random.default_rng(seed)
    targets = rng.choice([1, 0, -1], p=[0.3, 0.6, 0.1], size=(n, 4))
    directions = np.random.default_rng(99).normal(size=(4, 12))
    return (targets == 1) @ directions + 1.5 * rng.normal(size=(n, 12)), targets


def test_svm_equals_vissls_steps_with_sklearn():
    from sklearn.model_selection import cross_val_score
    from sklearn.svm import LinearSVC

    costs = [0.01, 1.0, 10.0]
    (train, targets), (val, val_targets) = multilabel(120, 0), multilabel(150, 1)
    a, b = (x / (np.linalg.norm(x, axis=1)[:, None] + 1e-5) for x in (train, val))
    expected = []
    for k in range(4):
        labels = np.where(targets[:, k] == 1, 1, -1)  # difficult ones are negatives
        models = [LinearSVC(C=c, class_weight={1: 2, -1: 1}, max_iter=2000, dual=True, random_state=0) for c in costs]
        scores = [cross_val_score(m, a, labels, cv=3, scoring="average_precision").mean() for m in models]
        margin = models[int(np.argmax(scores))].fit(a, labels).decision_function(b)
        judged = val_targets[:, k] != -1  # and are not judged
        expected.append(svm.average_precision(val_targets[judged, k] == 1, margin[judged]))
        assert svm.choose_cost(a, labels, costs) == costs[int(np.argmax(scores))]
    train_map, value = svm.mean_average_precision(train, targets, val, val_targets, costs)
    assert value == pytest.approx(100 * np.mean(expected)) and train_map > value
    assert (train_map, value) == svm.mean_average_precision(train, targets, val, val_targets, costs)


def test_svm_of_separable_classes_is_100_and_silent():
    targets = (np.arange(90)[:, None] % 3 == np.arange(3)).astype(int)
    features = targets + 0.01 * np.random.default_rng(0).normal(size=(90, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = svm.mean_average_precision(features, targets, features, targets, [1e-2, 1e3])
    assert found == pytest.approx((100, 100))


def test_rare_classes():
    train, targets = multilabel(60, 0)
    val, val_targets = multilabel(60, 1)
    targets[:, 1] = 0  # never present
    with pytest.warns(UserWarning, match="class 1 .*left out"):
        without = svm.mean_average_precision(train, targets, val, val_targets, [0.1, 1.0])
    keep = [0, 2, 3]
    assert without == svm.mean_average_precision(train, targets[:, keep], val, val_targets[:, keep], [0.1, 1.0])
    for positives, folds in ((1, "none"), (2, "2")):
        targets[:, 1] = np.arange(60) < positives
        with pytest.warns(UserWarning, match=f"class 1 is too rare for 3 folds; {folds} used"):
            svm.mean_average_precision(train, targets, val, val_targets, [0.1, 1.0])
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="no class"):
        svm.mean_average_precision(train, 0 * targets, val, val_targets, [1.0])
