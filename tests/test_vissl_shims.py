"""The shims that can be tried without VISSL, each on a stand-in of what it mends."""

import sys

import numpy as np
import pytest
import torch
from replicate.probes.vissl import shims


def test_numpy_has_float_again(monkeypatch):
    monkeypatch.delattr(np, "float", raising=False)
    shims.numpy_float()
    assert np.ones(2, dtype=np.float).dtype == np.float64
    monkeypatch.delattr(np, "float")


def test_cuda_is_the_identity_where_there_is_no_gpu_and_untouched_where_there_is(monkeypatch):
    original = torch.Tensor.cuda
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    shims.cuda_of_tensors()
    assert torch.Tensor.cuda is original
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.Tensor, "cuda", original)  # restored after the test
    shims.cuda_of_tensors()
    tensor = torch.ones(2)
    assert tensor.cuda(non_blocking=True) is tensor


def test_kinetics_goes_by_its_old_name_too():
    from torchvision.datasets import kinetics

    shims.kinetics()
    assert kinetics.Kinetics400 is kinetics.Kinetics


@pytest.mark.skipif("pkg_resources" in sys.modules, reason="a real pkg_resources is loaded")
def test_pkg_resources_answers_the_two_questions_that_vissl_asks(monkeypatch):
    monkeypatch.setattr(shims, "find_spec", lambda name: None if name == "pkg_resources" else original(name))
    original = __import__("importlib.util").util.find_spec
    shims.pkg_resources()
    try:
        import pkg_resources

        assert pkg_resources.resource_filename("replicate", "grid.csv").endswith("replicate/grid.csv")
        assert pkg_resources.get_distribution("torch").version == torch.__version__.split("+")[0]
    finally:
        del sys.modules["pkg_resources"]


def guarded(device):
    """With an assert at its top and one further in."""
    assert device == "cuda", "Set MACHINE.DEVICE = gpu"
    for _ in range(1):
        assert device, "no device at all"
    return f"extracted on {device}"


def test_the_extraction_loses_the_assert_at_its_top_and_nothing_else():
    mended = shims.without_asserts(guarded)
    with pytest.raises(AssertionError, match="gpu"):
        guarded("cpu")
    assert mended("cpu") == "extracted on cpu"
    with pytest.raises(AssertionError, match="no device"):
        mended("")
