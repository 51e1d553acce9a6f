"""What a data set consists of, read from its official layout: one function a kind, a Listing each, no image opened.

The lists that come with a set are checked, not believed: a path may not leave the set's folder, a label has to be one,
and a pickle is read by an unpickler that can make lists, numbers, text and bytes only.
"""

import gzip
import json
import os
import pickle
import random
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from replicate.errors import UserError

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".pgm", ".tif", ".tiff", ".webp", ".gif"}
Complain = Callable[[str], None]  # takes one line on one entry of a list, which is left out unless this raises


@dataclass
class Split:
    """Image files relative to the set's folder, with '/', in class order then name order, and their labels.

    labels: N integers; of a multi-label set N rows of C integers: 1 present, 0 absent, -1 only difficult instances,
    and the files are in the order of their list.
    """

    files: list[str]
    labels: list


@dataclass
class Listing:
    """What a set consists of before an image is opened: its folder, its classes in label order, its two splits.

    unused: images that the split leaves out, None where it has no such. arrays: the files are rows of files of many
    images, as 'data_batch_1#17'.
    """

    root: Path
    classes: list[str]
    train: Split
    val: Split
    unused: int | None = None
    multilabel: bool = False
    arrays: bool = False

    def sizes(self) -> list[list]:
        """[[file, bytes], …] of both splits: what a fingerprint needs, without reading an image.

        Raises UserError for a file that is not there after all, such as a link to nothing.
        """
        files = self.train.files + self.val.files
        if self.arrays:
            files = sorted({file.split("#")[0] for file in files})
        try:
            return [[file, os.stat(f"{self.root}/{file}").st_size] for file in files]
        except OSError as problem:
            raise UserError(f"{problem.filename}: cannot be read ({problem.strerror})") from None


def stop(message: str) -> None:
    """The usual Complain: the first wrong entry is the end."""
    raise UserError(message)


def read(root: Path, layout: dict, complain: Complain = stop) -> Listing:
    """List the set in folder `root` that has a manifest's layout.

    Entries of its lists that are malformed, point outside, or name a file that is not there go to `complain`, one line
    each. Raises UserError where the lists themselves are not readable, or a folder has not what the layout says.
    """
    return KINDS[layout["kind"]](root, layout, complain)


# ---- images in folders ----------------------------------------------------------------------------------------------


def imagefolder(root: Path, layout: dict, complain: Complain) -> Listing:
    """<train>/<class>/**, <val>/<class>/**: classes sorted by name, as torchvision's ImageFolder orders them."""
    names = {part: layout.get(part, part) for part in ("train", "val")}
    classes = {part: _folders(root / name) for part, name in names.items()}
    if classes["train"] != classes["val"]:
        odd = sorted(set(classes["train"]) ^ set(classes["val"]))[0]
        raise UserError(f"{root}: class {odd!r} is only in one of {names['train']}/ and {names['val']}/; both need all")
    if not classes["train"]:
        raise UserError(f"{root / names['train']}: no class folders in it; expected {names['train']}/<class>/<images>")
    splits = {part: _in_class_order([_images(root, f"{name}/{one}") for one in classes[part]])
              for part, name in names.items()}  # fmt: skip
    return Listing(root, classes["train"], **splits)


def tiny_imagenet(root: Path, layout: dict, complain: Complain) -> Listing:
    """train/<wnid>/images/*.JPEG; val/images/*.JPEG with val/val_annotations.txt; wnids.txt orders the classes."""
    classes = _lines(root / "wnids.txt")
    strange = sorted(set(classes) - set(_folders(root / "train")))
    if strange:
        raise UserError(f"{root / 'wnids.txt'}: {strange[0]!r} is no folder of {root / 'train'}; "
                        "unpack the archive again")
    train = _in_class_order([_images(root, f"train/{wnid}") for wnid in classes])
    annotations, number = root / "val" / "val_annotations.txt", {wnid: i for i, wnid in enumerate(classes)}
    val = []
    for line, text in enumerate(_lines(annotations), start=1):
        fields = text.split("\t")
        if len(fields) < 2 or fields[1] not in number:
            complain(f"{annotations}, line {line}: expected '<file> <wnid> <box>' with a wnid of wnids.txt")
            continue
        val.append((f"line {line}", f"val/images/{fields[0]}", number[fields[1]]))
    return Listing(root, classes, train, _by_class(_checked(root, annotations, val, len(classes), complain)))


