"""What every loss asks of its arguments. Each function raises ValueError with one line: what, where, what to do."""

import torch
from torch import Tensor


def check_float(where: str, **tensors: Tensor) -> None:
    """Raise unless all tensors are float32, or all are float64."""
    dtypes = {name: z.dtype for name, z in tensors.items()}
    if len(set(dtypes.values())) > 1 or not set(dtypes.values()) <= {torch.float32, torch.float64}:
        found = ", ".join(f"{name} {dtype}" for name, dtype in dtypes.items())
        raise ValueError(f"{where}: the tensors must share float32 or float64, got {found}; call .float() on them")


def check_views(where: str, z1: Tensor, z2: Tensor, rows: int, dimensions: int = 1) -> None:
    """Raise unless z1 and z2 are two floating (N, d) matrices of one shape with N >= rows and d >= dimensions."""
    check_float(where, z1=z1, z2=z2)
    if z1.ndim != 2 or z1.shape != z2.shape:
        raise ValueError(f"{where}: the views must be two (N, d) matrices of one shape, "
                         f"got {tuple(z1.shape)} and {tuple(z2.shape)}")
    if z1.shape[0] < rows or z1.shape[1] < dimensions:
        raise ValueError(f"{where}: needs at least {rows} samples of {dimensions} dimensions, got {tuple(z1.shape)}")


def check_positive(where: str, **values: float) -> None:
    """Raise unless every value is a number above zero (None, as in a run that lacks the field, is refused too)."""
    for name, value in values.items():
        if value is None or not value > 0:
            raise ValueError(f"{where}: {name} must be above zero, got {value}")
