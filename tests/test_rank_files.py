"""Features in files: every format gives back the array that was written, and what is wrong is said in one line."""

import io
import json
import os
import pickle
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from replicate import paths
from replicate.errors import UserError
from replicate.rank import files, matrix, spectrum

RNG = np.random.default_rng(0)
X = (RNG.standard_normal((90, 7)) * np.arange(1, 8) ** -0.5).astype(np.float32)
HALF = X.astype(np.float16)


def read(path, *arguments) -> np.ndarray:
    return np.concatenate([chunk for chunk, _ in files.open_matrix(path, *arguments).read()])


def error(path, *arguments) -> str:
    with pytest.raises(UserError) as raised:
        read(path, *arguments)
    text = str(raised.value)
    assert str(path) in text and "\n" not in text and len(text) < 600
    return text


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """Eleven rows at a time, so that reads end inside, at and after chunks."""
    monkeypatch.setattr(matrix, "rows_of", lambda width, itemsize: 11)


# ---------------------------------------------------------------- formats


@pytest.mark.parametrize("dtype", ["<f4", "<f8", ">f4", "<f2", "i1", "<i4", "<u8", "?"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npy(tmp_path, dtype, order):
    array = np.asarray(X * 10 if np.dtype(dtype).kind in "iu" else X, order=order)
    array = (np.abs(array) if dtype == "<u8" else array).astype(dtype)
    np.save(tmp_path / "x.npy", array)
    matrix = files.open_matrix(tmp_path / "x.npy")
    assert (matrix.rows, matrix.width, matrix.views) == (90, 7, 1)
    parts = list(matrix.read())
    assert [len(part) for part, _ in parts] == [11] * 8 + [2]
    assert sum(size for _, size in parts) == pytest.approx(matrix.size)
    np.testing.assert_array_equal(np.concatenate([part for part, _ in parts]), array)
    gram = spectrum.Gram(7)
    for part, _ in parts:
        gram.update(part)
    whole = spectrum.of(array).singular_values
    np.testing.assert_allclose(gram.spectrum().singular_values, whole, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_stack_of_views_is_read_view_after_view(tmp_path, order):
    views = np.asarray(X[:84].reshape(3, 28, 7), order=order)
    np.save(tmp_path / "x.npy", views)
    matrix = files.open_matrix(tmp_path / "x.npy")
    assert (matrix.rows, matrix.width, matrix.views) == (84, 7, 3)
    np.testing.assert_array_equal(read(tmp_path / "x.npy"), X[:84])
    np.testing.assert_array_equal(files.sample(matrix, 84, 84), views)
    part = files.sample(matrix, 84, 30)
    assert part.shape == (3, 10, 7)
    kept = [int(np.flatnonzero((views[0] == row).all(axis=1))[0]) for row in part[0]]
    assert kept == sorted(set(kept)) and kept != list(range(10))
    np.testing.assert_array_equal(part, views[:, kept])


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npz_takes_the_only_matrix_or_the_one_that_is_named(tmp_path, save, order):
    save(tmp_path / "one.npz", features=np.asarray(X, order=order), labels=np.arange(90))
    np.testing.assert_array_equal(read(tmp_path / "one.npz"), X)
    save(tmp_path / "two.npz", a=X, b=np.asarray(HALF, order=order), c=np.zeros(3))
    np.testing.assert_array_equal(read(tmp_path / "two.npz", "b"), HALF)
    said = error(tmp_path / "two.npz")
    assert "--key" in said and "a (90, 7)" in said and "b (90, 7)" in said and "c (3,)" in said
    assert "no 'd'" in error(tmp_path / "two.npz", "d")


@pytest.mark.parametrize("name", ["x.pt", "x.pth"])
def test_torch(tmp_path, name):
    import torch

    path, x = tmp_path / name, torch.from_numpy(X)
    labels = torch.arange(90)
    for content in (x, {"out": x, "labels": labels}, {"a": {"b": x.requires_grad_()}}, [x], torch.nn.Parameter(x)):
        torch.save(content, path)
        np.testing.assert_array_equal(read(path), X)
    torch.save({"a": x, "b": x.t().contiguous().t() * 2}, path)
    np.testing.assert_array_equal(read(path, "b"), X * 2)
    assert "a (90, 7), b (90, 7)" in error(path)
    torch.save(x.bfloat16(), path)
    np.testing.assert_array_equal(read(path), x.bfloat16().float().detach().numpy())
    torch.save(x.half(), path)
    np.testing.assert_array_equal(read(path), HALF)
    torch.save(x, path, _use_new_zipfile_serialization=False)
    np.testing.assert_array_equal(read(path), X)
    torch.save(x.detach().to_sparse(), path)
    assert "to_dense" in error(path)


def test_safetensors(tmp_path):
    torch = pytest.importorskip("torch")
    save_file = pytest.importorskip("safetensors.torch").save_file

    path, x = tmp_path / "x.safetensors", torch.from_numpy(X)
    save_file({"x": x, "labels": torch.arange(90)}, path, metadata={"format": "pt"})
    np.testing.assert_array_equal(read(path), X)
    save_file({"one": x, "two": x.bfloat16(), "three": x.half(), "whole": (x * 9).int()}, path)
    np.testing.assert_array_equal(read(path, "two"), x.bfloat16().float().numpy())
    np.testing.assert_array_equal(read(path, "three"), HALF)
    np.testing.assert_array_equal(read(path, "whole"), (X * 9).astype(np.int32))
    assert "one (90, 7)" in error(path)
    save_file({"x": x.to(torch.float8_e5m2)}, path)
    assert "F8_E5M2" in error(path)


@pytest.mark.parametrize("separator", [",", ";", "\t", " "])
@pytest.mark.parametrize("header", [None, "a{0}b{0}c{0}d{0}e{0}f{0}g", "0{0}1{0}2{0}3{0}4{0}5{0}6",
                                    "1{0}2{0}3{0}4{0}5{0}6{0}7", "x{0}2{0}9{0}3{0}4{0}5{0}6"])  # fmt: skip
def test_csv(tmp_path, separator, header):
    path = tmp_path / "x.csv"
    lines = [separator.join(repr(float(value)) for value in row) for row in X]
    path.write_text("\n".join(([header.format(separator)] if header else []) + lines))
    matrix = files.open_matrix(path)
    assert (matrix.rows, matrix.width) == (None, 7)
    np.testing.assert_array_equal(read(path), X.astype(np.float64))
    assert sum(size for _, size in matrix.read()) == pytest.approx(matrix.size, rel=0.01)
    np.testing.assert_array_equal(files.sample(matrix, 90, 90), X)


def test_csv_says_which_column_is_no_feature_and_how_to_leave_it_out(tmp_path, capsys):
    path = tmp_path / "x.csv"
    path.write_text("id,label,u,v,w\n" + "".join(f"image{i},{i % 3},{i / 7},{i / 3},.5\n" for i in range(30)))
    said = error(path)
    assert "'id'" in said and "--drop 'id'" in said and "image0" in said
    assert read(path, None, ("id",)).shape == (30, 4)
    assert "label" in capsys.readouterr().err
    assert read(path, None, ("id", "label")).shape == (30, 3)
    assert capsys.readouterr().err == ""
    assert "no column 'x'" in error(path, None, ("x",))


def test_csv_of_pandas_with_its_index_is_not_taken_for_features(tmp_path):
    import pandas as pd

    path = tmp_path / "x.csv"
    pd.DataFrame(X).to_csv(path)
    assert "--drop ''" in error(path)
    np.testing.assert_allclose(read(path, None, ("",)), X, rtol=1e-6)
    pd.DataFrame(X).to_csv(path, index=False)
    assert read(path).shape == (90, 7)  # the header 0,1,2,... is no row


@pytest.mark.parametrize(("text", "said"), [
    ("a,b\n1,2\n3,4,5\n", "line"), ("a,b\n1,2,3\n4,5,6\n", "correct the header"), ("a,b\n", "no rows"),
    (" \n\n", "blank"), ("a,a\n1,2\n", "rename"), ("a,b\n1,x\n", "'x'"), ("1,2\n3,\xff\n", "'2'"),
])  # fmt: skip
def test_csv_that_is_wrong(tmp_path, text, said):
    path = tmp_path / "x.csv"
    path.write_text(text, encoding="utf-8")
    assert said in error(path)


def test_csv_that_is_no_text(tmp_path):
    (tmp_path / "x.csv").write_bytes(b"\xff\xfe\x00\x01" * 9)
    assert "could not be read" in error(tmp_path / "x.csv")


def test_parquet(tmp_path):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "x.parquet"
    columns = {f"f{k}": X[:, k] for k in range(7)}
    pq.write_table(pa.table(columns), path, row_group_size=40)
    np.testing.assert_array_equal(read(path), X)
    pq.write_table(pa.table({"id": [str(i) for i in range(90)], **columns}), path)
    assert "--drop 'id'" in error(path)
    np.testing.assert_array_equal(read(path, None, ("id",)), X)
    lists = pa.array(list(X), type=pa.list_(pa.float32()))
    fixed = pa.FixedSizeListArray.from_arrays(pa.array(HALF.ravel()), 7)
    for column, wanted in ((lists, X), (fixed, HALF)):
        pq.write_table(pa.table({"id": [str(i) for i in range(90)], "features": column}), path, row_group_size=40)
        assert files.open_matrix(path).rows == 90
        np.testing.assert_array_equal(read(path), wanted)
    pq.write_table(pa.table({"a": lists, "b": fixed}), path)
    assert "a, b" in error(path)
    np.testing.assert_array_equal(read(path, "b"), HALF)
    pq.write_table(pa.table({"a": pa.array([[1.0, 2.0], [3.0]])}), path)
    assert "differ in length" in error(path)
    pq.write_table(pa.table(columns).slice(0, 0), path)
    assert "no rows" in error(path)


def test_a_folder_is_one_matrix_in_sorted_order(tmp_path, capsys):
    np.save(tmp_path / "b.npy", X[40:])
    np.savez(tmp_path / "a.npz", X[:40])
    (tmp_path / "notes.md").write_text("x")
    (tmp_path / ".hidden.npy").write_text("x")
    np.testing.assert_array_equal(read(tmp_path), X)
    assert "notes.md" in capsys.readouterr().err
    assert files.open_matrix(tmp_path).rows == 90
    np.save(tmp_path / "c.npy", X[:, :5])
    said = error(tmp_path)
    assert "c.npy has width 5" in said and "a.npz 7" in said


# ---------------------------------------------------------------- what is wrong


def test_pickles_are_refused_and_never_run(tmp_path):
    import torch

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "executed"),)

    objects = np.array([[Evil()] * 3] * 2, dtype=object)
    np.save(tmp_path / "x.npy", objects, allow_pickle=True)
    np.savez(tmp_path / "x.npz", objects)
    torch.save({"x": torch.zeros(3, 3), "y": Evil()}, tmp_path / "x.pt")
    (tmp_path / "y.pt").write_bytes(pickle.dumps(Evil()))
    (tmp_path / "y.npy").write_bytes(pickle.dumps(Evil()))
    for name in ("x.npy", "x.npz", "x.pt", "y.pt"):
        assert "pickle" in error(tmp_path / name)
    assert "mkdir" in error(tmp_path / "x.pt")
    error(tmp_path / "y.npy")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(("array", "said"), [
    (np.zeros(5), "(5,)"), (np.zeros((2, 2, 2, 2)), "(2, 2, 2, 2)"), (np.zeros((0, 5)), "empty"),
    (np.zeros((5, 0)), "empty"), (np.zeros((2, 2), complex), "complex128"), (np.array([["a", "b"]]), "<U1"),
    (np.zeros((2, 2), "M8[s]"), "datetime64"), (np.zeros((2, 2), "V2"), "bfloat16"), (np.zeros((), "f4"), "()"),
    (np.zeros((3, 3), [("日", "f4")]), "npy version"),
])  # fmt: skip
@pytest.mark.filterwarnings("ignore:Stored array in format 3.0")
def test_arrays_that_are_no_features(tmp_path, array, said):
    np.save(tmp_path / "x.npy", array)
    assert said in error(tmp_path / "x.npy")


def saved(name: str, path) -> None:
    """A good file of the format, with enough in it to cut in half."""
    big = RNG.standard_normal((500, 7)).astype(np.float32)
    if name.endswith(".npy"):
        np.save(path, big)
    elif name.endswith(".npz"):
        np.savez(path, big)
    elif name.endswith(".pt"):
        pytest.importorskip("torch").save(pytest.importorskip("torch").from_numpy(big), path)
    elif name.endswith(".parquet"):
        pa = pytest.importorskip("pyarrow")
        pytest.importorskip("pyarrow.parquet").write_table(pa.table({f"f{k}": big[:, k] for k in range(7)}), path)
    else:
        pytest.importorskip("safetensors.numpy").save_file({"x": big}, path)


@pytest.mark.parametrize("name", ["x.npy", "x.npz", "x.pt", "x.safetensors", "x.parquet"])
@pytest.mark.parametrize("kept", [0, 5, 60, 0.5, -1])
def test_files_cut_short(tmp_path, name, kept):
    path = tmp_path / name
    saved(name, path)
    assert len(read(path)) == 500
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content)) if isinstance(kept, float) else kept])
    error(path)
    if name in ("x.npy", "x.safetensors"):  # found before anything is computed
        with pytest.raises(UserError):
            files.open_matrix(path)