def eurosat(root: Path, layout: dict, complain: Complain) -> Listing:
    """<Class>/<Class>_<n>.jpg, split as VISSL's create_euro_sat_data_files.py: by name, first 1000, then next 500."""
    classes = _folders(root)
    n_train, n_val = layout["train_per_class"], layout["val_per_class"]
    images = [_images(root, name) for name in classes]
    for name, files in zip(classes, images, strict=True):
        if len(files) < n_train + n_val:
            raise UserError(f"{root / name}: {len(files)} images, the split needs {n_train + n_val}; "
                            "unpack the whole archive again")
    train, val = [one[:n_train] for one in images], [one[n_train : n_train + n_val] for one in images]
    unused = sum(map(len, images)) - len(classes) * (n_train + n_val)
    return Listing(root, classes, _in_class_order(train), _in_class_order(val), unused)


def sun397(root: Path, layout: dict, complain: Complain) -> Listing:
    """ClassName.txt, rows /<letter>/<class>[/<sub>], each a folder of sun_*.jpg; 70 % train, 10 % val, 20 % unused.

    VISSL shuffles os.listdir, whose order depends on the file system. Here one random.Random(0) goes through the
    classes in the order of ClassName.txt and shuffles each one's sorted names: first round(0.7 n), next round(0.1 n).
    """
    source, rng = root / "ClassName.txt", random.Random(0)
    classes, train, val, unused = [], [], [], 0
    for line, text in enumerate(_lines(source), start=1):
        folder = text.lstrip("/")
        if not is_inside(folder) or not (root / folder).is_dir():
            raise UserError(f"{source}, line {line}: {text!r} is no folder of {root}; unpack the archive again")
        files = sorted(f"{folder}/{file}" for file in os.listdir(root / folder)
                       if file.startswith("sun_") and file.endswith(".jpg"))
        rng.shuffle(files)
        n_train, n_val = round(0.7 * len(files)), round(0.1 * len(files))
        classes.append(folder.split("/", 1)[-1])
        train.append(sorted(files[:n_train]))
        val.append(sorted(files[n_train : n_train + n_val]))
        unused += len(files) - n_train - n_val
    return Listing(root, classes, _in_class_order(train), _in_class_order(val), unused)


# ---- lists of images ------------------------------------------------------------------------------------------------


def imagenet_list(root: Path, layout: dict, complain: Complain) -> Listing:
    """ImageNet's folders {train,val}/<wnid>, the training images cut down to a list of <wnid>_<n>.JPEG (SimCLR's)."""
    source, images = root / layout["list"], layout["images"]
    classes = _folders(root / images / "train")
    number, rows = {wnid: i for i, wnid in enumerate(classes)}, []
    for line, file in enumerate(_lines(source), start=1):
        wnid = file.split("_")[0]
        rows.append((f"line {line}", f"{images}/train/{wnid}/{file}", number.get(wnid, wnid)))
    val = _in_class_order([_images(root, f"{images}/val/{one}") for one in classes])
    return Listing(root, classes, _by_class(_checked(root, source, rows, len(classes), complain)), val)


def inat18(root: Path, layout: dict, complain: Complain) -> Listing:
    """train2018.json, val2018.json; label = the class id in train_val2018/<group>/<class id>/<file>, as VISSL's."""
    rows = {}
    for part in ("train", "val"):
        source = root / f"{part}2018.json"
        files = _json(source, "images", lambda entry: (str(entry["file_name"]),))
        rows[part] = [(f"image {i}", file, _number((file.split("/") + [file] * 3)[2]))
                      for i, (file,) in enumerate(files)]  # fmt: skip
    n = len({label for _, _, label in rows["train"] if isinstance(label, int)})
    splits = {part: _by_class(_checked(root, root / f"{part}2018.json", found, n, complain))
              for part, found in rows.items()}  # fmt: skip
    return Listing(root, [str(i) for i in range(n)], **splits)


def places205(root: Path, layout: dict, complain: Complain) -> Listing:
    """trainvalsplit_places205/{train,val}_places205.csv, rows '<path> <label>' of images256/<letter>/<class>/*.jpg."""
    base, splits = "data/vision/torralba/deeplearning/images256", {}
    names: dict[int, str] = {}
    for part in ("train", "val"):
        source = root / "trainvalsplit_places205" / f"{part}_places205.csv"
        rows = []
        for line, text in enumerate(_lines(source), start=1):
            path, _, label = text.rpartition(" ")
            rows.append((f"line {line}", f"{base}/{path.strip()}", _number(label)))
        if part == "train":
            for _, path, label in rows:
                names.setdefault(label, "/".join(path[len(base) + 1 :].split("/")[1:-1]))
            n = sum(isinstance(label, int) for label in names)
        splits[part] = _by_class(_checked(root, source, rows, n, complain))
    return Listing(root, [names.get(label, str(label)) for label in range(n)], **splits)


