"""What VISSL 0.1.6 needs to run on today's Python and torch, applied from outside; imported before anything of VISSL.

Each shim says what broke and where. None changes a number that VISSL computes.
"""

import ast
import inspect
import sys
import textwrap
import types
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path


def apply() -> None:
    """Put all shims in place, those that VISSL's own modules need included. Needs VISSL and torch to be installed."""
    kinetics()
    pkg_resources()
    numpy_float()
    cuda_of_tensors()
    average_precision()
    extraction_on_cpu()


def kinetics() -> None:
    """torchvision renamed Kinetics400; classy_vision/dataset/classy_kinetics400.py:11 imports the old name."""
    from torchvision.datasets import kinetics

    if not hasattr(kinetics, "Kinetics400"):
        kinetics.Kinetics400 = kinetics.Kinetics


def pkg_resources() -> None:
    """setuptools dropped pkg_resources; vissl/utils/misc.py:16,233 and collect_env.py:12,125 use two functions."""
    if find_spec("pkg_resources") is None:
        stub = types.ModuleType("pkg_resources")
        stub.resource_filename = lambda package, name: str(
            Path(find_spec(package).submodule_search_locations[0]) / name)
        stub.get_distribution = lambda name: types.SimpleNamespace(version=metadata.version(name))
        sys.modules["pkg_resources"] = stub


def numpy_float() -> None:
    """numpy dropped np.float; vissl/utils/svm_utils/evaluate.py:43 and meters/mean_ap_meter.py:70 use it.

    Without it the SVM tool reports a mean average precision of -1 and exits with status 0.
    """
    import numpy as np

    if not hasattr(np, "float"):
        np.float = float


def cuda_of_tensors() -> None:
    """trainer_main.py:438 and tools/nearest_neighbor_test.py call .cuda() without asking for a GPU: none, no move."""
    import torch

    if not torch.cuda.is_available():
        torch.Tensor.cuda = lambda tensor, *args, **kwargs: tensor


def average_precision() -> None:
    """svm_utils/evaluate.py's calculate_ap gives an array of one element, which svm_trainer.py:256 cannot store.

    Without it the SVM tool reports -1 and exits with status 0.
    """
    import numpy as np
    from vissl.utils.svm_utils import evaluate

    calculate = evaluate.calculate_ap
    evaluate.calculate_ap = lambda recall, precision: float(np.ravel(calculate(recall, precision))[0])


def extraction_on_cpu() -> None:
    """trainer_main.py:345 asserts a GPU before it extracts features; the rest of the function needs none."""
    from vissl.trainer import trainer_main

    trainer = trainer_main.SelfSupervisionTrainer
    trainer.extract = without_asserts(trainer.extract)


def without_asserts(function):
    """The function, compiled from its own source less the asserts of its top level."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    definition = tree.body[0]
    definition.body = [node for node in definition.body if not isinstance(node, ast.Assert)]
    namespace: dict = {}
    exec(compile(tree, inspect.getsourcefile(function), "exec"), function.__globals__, namespace)  # noqa: S102
    return namespace[function.__name__]
