"""VISSL fails with exit status 0 in many ways: each is an error with one line, never a row."""

import json

import numpy as np
import pytest
from replicate.errors import UserError
from replicate.probes.vissl import outcome

HEADS = ["representation", "embedding"]


def metrics(folder, *lines):
    (folder / "metrics.json").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def last_test(phase, **values):
    return {"phase_idx": 2 * phase, "train_phase_idx": phase, "test_accuracy_list_meter": {"top_1": values}}


TRAINED = {"phase_idx": 4, "train_phase_idx": 2, "train_accuracy_list_meter": {"top_1": dict.fromkeys(HEADS, 99.0)}}


def test_the_last_test_counts_not_the_best_and_not_the_training_accuracy(tmp_path):
    metrics(tmp_path, last_test(0, representation=90.0, embedding=80.0), TRAINED, last_test(2, representation=24.0, embedding=20.5))
    assert outcome.linear(tmp_path, 3, HEADS) == {"representation": 24.0, "embedding": 20.5}


@pytest.mark.parametrize("lines, says", [
    ([], "holds no test"),
    ([TRAINED], "holds no test"),
    ([last_test(0, representation=9.0, embedding=8.0)], "after epoch 1 of 3"),
    ([last_test(2, representation=9.0)], "expected representation, embedding"),
    ([last_test(2, representation=-1, embedding=3.0)], "not a percentage"),
    ([last_test(2, representation=float("nan"), embedding=3.0)], "not a percentage"),
])  # fmt: skip
def test_linear_results_that_are_none(tmp_path, lines, says):
    metrics(tmp_path, *lines)
    with pytest.raises(UserError, match=says) as error:
        outcome.linear(tmp_path, 3, HEADS)
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("content", [None, "", "{", "not json\n"])
def test_absent_empty_and_torn_metrics_are_errors(tmp_path, content):
    if content is not None:
        (tmp_path / "metrics.json").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match="log.txt"):
        outcome.linear(tmp_path, 3, HEADS)


def precision(folder, head, values):
    (folder / head).mkdir()
    np.save(folder / head / "test_ap.npy", values)


def test_the_svm_gives_the_mean_over_classes_times_100(tmp_path):
    precision(tmp_path, "representation", np.array([[0.5], [0.7]]))
    precision(tmp_path, "embedding", np.array([[0.25], [0.25]]))
    assert outcome.svm(tmp_path, HEADS) == {"representation": pytest.approx(60.0), "embedding": 25.0}


def test_an_svm_whose_worker_failed_is_an_error_though_vissl_says_minus_one_and_ends_well(tmp_path):
    precision(tmp_path, "representation", np.array([[0.5]]))
    with pytest.raises(UserError, match="SVM failed"):
        outcome.svm(tmp_path, HEADS)


@pytest.mark.parametrize("values", [np.array([[np.nan]]), np.array([[-1.0]]), np.empty((0, 1))])
def test_an_average_precision_that_is_none_is_an_error(tmp_path, values):
    precision(tmp_path, "representation", values)
    with pytest.raises(UserError, match="not a percentage"):
        outcome.svm(tmp_path, ["representation"])


def test_an_array_of_objects_is_not_executed(tmp_path):
    precision(tmp_path, "representation", np.array([{"a": 1}], dtype=object))
    with pytest.raises(UserError, match="SVM failed"):
        outcome.svm(tmp_path, ["representation"])


@pytest.mark.parametrize("content", [None, "", "{", "{}", '{"tensors": 0}'])
def test_without_the_workers_last_word_nothing_counts(tmp_path, content):
    if content is not None:
        (tmp_path / "outcome.json").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match="outcome.json"):
        outcome.finished(tmp_path)


def test_k_nn_needs_every_setting_of_the_grid(tmp_path):
    rows = [{"features": "embedding", "k": k, "temperature": 0.1, "value": 50.0 + k} for k in (5, 10)]
    (tmp_path / "outcome.json").write_text(json.dumps({"tensors": 3, "knn": rows}), encoding="utf-8")
    assert outcome.knn(tmp_path, ["embedding"], [[5, 0.1], [10, 0.1]])["embedding"][1]["value"] == 60.0
    with pytest.raises(UserError, match="2 of 3 settings"):
        outcome.knn(tmp_path, ["embedding"], [[5, 0.1], [10, 0.1], [20, 0.1]])


def test_images_that_vissl_replaced_by_grey_ones_are_found_in_its_log():
    log = "INFO x\nWARNING disk_dataset.py: 154: Couldn't load: /d/a b.png. Exception: \ncannot identify\nINFO y"
    assert outcome.unreadable_images(log) == ["/d/a b.png"]
    assert outcome.unreadable_images("INFO all well") == []