def food101(root: Path, layout: dict, complain: Complain) -> Listing:
    """images/<class>/<id>.jpg by meta/{train,test}.txt, rows '<class>/<id>'; meta/classes.txt orders the classes."""
    classes = _lines(root / "meta" / "classes.txt")
    number, splits = {name: i for i, name in enumerate(classes)}, []
    for part in ("train", "test"):
        source = root / "meta" / f"{part}.txt"
        rows = [(f"line {line}", f"images/{text}.jpg", number.get(text.split("/")[0], text))
                for line, text in enumerate(_lines(source), start=1)]  # fmt: skip
        splits.append(_by_class(_checked(root, source, rows, len(classes), complain)))
    return Listing(root, classes, *splits)


def clevr(root: Path, layout: dict, complain: Complain) -> Listing:
    """scenes/CLEVR_<part>_scenes.json; a scene's label is its number of objects; counts not in train are left out.

    Classes count_3 … count_10 in numeric order (VISSL's names; its ImageFolder would sort count_10 first).
    """
    scenes = {}
    for part in ("train", "val"):
        source = root / "scenes" / f"CLEVR_{part}_scenes.json"
        scenes[part] = _json(source, "scenes", lambda entry: (entry["image_filename"], len(entry["objects"])))
    counts = sorted({count for _, count in scenes["train"]})
    splits = {}
    for part, found in scenes.items():
        rows = [(f"scene {i}", f"images/{part}/{file}", counts.index(count))
                for i, (file, count) in enumerate(found) if count in counts]  # fmt: skip
        source = root / "scenes" / f"CLEVR_{part}_scenes.json"
        splits[part] = _by_class(_checked(root, source, rows, len(counts), complain))
    return Listing(root, [f"count_{count}" for count in counts], **splits)


def cars(root: Path, layout: dict, complain: Complain) -> Listing:
    """cars_{train,test}/*.jpg by devkit/cars_train_annos.mat and cars_test_annos_withlabels.mat; classes from 1."""
    classes = [str(name) for name in _mat(root / "devkit" / "cars_meta.mat", "class_names")]
    splits = []
    for folder, source in (("cars_train", root / "devkit" / "cars_train_annos.mat"),
                           ("cars_test", root / "cars_test_annos_withlabels.mat")):
        annotations = _mat(source, "annotations")
        if not {"fname", "class"} <= set(annotations.dtype.names or ()):
            raise UserError(f"{source}: annotations without 'fname' and 'class'; restore it from the set's archive")
        rows = [(f"row {i}", f"{folder}/{one['fname']}", _number(one["class"], less=1))
                for i, one in enumerate(annotations, start=1)]  # fmt: skip
        splits.append(_by_class(_checked(root, source, rows, len(classes), complain)))
    return Listing(root, classes, *splits)


def voc(root: Path, layout: dict, complain: Complain) -> Listing:
    """<year>/ImageSets/Main/<class>_<list>.txt, rows '<image> 1 | -1 | 0': present, absent, only difficult ones.

    Multi-label; in a Split 1, 0 and -1, as VISSL's pascal_voc.py writes them. layout: train, val: lists such as
    VOC2007/trainval; annotations: whether each image needs its Annotations/<image>.xml, as a detector does.
    """
    year, name = layout["train"][0].split("/")
    found = (root / year / "ImageSets" / "Main").glob(f"*_{name}.txt")
    classes = sorted(path.name.removesuffix(f"_{name}.txt") for path in found)
    splits = {}
    for part in ("train", "val"):
        files, labels = [], []
        for one in layout[part]:
            images, targets = _voc_list(root, *one.split("/"), classes, layout.get("annotations", False), complain)
            files += images
            labels += targets
        splits[part] = Split(files, labels)
    return Listing(root, classes, **splits, multilabel=True)