def test_a_damaged_member_of_an_archive(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, X)
    content = bytearray(path.read_bytes())
    content[1000] ^= 255
    path.write_bytes(bytes(content))
    assert "CRC" in error(path)


def test_an_archive_that_promises_more_rows_than_it_has(tmp_path):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"shape": (100, 7), "fortran_order": False, "descr": "<f4"})
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("x.npy", header.getvalue() + X.tobytes())
    assert "ends before" in error(tmp_path / "x.npz")


@pytest.mark.parametrize("header", [b"[1, 2]", b'{"x": 3}', b'{"x": {"shape": [2, 2]}}', b"{", b"{}",
                                    b'{"x": {"shape": [2, 2], "dtype": "F32", "data_offsets": []}}'])  # fmt: skip
def test_a_safetensors_header_that_is_wrong(tmp_path, header):
    (tmp_path / "x.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(16))
    error(tmp_path / "x.safetensors")


def test_paths_that_are_wrong(tmp_path):
    assert "no such file" in error(tmp_path / "x.npy")
    (tmp_path / "x.h5").write_text("x")
    assert ".h5" in error(tmp_path / "x.h5") and ".npy" in error(tmp_path / "x.h5")
    (tmp_path / "empty").mkdir()
    assert "no file of features" in error(tmp_path / "empty")


# ---------------------------------------------------------------- memory and start-up


def sparse_npy(path, rows: int, width: int) -> np.ndarray:
    """A file of zeros, which takes no disk, but for 100 random rows spread over it; returns those."""
    some = RNG.standard_normal((100, width)).astype(np.float32)
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"shape": (rows, width), "fortran_order": False, "descr": "<f4"})
        start = file.tell()
        for place, row in enumerate(some):
            file.seek(start + place * (rows // 100) * width * 4)
            file.write(row.tobytes())
        file.truncate(start + rows * width * 4)
    return some


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="the peak of a process's memory is read from /proc")
def test_memory_does_not_grow_with_the_file(tmp_path):
    rows, width = 2_000_000, 64  # 512 MB
    some = sparse_npy(tmp_path / "x.npy", rows, width)
    # VmHWM and not ru_maxrss, which a process inherits from the one that started it
    code = ("import sys; from replicate.__main__ import main; status = main(['rank', sys.argv[1], '--json']); "
            "print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0], file=sys.stderr); "
            "sys.exit(status)")  # fmt: skip
    command = [sys.executable, "-c", code, str(tmp_path / "x.npy")]
    done = subprocess.run(command, cwd=paths.ROOT, capture_output=True, text=True, check=True)
    (row,) = json.loads(done.stdout)
    from replicate.rank import estimators

    assert row["value"] == pytest.approx(estimators.rankme(spectrum.of(some).singular_values), rel=1e-9)
    assert row["n_samples"] == rows
    # KB: Python, numpy, scipy and three chunks; the file would be 500 MB more
    assert int(done.stderr.split()[-1]) < 300 * 1024


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="mapped memory is read from /proc")
def test_pages_of_a_mapped_file_leave_memory_again(tmp_path, monkeypatch):
    import torch

    torch.save(torch.zeros(2**24, 4), tmp_path / "x.pt")  # 256 MB
    monkeypatch.setattr(matrix, "rows_of", lambda width, itemsize: 2**20)  # 16 MB

    def mapped() -> int:
        with open("/proc/self/status", encoding="ascii") as status:
            return int(status.read().split("RssFile:")[1].split()[0]) // 1024

    before = mapped()
    assert max(mapped() for _ in files.open_matrix(tmp_path / "x.pt").read()) < before + 64


