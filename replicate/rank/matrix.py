"""A feature matrix on disk that is read some rows at a time, and what is checked of all of them.

A file that is wrong raises UserError with one line: which file, what, what to do.
"""

import contextlib
import dataclasses
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator

import numpy as np

from replicate.errors import UserError

CHUNK = 32 * 2**20  # bytes of rows read at a time
LISTED = 12  # arrays of a container that an error names
UNREADABLE = (OSError, ValueError, RuntimeError, EOFError, KeyError, struct.error, zipfile.BadZipFile, zlib.error,
              pickle.UnpicklingError)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Matrix:
    """A feature matrix on disk, or a (views, samples, width) stack, whose rows come view after view.

    rows: N, views x samples of a stack, None where only reading it tells (CSV); width: K; views: 1 unless a stack;
    size: bytes on disk; read(): yields (rows as an (n, K) array of a real type, bytes of the file that they took).
    """

    path: str
    rows: int | None
    width: int
    views: int
    size: int
    read: Callable[[], Iterator[tuple[np.ndarray, float]]]


@contextlib.contextmanager
def clear_errors(path):
    """What a library says of a file it cannot read, as one line; what this module says already is one."""
    try:
        yield
    except UserError:
        raise
    except ImportError as error:
        raise UserError(f"{path}: reading {path.suffix} needs {error.name}: pip install {error.name}, or save as "
                        ".npy") from error  # fmt: skip
    except UNREADABLE as error:
        said = str(getattr(error, "strerror", None) or error).strip().splitlines()
        reason = said[0][:150] if said else type(error).__name__
        raise UserError(f"{path}: could not be read ({reason}): is it whole, and really a {path.suffix} file? Copy or "
                        "save it again") from error  # fmt: skip


def of_array(path, shape, step_rows, read) -> Matrix:
    """Matrix of a file whose shape is known; read(): yields arrays. Checks the shape."""
    views, rows, width = checked(path, shape)
    size = path.stat().st_size

    def counted():
        with clear_errors(path):
            for chunk in read(views, rows, width, step_rows):
                yield chunk, size * len(chunk) / (views * rows)

    return Matrix(str(path), views * rows, width, views, size, counted)


def checked(path, shape) -> tuple[int, int, int]:
    """(views, samples, width) of an array's shape."""
    if len(shape) not in (2, 3):
        raise UserError(f"{path}: an array of shape {shape_text(shape)}; (samples, width) or (views, samples, width) needed")
    if 0 in shape:
        raise UserError(f"{path}: an array of shape {shape_text(shape)} is empty; save features of at least one sample")
    return (1, *shape) if len(shape) == 2 else tuple(shape)


def shape_text(shape) -> str:
    return "(" + ", ".join(map(str, shape)) + ("," if len(shape) == 1 else "") + ")"


def checked_type(path, dtype) -> np.dtype:
    """The dtype if its values are real numbers."""
    if dtype.hasobject:
        raise UserError(f"{path}: holds Python objects, which need pickle, and a pickle can run code: save the array "
                        "as numbers: numpy.save(path, array.astype('float32'))")  # fmt: skip
    if dtype.kind not in "fiub":
        hint = "; of bfloat16, save array.astype('float32')" if dtype.kind == "V" else ""
        raise UserError(f"{path}: values of type {dtype}; real or whole numbers are needed{hint}")
    return dtype


def rows_of(width: int, itemsize: int) -> int:
    return max(CHUNK // (width * itemsize), 1)


def pick(path, shapes: dict[str, tuple], key: str | None) -> str:
    """The name of the array to take from a container: `key`, the only matrix, or the only stack of matrices."""
    if key is not None and key in shapes:
        return key
    for dimensions in (2, 3):
        found = [name for name, shape in shapes.items() if len(shape) == dimensions]
        if key is None and len(found) == 1:
            return found[0]
        if found:
            break
    if key is None and len(shapes) == 1:
        return next(iter(shapes))  # its shape is said to be wrong later
    if not shapes:
        raise UserError(f"{path}: holds no array of numbers; save the features under a name")
    listing = ", ".join(f"{name} {shape_text(shape)}" for name, shape in list(shapes.items())[:LISTED])
    more = f" and {len(shapes) - LISTED} more" if len(shapes) > LISTED else ""
    wrong = "holds several arrays" if key is None else f"holds no '{key}'"
    raise UserError(f"{path}: {wrong}; choose one by --key NAME: {listing}{more}")
