"""Feature matrices in files of arrays: .npy, .npz, .safetensors, .pt. A reader takes (path, key, drop) and gives a Matrix.

Plain reads and not memory maps: a mapped page that was read counts as resident memory. Nothing here unpickles: a pickle
can run any code.
"""

import contextlib
import json
import math
import pickle
import re
import shutil
import struct
import tempfile
import warnings
import zipfile

import numpy as np

from replicate.errors import UserError
from replicate.rank import matrix
from replicate.rank.matrix import Matrix

SAFETENSORS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4", "I16": "<i2",
               "I8": "i1", "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1", "BOOL": "?"}  # fmt: skip
HEADER_LIMIT = 100 * 2**20  # bytes of a safetensors header, by its specification


def _fill(file, array: np.ndarray, path) -> None:
    """Read exactly the bytes of a contiguous array."""
    left = memoryview(array.reshape(-1, order="A").view(np.uint8))
    while left:
        count = file.readinto(left)
        if not count:
            raise UserError(f"{path}: ends before its last row: copy or save it again")
        left = left[count:]


def _row_major(open_data, path, dtype):
    """Reader of an array whose rows are contiguous."""

    def read(views, rows, width, step):
        with open_data() as file:
            for _ in range(views):
                for start in range(0, rows, step):
                    chunk = np.empty((min(step, rows - start), width), dtype)
                    _fill(file, chunk, path)
                    yield chunk

    return read


def _column_major(open_data, path, dtype):
    """Reader of an array in Fortran order: of each column the same rows at a time."""

    def read(views, rows, width, step):
        with open_data() as file:
            origin = file.tell()
            for view in range(views):
                for start in range(0, rows, step):
                    count = min(step, rows - start)
                    chunk, column = np.empty((count, width), dtype, order="F"), np.empty((count, views), dtype)
                    for k in range(width):
                        file.seek(origin + views * (start + rows * k) * dtype.itemsize)
                        _fill(file, column, path)
                        chunk[:, k] = column[:, view]
                    yield chunk

    return read


def _opener(path, offset: int):
    """Function that opens the file at an offset; unbuffered, since chunks are large."""

    def open_data():
        file = open(path, "rb", buffering=0)
        file.seek(offset)
        return file

    return open_data


def _npy_header(file) -> tuple[tuple, bool, np.dtype]:
    version = np.lib.format.read_magic(file)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in read:
        raise ValueError(f"npy version {version}, which only tables of named fields use")
    return read[version](file)


def _whole(path, offset: int, needed: int) -> None:
    there = path.stat().st_size - offset
    if there < needed:
        raise UserError(f"{path}: is cut short: {there} bytes of values instead of {needed}; copy or save it again")


def npy(path, key, drop) -> Matrix:
    with open(path, "rb") as file:
        shape, fortran, dtype = _npy_header(file)
        offset = file.tell()
    matrix.checked(path, shape)
    matrix.checked_type(path, dtype)
    _whole(path, offset, math.prod(shape) * dtype.itemsize)
    reader = _column_major if fortran else _row_major
    return matrix.of_array(path, shape, matrix.rows_of(shape[-1], dtype.itemsize), reader(_opener(path, offset), path, dtype))


def npz(path, key, drop) -> Matrix:
    headers = {}
    with zipfile.ZipFile(path) as archive:
        for member in archive.namelist():
            if member.endswith(".npy"):
                with archive.open(member) as file:
                    headers[member[:-4]] = _npy_header(file)
    name = matrix.pick(path, {name: header[0] for name, header in headers.items()}, key)
    shape, fortran, dtype = headers[name]
    matrix.checked(path, shape)
    matrix.checked_type(path, dtype)
    reader = _column_major if fortran else _row_major
    return matrix.of_array(path, shape, matrix.rows_of(shape[-1], dtype.itemsize),
                   reader(lambda: _member(path, f"{name}.npy", seekable=fortran), path, dtype))  # fmt: skip