def test_a_npy_file_needs_neither_torch_nor_pandas(tmp_path):
    np.save(tmp_path / "x.npy", X)
    code = ("import sys; from replicate.__main__ import main; main(['rank', sys.argv[1]]); "
            "sys.exit(any(name in sys.modules for name in ('torch', 'pandas', 'matplotlib', 'yaml')))")
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path / "x.npy")], cwd=paths.ROOT).returncode == 0


def test_a_text_column_beside_numbered_ones(tmp_path):
    (tmp_path / "x.csv").write_text("name,0,1,2\n" + "".join(f"image{i},{i / 7},{i / 3},.5\n" for i in range(30)))
    assert read(tmp_path / "x.csv", None, ("name",)).shape == (30, 3)
    with pytest.raises(UserError, match="--drop 'name'"):
        read(tmp_path / "x.csv")


def test_options_that_do_not_fit_the_file_are_errors(tmp_path):
    np.save(tmp_path / "x.npy", X)
    for arguments, said in ((("a", ()), "--key"), ((None, ("a",)), "--drop")):
        with pytest.raises(UserError, match=said):
            files.open_matrix(tmp_path / "x.npy", *arguments)


def test_a_stack_in_a_folder_of_others_is_an_error(tmp_path):
    np.save(tmp_path / "a.npy", X)
    np.save(tmp_path / "b.npy", np.stack([X, X]))
    with pytest.raises(UserError, match="b.npy.*by itself"):
        files.open_matrix(tmp_path)