def _voc_list(root: Path, year: str, name: str, classes: list[str], annotations: bool, complain: Complain):
    main, target = root / year / "ImageSets" / "Main", {"1": 1, "-1": 0, "0": -1}
    source = main / f"{name}.txt"
    images = {image: [0] * len(classes) for image in _lines(source)}
    for number, one in enumerate(classes):
        listed = main / f"{one}_{name}.txt"
        lines = _lines(listed)
        for line, text in enumerate(lines, start=1):
            fields = text.split()
            if len(fields) != 2 or fields[0] not in images or fields[1] not in target:
                complain(f"{listed}, line {line}: expected an image of {source.name} and 1, -1 or 0")
                continue
            images[fields[0]][number] = target[fields[1]]
        if len(lines) != len(images):
            complain(f"{listed}: {len(lines)} lines, but {source.name} has {len(images)}; unpack the archive again")
    rows = [(f"line {i}", f"{year}/JPEGImages/{image}.jpg", labels)
            for i, (image, labels) in enumerate(images.items(), start=1)]  # fmt: skip
    if annotations:
        xml = [(where, f"{year}/Annotations/{image}.xml", 0) for (where, _, _), image in zip(rows, images, strict=True)]
        _checked(root, source, xml, 1, complain)
    kept = _checked(root, source, rows, None, complain)
    return [file for file, _ in kept], [labels for _, labels in kept]


# ---- files of many images -------------------------------------------------------------------------------------------


def cifar10(root: Path, layout: dict, complain: Complain) -> Listing:
    """The python version's pickles: data_batch_1 … 5 and test_batch, class names in batches.meta."""
    return _cifar(root, "batches.meta", "label_names", [f"data_batch_{i}" for i in range(1, 6)], "test_batch", "labels")


def cifar100(root: Path, layout: dict, complain: Complain) -> Listing:
    """The python version's pickles: train and test, fine class names in meta."""
    return _cifar(root, "meta", "fine_label_names", ["train"], "test", "fine_labels")


def _cifar(root: Path, meta: str, names: str, train: list[str], test: str, key: str) -> Listing:
    classes, splits = _class_names(root / meta, names), []
    for batches in (train, [test]):
        rows = []
        for batch in batches:
            labels = _of_pickle(root / batch, key, list)
            bad = next((label for label in labels if not _is_label(label, len(classes))), None)
            if bad is not None or len(labels) != len(rows_of(root, batch)):
                raise UserError(f"{root / batch}: {len(labels)} labels that do not fit its images and the "
                                f"{len(classes)} classes; unpack the set's archive again")
            rows += [(f"{batch}#{i}", label) for i, label in enumerate(labels)]
        splits.append(_by_class(rows, by_name=False))
    return Listing(root, classes, *splits, arrays=True)


def _class_names(path: Path, key: str) -> list[str]:
    names = _of_pickle(path, key, list)
    try:
        names = [name.decode() if isinstance(name, bytes) else name for name in names]
    except UnicodeDecodeError:
        names = [None]
    if not all(isinstance(name, str) for name in names):
        raise UserError(f"{path}: its {key} are not all text; unpack the set's archive again")
    return names


def idx(root: Path, layout: dict, complain: Complain) -> Listing:
    """MNIST's files: gzipped {train,t10k}-{images-idx3,labels-idx1}-ubyte.gz; class names are the digits."""
    splits, classes = [], []
    for part in ("train", "t10k"):
        images, source = f"{part}-images-idx3-ubyte.gz", root / f"{part}-labels-idx1-ubyte.gz"
        labels = _idx(source, 1).tolist()
        classes = classes or [str(label) for label in range(max(labels, default=-1) + 1)]
        if max(labels, default=0) >= len(classes) or len(labels) != len(rows_of(root, images)):
            raise UserError(f"{source}: {len(labels)} labels that do not fit the images of {images}; restore both")
        splits.append(_by_class([(f"{images}#{i}", label) for i, label in enumerate(labels)], by_name=False))
    return Listing(root, classes, *splits, arrays=True)


def rows_of(root: Path, file: str) -> np.ndarray:
    """The images of one file of an `arrays` Listing, uint8 (N, H, W) or (N, H, W, 3); UserError if it has none."""
    path = Path(root) / file
    if file.endswith(".gz"):
        return _idx(path, 3)
    data = _of_pickle(path, "data", np.ndarray)
    if data.ndim != 2 or data.shape[1] != 3072:
        raise UserError(f"{path}: data of shape {data.shape}, expected N x 3072; unpack the set's archive again")
    return data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)