@contextlib.contextmanager
def _member(path, name: str, seekable: bool):
    """A member of an .npz at its first value; going back in a compressed one needs a temporary copy."""
    with zipfile.ZipFile(path) as archive, archive.open(name) as file, contextlib.ExitStack() as stack:
        _npy_header(file)
        if seekable:
            copy = stack.enter_context(tempfile.TemporaryFile(buffering=0))
            shutil.copyfileobj(file, copy, 2**20)
            copy.seek(0)
            file = copy
        yield file


def safetensors(path, key, drop) -> Matrix:
    """The format is a length, a JSON header and raw values: no library, which would map the file, is needed."""
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if length > min(HEADER_LIMIT, path.stat().st_size):
            raise ValueError("its header is longer than the file")
        header = json.loads(file.read(length))
    try:
        arrays = {name: (tuple(entry["shape"]), entry["dtype"], int(entry["data_offsets"][0]))
                  for name, entry in header.items() if name != "__metadata__"}  # fmt: skip
    except (AttributeError, KeyError, TypeError, IndexError) as error:
        raise ValueError("its header is not one of safetensors") from error
    shape, kind, start = arrays[matrix.pick(path, {name: array[0] for name, array in arrays.items()}, key)]
    if kind not in SAFETENSORS:
        raise UserError(f"{path}: values of type {kind}; save them as float16, bfloat16, float32 or float64")
    matrix.checked(path, shape)
    dtype, first = np.dtype(SAFETENSORS[kind]), 8 + length + start
    _whole(path, first, math.prod(shape) * dtype.itemsize)
    read = _row_major(_opener(path, first), path, dtype)
    return matrix.of_array(path, shape, matrix.rows_of(shape[-1], 4 if kind == "BF16" else dtype.itemsize),
                   _widened(read) if kind == "BF16" else read)  # fmt: skip


def _widened(read):
    """bfloat16 is the upper half of a float32; numpy has no such type."""

    def widened(*arguments):
        for chunk in read(*arguments):
            yield (chunk.astype(np.uint32) << 16).view(np.float32)

    return widened


# ---------------------------------------------------------------- torch


def torch_tensors(path, key, drop) -> Matrix:
    tensors, mapped = _load(path)
    name = matrix.pick(path, {name: tuple(tensor.shape) for name, tensor in tensors.items()}, key)
    tensor = tensors[name]
    if tensor.is_complex() or tensor.is_quantized or str(tensor.layout) != "torch.strided":
        raise UserError(f"{path}: a tensor of type {tensor.dtype}, {tensor.layout}; save dense real numbers: "
                        "torch.save(tensor.to_dense().float(), path)")  # fmt: skip
    shape, itemsize = tuple(tensor.shape), tensor.element_size()
    matrix.checked(path, shape)

    def read(views, rows, width, step):
        for view in range(views):
            for start in range(0, rows, step):
                # mapped anew for each chunk (a millisecond): pages that were read leave memory with the old map
                whole = _load(path)[0][name] if mapped else tensor
                part = whole.detach().reshape(views, rows, width)[view, start : start + step]
                yield (part if part.dtype in _numpy_types() else part.float()).numpy().copy()

    return matrix.of_array(path, shape, matrix.rows_of(shape[-1], max(itemsize, 4)), read)


def _numpy_types():
    import torch

    return (torch.float64, torch.float32, torch.float16, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8,
            torch.bool)  # fmt: skip


def _load(path) -> tuple[dict, bool]:
    """Name -> tensor of all tensors in the file, and whether they are mapped; weights_only: nothing is executed."""
    import torch

    mapped = zipfile.is_zipfile(path)  # else saved in torch's format of before 1.6, which is read whole
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what torch says of old pickles and of checks that it makes
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        what = f"holds {found.group(1)}, which needs pickle" if found else "is damaged or needs pickle"
        raise UserError(f"{path}: {what}, and a pickle can run code: save the tensor alone: torch.save(tensor, "
                        "path)") from error  # fmt: skip
    return dict(_tensors(content)), mapped


def _tensors(content, name=""):
    if hasattr(content, "untyped_storage"):
        yield name or "tensor", content
    elif isinstance(content, dict | list | tuple):
        for part, value in content.items() if isinstance(content, dict) else enumerate(content):
            yield from _tensors(value, f"{name}.{part}" if name else str(part))
