"""Feature matrices in files, read some rows at a time: .npy, .npz, .safetensors, .pt, .csv, .parquet, folders of them.

`open_matrix` reads headers only; `Matrix.read` then yields (n, K) arrays of about CHUNK bytes, so memory does not grow
with N. Plain reads and not memory maps: a mapped page that was read counts as resident memory. Nothing here unpickles:
a pickle can run any code. A file that is wrong raises UserError with one line: which file, what, what to do.
"""

import contextlib
import csv
import dataclasses
import itertools
import json
import math
import os
import pickle
import re
import shutil
import struct
import sys
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from replicate.errors import UserError

CHUNK = 32 * 2**20  # bytes of rows read at a time
LISTED = 12  # arrays of a container that an error names
SAFETENSORS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4", "I16": "<i2",
               "I8": "i1", "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1", "BOOL": "?"}  # fmt: skip
KEYED = (".npz", ".pt", ".pth", ".safetensors", ".parquet")  # several arrays in a file
TABLES = (".csv", ".tsv", ".parquet")
HEADER_LIMIT = 100 * 2**20  # bytes of a safetensors header, by its specification
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


def open_matrix(path, key: str | None = None, drop: tuple[str, ...] = ()) -> Matrix:
    """The matrix in a file, or in all files of a folder in sorted order. No row is read yet, the headers are.

    key: which array of an .npz, .pt or .safetensors, or which list column of a .parquet file, where there are several.
    drop: columns of a .csv or .parquet file that are no features. Raises UserError for all that is wrong with the file.
    """
    path = Path(path)
    if path.is_dir():
        return _folder(path, key, drop)
    if not path.exists():
        raise UserError(f"{path}: no such file; give the path of a file of features, or of a folder of them")
    if path.suffix.lower() not in READERS:
        raise UserError(f"{path}: files ending in '{path.suffix}' are not read; save the features as .npy (numpy.save) "
                        f"or as one of {', '.join(sorted(set(READERS) - {'.npy'}))}")  # fmt: skip
    if not path.stat().st_size:
        raise UserError(f"{path}: the file is empty; save the features again")
    for option, given, formats in (("--key", key, KEYED), ("--drop", drop, TABLES)):
        if given and path.suffix.lower() not in formats:
            raise UserError(f"{path}: {option} is for {', '.join(formats)} files; leave it out")
    with _clear_errors(path):
        return READERS[path.suffix.lower()](path, key, drop)