def _idx(path: Path, dimensions: int) -> np.ndarray:
    """One gzipped IDX file: two zeros, type 8 (uint8), the number of dimensions, their sizes as big-endian uint32."""
    try:
        with gzip.open(path) as handle:
            head = handle.read(4 + 4 * dimensions)
            shape = [int(size) for size in np.frombuffer(head[4:], ">u4")]
            if head[:4] != bytes([0, 0, 8, dimensions]):
                raise ValueError("not uint8 in the IDX format")
            size = int(np.prod(shape, dtype=object))
            data = handle.read(size + 1) if size < 2**31 else b""
            if len(data) != size:
                raise ValueError(f"its size is not that of {shape}")
    except (OSError, EOFError, ValueError, MemoryError, OverflowError, zlib.error) as problem:
        raise UserError(f"{path}: not readable ({problem}); download it again") from None
    return np.frombuffer(data, np.uint8).reshape(shape)


def _of_pickle(path: Path, key: str, kind: type):
    """One entry of a pickled dict, whose keys may be text or (from Python 2) bytes."""
    with open(path, "rb") as handle:
        try:
            content = _Unpickler(handle, encoding="bytes").load()
            content = {name.decode() if isinstance(name, bytes) else name: value for name, value in content.items()}
            value = content[key].array() if kind is np.ndarray else content[key]
        except Exception as problem:  # whatever a damaged pickle makes of the unpickler
            reason = " ".join(str(problem).split()) or type(problem).__name__
            raise UserError(f"{path}: not a batch of CIFAR ({reason}); unpack the set's archive again") from None
    if not isinstance(value, kind):
        raise UserError(f"{path}: its {key} is no {kind.__name__}; unpack the set's archive again")
    return value


class _Dtype:
    def __init__(self, code="", *_):
        self.code = code.decode() if isinstance(code, bytes) else code

    def __setstate__(self, state):
        pass


class _Array:
    def __init__(self, *_):
        self.state = None

    def __setstate__(self, state):
        self.state = state

    def array(self) -> np.ndarray:
        _, shape, dtype, column_major, data = self.state
        if dtype.code not in ("u1", "|u1") or column_major:
            raise pickle.UnpicklingError(f"an array of {dtype.code}, expected uint8")
        return np.frombuffer(data, np.uint8).reshape(shape)


class _Bytes:  # how Python 3 writes bytes into pickles that Python 2 can read
    def __new__(cls, text, encoding):
        return text.encode("latin1")

    def __setstate__(self, state):  # without one a pickle could set attributes of the class itself
        pass


class _Unpickler(pickle.Unpickler):
    """Knows the names that CIFAR's batches hold, and has a stand-in of its own for each; every other is an error.

    So nothing is imported or called that a file names, not even numpy.
    """

    known = {("numpy.core.multiarray", "_reconstruct"): _Array, ("numpy._core.multiarray", "_reconstruct"): _Array,
             ("numpy", "ndarray"): _Array, ("numpy", "dtype"): _Dtype, ("_codecs", "encode"): _Bytes}  # fmt: skip

    def find_class(self, module, name):
        if (module, name) not in self.known:
            raise pickle.UnpicklingError(f"it wants {module}.{name}, which is not read")
        return self.known[module, name]


# ---- what the readers share -----------------------------------------------------------------------------------------


def is_inside(path: str) -> bool:
    """Whether a relative path with '/' stays below the folder that it is relative to, as it is written."""
    return bool(path) and "\0" not in path and not {"", ".", ".."} & set(path.split("/"))


def _checked(root: Path, source: Path, rows: list[tuple], n_classes: int | None, complain: Complain) -> list[tuple]:
    """(file, label) of the rows (where, file, label) that are inside root, there, and of a label below n_classes.

    n_classes None: labels are not looked at. Each folder is listed once: millions of stat() take minutes.
    """
    listed: dict[str, set[str]] = {}
    kept = []
    for where, file, label in rows:
        folder, _, name = file.rpartition("/")
        if not is_inside(file):
            complain(f"{source}, {where}: {file!r} leaves the set's folder or is no path")
        elif n_classes is not None and not _is_label(label, n_classes):
            complain(f"{source}, {where}: {label!r} is none of the set's {n_classes} classes")
        elif name not in (listed.get(folder) or listed.setdefault(folder, _names(root / folder))):
            complain(f"{root / file}: listed in {source.name} ({where}) but not there; unpack the archive again")
        else:
            kept.append((file, label))
    return kept