def sample(matrix: Matrix, rows: int, limit: int, chunks: Iterable[np.ndarray] | None = None) -> np.ndarray:
    """At most `limit` of the matrix's `rows` rows, float64, in order: all, or a random part (seed 0).

    Of a stack a (views, samples, K) array with the same samples in each view. `chunks` if it is read already.
    """
    samples = rows // matrix.views
    kept = np.arange(samples)
    if rows > limit:
        kept = np.sort(np.random.default_rng(0).choice(samples, max(limit // matrix.views, 1), replace=False))
    wanted = np.concatenate([kept + view * samples for view in range(matrix.views)])
    array, start = None, 0
    for chunk in chunks or (chunk for chunk, _ in matrix.read()):
        if array is None:
            array = np.empty((len(wanted), matrix.width))  # float64: a later shard may be
        first, last = np.searchsorted(wanted, [start, start + len(chunk)])
        array[first:last] = chunk[wanted[first:last] - start]
        start += len(chunk)
    return array.reshape(matrix.views, len(kept), matrix.width) if matrix.views > 1 else array


@contextlib.contextmanager
def _clear_errors(path):
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


def _matrix(path, shape, step_rows, read) -> Matrix:
    """Matrix of a file whose shape is known; read(): yields arrays. Checks the shape."""
    views, rows, width = _checked(path, shape)
    size = path.stat().st_size

    def counted():
        with _clear_errors(path):
            for chunk in read(views, rows, width, step_rows):
                yield chunk, size * len(chunk) / (views * rows)

    return Matrix(str(path), views * rows, width, views, size, counted)


def _checked(path, shape) -> tuple[int, int, int]:
    """(views, samples, width) of an array's shape."""
    if len(shape) not in (2, 3):
        raise UserError(f"{path}: an array of shape {_text(shape)}; (samples, width) or (views, samples, width) needed")
    if 0 in shape:
        raise UserError(f"{path}: an array of shape {_text(shape)} is empty; save features of at least one sample")
    return (1, *shape) if len(shape) == 2 else tuple(shape)


def _text(shape) -> str:
    return "(" + ", ".join(map(str, shape)) + ("," if len(shape) == 1 else "") + ")"


def _checked_type(path, dtype) -> np.dtype:
    """The dtype if its values are real numbers."""
    if dtype.hasobject:
        raise UserError(f"{path}: holds Python objects, which need pickle, and a pickle can run code: save the array "
                        "as numbers: numpy.save(path, array.astype('float32'))")  # fmt: skip
    if dtype.kind not in "fiub":
        hint = "; of bfloat16, save array.astype('float32')" if dtype.kind == "V" else ""
        raise UserError(f"{path}: values of type {dtype}; real or whole numbers are needed{hint}")
    return dtype


def _rows_of(width: int, itemsize: int) -> int:
    return max(CHUNK // (width * itemsize), 1)


def _pick(path, shapes: dict[str, tuple], key: str | None) -> str:
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
    listing = ", ".join(f"{name} {_text(shape)}" for name, shape in list(shapes.items())[:LISTED])
    more = f" and {len(shapes) - LISTED} more" if len(shapes) > LISTED else ""
    wrong = "holds several arrays" if key is None else f"holds no '{key}'"
    raise UserError(f"{path}: {wrong}; choose one by --key NAME: {listing}{more}")


# ---------------------------------------------------------------- arrays of raw bytes: .npy, .npz, .safetensors


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


def _npy(path, key, drop) -> Matrix:
    with open(path, "rb") as file:
        shape, fortran, dtype = _npy_header(file)
        offset = file.tell()
    _checked(path, shape)
    _checked_type(path, dtype)
    _whole(path, offset, math.prod(shape) * dtype.itemsize)
    reader = _column_major if fortran else _row_major
    return _matrix(path, shape, _rows_of(shape[-1], dtype.itemsize), reader(_opener(path, offset), path, dtype))


def _npz(path, key, drop) -> Matrix:
    headers = {}
    with zipfile.ZipFile(path) as archive:
        for member in archive.namelist():
            if member.endswith(".npy"):
                with archive.open(member) as file:
                    headers[member[:-4]] = _npy_header(file)
    name = _pick(path, {name: header[0] for name, header in headers.items()}, key)
    shape, fortran, dtype = headers[name]
    _checked(path, shape)
    _checked_type(path, dtype)
    reader = _column_major if fortran else _row_major
    return _matrix(path, shape, _rows_of(shape[-1], dtype.itemsize),
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


def _safetensors(path, key, drop) -> Matrix:
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
    shape, kind, start = arrays[_pick(path, {name: array[0] for name, array in arrays.items()}, key)]
    if kind not in SAFETENSORS:
        raise UserError(f"{path}: values of type {kind}; save them as float16, bfloat16, float32 or float64")
    _checked(path, shape)
    dtype, first = np.dtype(SAFETENSORS[kind]), 8 + length + start
    _whole(path, first, math.prod(shape) * dtype.itemsize)
    read = _row_major(_opener(path, first), path, dtype)
    return _matrix(path, shape, _rows_of(shape[-1], 4 if kind == "BF16" else dtype.itemsize),
                   _widened(read) if kind == "BF16" else read)  # fmt: skip


def _widened(read):
    """bfloat16 is the upper half of a float32; numpy has no such type."""

    def widened(*arguments):
        for chunk in read(*arguments):
            yield (chunk.astype(np.uint32) << 16).view(np.float32)

    return widened


# ---------------------------------------------------------------- torch


def _torch(path, key, drop) -> Matrix:
    tensors, mapped = _load(path)
    name = _pick(path, {name: tuple(tensor.shape) for name, tensor in tensors.items()}, key)
    tensor = tensors[name]
    if tensor.is_complex() or tensor.is_quantized or str(tensor.layout) != "torch.strided":
        raise UserError(f"{path}: a tensor of type {tensor.dtype}, {tensor.layout}; save dense real numbers: "
                        "torch.save(tensor.to_dense().float(), path)")  # fmt: skip
    shape, itemsize = tuple(tensor.shape), tensor.element_size()
    _checked(path, shape)

    def read(views, rows, width, step):
        for view in range(views):
            for start in range(0, rows, step):
                # mapped anew for each chunk (a millisecond): pages that were read leave memory with the old map
                whole = _load(path)[0][name] if mapped else tensor
                part = whole.detach().reshape(views, rows, width)[view, start : start + step]
                yield (part if part.dtype in _numpy_types() else part.float()).numpy().copy()

    return _matrix(path, shape, _rows_of(shape[-1], max(itemsize, 4)), read)


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


# ---------------------------------------------------------------- tables: .csv, .parquet


def _csv(path, key, drop) -> Matrix:
    separator, names, header = _csv_head(path)
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise UserError(f"{path}: two columns are called '{twice[0]}': rename one")
    kept = _kept(path, names, drop)
    if header and "" in kept:
        raise UserError(f"{path}: column {names.index('') + 1} has no name, as an index that pandas wrote: leave it "
                        "out by --drop '' if it is no feature, else name it")  # fmt: skip
    return Matrix(str(path), None, len(kept), 1, path.stat().st_size,
                  lambda: _csv_chunks(path, separator, names, kept, header))  # fmt: skip


def _csv_head(path) -> tuple[str, list[str], int]:
    """Separator, column names (numbers from 1 where there is no header) and how many lines the header ends at, or 0.

    A header is a line without numbers, or with text where the next line has a number, or whose numbers are 0, 1, 2, … or
    1, 2, 3, …: the names that programs give to columns without any.
    """
    with open(path, encoding="utf-8-sig", newline="") as file:
        told = ((place, line.strip("\r\n")) for place, line in enumerate(file, 1) if line.strip())
        lines = list(itertools.islice(told, 2))
    if not lines:
        raise UserError(f"{path}: has blank lines only; save the features again")
    first, line = lines[0]
    separator = max(",;\t", key=line.count)
    if separator not in line and " " in line.strip():
        separator = r"\s+"
    fields, below = (_fields(text, separator) for text in (line, lines[-1][1]))
    numbers = [field for field in fields if _is_number(field)]
    counted = len(numbers) > 1 and numbers in ([str(i + start) for i in range(len(numbers))] for start in (0, 1))
    named = any(not _is_number(field) and _is_number(value) for field, value in zip(fields, below))
    if counted or named or not numbers:
        return separator, fields, first
    return separator, [str(place + 1) for place in range(len(fields))], 0


def _fields(line: str, separator: str) -> list[str]:
    fields = line.split() if separator == r"\s+" else next(csv.reader([line], delimiter=separator))
    return [field.strip() for field in fields]


def _is_number(field: str) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True


def _kept(path, names: list[str], drop) -> list[str]:
    unknown = [name for name in drop if name not in names]
    if unknown:
        raise UserError(f"{path}: no column '{unknown[0]}' to leave out; the first are {', '.join(names[:LISTED])}")
    kept = [name for name in names if name not in drop]
    if not kept:
        raise UserError(f"{path}: no column is left; leave fewer out")
    return kept


def _csv_chunks(path, separator, names, kept, header):
    import pandas as pd

    with _clear_errors(path), open(path, "rb") as file:
        # without names or usecols, which would make pandas drop what a row has too much
        try:
            reader = pd.read_csv(file, sep=separator, header=None, skiprows=header, chunksize=_rows_of(len(names), 8),
                                 encoding="utf-8-sig", low_memory=False)  # fmt: skip
        except pd.errors.EmptyDataError:
            raise UserError(f"{path}: has a header and no rows; save the features again") from None
        before = 0
        for frame in reader:
            if frame.shape[1] != len(names):
                raise UserError(f"{path}: {len(names)} names in the header and {frame.shape[1]} columns below it: "
                                "correct the header")  # fmt: skip
            frame.columns = names
            for name in kept:
                if frame[name].dtype.kind not in "fiub":
                    _not_numeric(path, frame[name])
            if not before:
                _whole_numbers(path, {name: frame[name].dtype.kind for name in kept})
            done = file.tell()
            yield frame[kept].to_numpy(dtype=np.float64), done - before
            before = done


def _not_numeric(path, column) -> None:
    import pandas as pd

    bad = column[pd.to_numeric(column, errors="coerce").isna() & column.notna()]
    value = f", such as '{str(bad.iloc[0])[:30]}'" if len(bad) else ""
    raise UserError(f"{path}: column '{column.name}' holds text{value}: leave it out by --drop '{column.name}'")


def _whole_numbers(path, kinds: dict[str, str]) -> None:
    """Say so where one or two columns of whole numbers stand among others: labels or indices, by the look of them."""
    whole = [name for name, kind in kinds.items() if kind != "f"]
    if 0 < len(whole) <= 2 and len(whole) < len(kinds) / 2:
        print(f"{path}: column {' and '.join(whole)} holds whole numbers, unlike the others; it counts as a feature "
              f"unless left out by --drop {','.join(whole)}", file=sys.stderr)  # fmt: skip


def _parquet(path, key, drop) -> Matrix:
    import pyarrow as pa
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path) as file:
        schema, rows = file.schema_arrow, file.metadata.num_rows
    kept = [field for field in schema if field.name in _kept(path, schema.names, drop)]
    lists = {field.name: () for field in kept if _is_list(pa.types, field.type)}
    if key is not None and key not in lists:
        raise UserError(f"{path}: no column '{key}' of lists of numbers; there are {', '.join(lists) or 'none'}")
    if len(lists) > 1 and key is None:
        listing = ", ".join(list(lists)[:LISTED])
        raise UserError(f"{path}: several columns of lists; choose one by --key NAME: {listing}")
    if not rows:
        raise UserError(f"{path}: has no rows; save the features again")
    if lists:
        return _list_column(path, key or next(iter(lists)), rows)
    for field in kept:
        if not _is_real(pa.types, field.type):
            raise UserError(f"{path}: column '{field.name}' holds {field.type}: leave it out by --drop '{field.name}'")
    _whole_numbers(path, {field.name: "f" if pa.types.is_floating(field.type) else "i" for field in kept})
    names = [field.name for field in kept]

    def read(views, rows, width, step):
        for batch in _batches(path, names, step):
            yield np.column_stack([batch.column(name).to_numpy(zero_copy_only=False) for name in names])

    return _matrix(path, (rows, len(names)), _rows_of(len(names), 8), read)


def _is_real(types, kind) -> bool:
    return types.is_floating(kind) or types.is_integer(kind) or types.is_boolean(kind)


def _is_list(types, kind) -> bool:
    one = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    return one and _is_real(types, kind.value_type)


def _batches(path, names, rows):
    """Streamed: neither the file nor a row group is held whole, but some 3 MB a column are."""
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path, buffer_size=2**16, pre_buffer=False) as file:
        yield from file.iter_batches(batch_size=rows, columns=names)


def _list_column(path, name, rows) -> Matrix:
    width = len(next(_batches(path, [name], 1)).column(0)[0].as_py() or ())
    if not width:
        raise UserError(f"{path}: the first list of column '{name}' is empty; one list of one length a row is needed")

    def read(views, rows, width, step):
        for batch in _batches(path, [name], step):
            column = batch.column(0)
            values = column.flatten()
            lengths = column.value_lengths().to_numpy(zero_copy_only=False)
            if column.null_count or (lengths != width).any():
                raise UserError(f"{path}: the lists of column '{name}' differ in length; one length is needed")
            yield values.to_numpy(zero_copy_only=False).reshape(len(column), width)

    return _matrix(path, (rows, width), _rows_of(width, 8), read)


# ---------------------------------------------------------------- folders


def _folder(path, key, drop) -> Matrix:
    """All files of a folder whose format is read, in sorted order, as one matrix."""
    names = sorted(name for name in os.listdir(path) if not name.startswith("."))
    files = [path / name for name in names if Path(name).suffix.lower() in READERS]
    if not files:
        raise UserError(f"{path}: no file of features in this folder; they end in {', '.join(sorted(READERS))}")
    if len(files) < len(names):
        others = ", ".join(sorted(set(names) - {one.name for one in files}))
        print(f"{path}: {len(files)} files of features; left out: {others[:100]}", file=sys.stderr)
    shards = [open_matrix(one, key, drop) for one in files]
    for shard in shards:
        if shard.width != shards[0].width:
            raise UserError(f"{path}: {Path(shard.path).name} has width {shard.width} and {files[0].name} "
                            f"{shards[0].width}; the files of one folder make one matrix: give files of different "
                            "widths one by one")  # fmt: skip
        if len(shards) > 1 and shard.views > 1:
            raise UserError(f"{shard.path}: a stack of views in a folder of several files; give it by itself")
    rows = None if any(shard.rows is None for shard in shards) else sum(shard.rows for shard in shards)

    def read():
        for shard in shards:
            yield from shard.read()

    return Matrix(str(path), rows, shards[0].width, shards[0].views, sum(shard.size for shard in shards), read)


READERS = {".npy": _npy, ".npz": _npz, ".safetensors": _safetensors, ".pt": _torch, ".pth": _torch, ".csv": _csv,
           ".tsv": _csv, ".parquet": _parquet}  # fmt: skip