def _names(folder: Path) -> set[str]:
    try:
        return set(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return set()


def _is_label(value, n_classes: int) -> bool:
    return isinstance(value, int) and 0 <= value < n_classes


def _number(value, less: int = 0):
    """An integer from the digits of a list, or what stood there."""
    text = str(value)
    return int(text) - less if text.isascii() and text.isdigit() and len(text) < 10 else text


def _lines(path: Path) -> list[str]:
    """Lines of a text file, stripped; empty ones at its end do not count."""
    try:
        return path.read_text(encoding="utf-8").rstrip().splitlines()
    except UnicodeDecodeError as problem:
        raise UserError(f"{path}: not a text file ({problem.reason}); unpack the set's archive again") from None


def _json(path: Path, key: str, pick: Callable[[dict], tuple]) -> list[tuple]:
    """pick(entry) of the entries of a JSON file's list `key`: tuples, which JSON itself has not.

    Entries are reduced while the file is parsed: CLEVR's scenes would take gigabytes as dicts.
    """

    def reduce(entry: dict):
        if key in entry:
            return entry
        try:
            return pick(entry)
        except (KeyError, TypeError):
            return None

    try:
        with open(path, encoding="utf-8") as handle:
            found = json.load(handle, object_hook=reduce)[key]
    except (ValueError, KeyError, TypeError, RecursionError) as problem:
        reason = " ".join(str(problem).split())
        raise UserError(f"{path}: not a JSON file with {key!r} ({reason}); unpack the set's archive again") from None
    found = found if isinstance(found, list) else [None]
    bad = next((i for i, one in enumerate(found) if not isinstance(one, tuple)), None)
    if bad is not None:
        raise UserError(f"{path}: {key} {bad} is not as expected; unpack the set's archive again")
    return found


def _mat(path: Path, key: str) -> np.ndarray:
    """One variable of a MATLAB file, one-dimensional. loadmat executes nothing: MATLAB's objects come as bytes."""
    from scipy.io import loadmat  # here: it takes half a second

    with open(path, "rb") as handle:
        try:
            return np.atleast_1d(loadmat(handle, squeeze_me=True, variable_names=[key])[key])
        except Exception as problem:  # a damaged file raises whatever its bytes lead to
            reason = " ".join(str(problem).split()) or type(problem).__name__
            raise UserError(f"{path}: no readable {key} ({reason}); restore it from the set's archive") from None


def _folders(path: Path) -> list[str]:
    return sorted(entry.name for entry in os.scandir(path) if entry.is_dir() and not entry.name.startswith("."))


def _images(root: Path, folder: str) -> list[str]:
    """Image files anywhere below root/folder, relative to root, sorted; hidden files and other kinds are left out.

    Links to folders are followed, but each real folder once and none of those above. Raises OSError for a folder that
    cannot be read.
    """
    found, seen = [], {_identity(root / above) for above in Path(folder).parents}
    for where, folders, files in os.walk(root / folder, followlinks=True, onerror=_raise):
        one = _identity(where)
        if one in seen:
            folders.clear()
            continue
        seen.add(one)
        folders.sort()  # of two ways to one folder the first by name, whatever the file system lists first
        relative = Path(where).relative_to(root).as_posix()
        found += [f"{relative}/{file}" for file in files
                  if not file.startswith(".") and os.path.splitext(file)[1].lower() in SUFFIXES]
    return sorted(found)


def _identity(folder: str | Path) -> tuple[int, int]:
    found = os.stat(folder)
    return found.st_dev, found.st_ino


def _raise(problem: OSError) -> None:
    raise problem


def _in_class_order(per_class: list[list[str]]) -> Split:
    files = [file for one in per_class for file in one]
    return Split(files, [label for label, one in enumerate(per_class) for _ in one])


def _by_class(rows: list[tuple[str, int]], by_name: bool = True) -> Split:
    """Rows (file, label) in class order, within a class by name or as they came."""
    rows = sorted(rows, key=(lambda row: (row[1], row[0])) if by_name else (lambda row: row[1]))
    return Split([file for file, _ in rows], [label for _, label in rows])


KINDS = {"imagefolder": imagefolder, "tiny_imagenet": tiny_imagenet, "eurosat": eurosat, "sun397": sun397,
         "imagenet_list": imagenet_list, "inat18": inat18, "places205": places205, "food101": food101, "clevr": clevr,
         "cars": cars, "voc": voc, "cifar10": cifar10, "cifar100": cifar100, "idx": idx}  # fmt: skip
