"""Small copies of every data set in its official layout: each image is one grey that says its label, 20 x label + 5."""

import gzip
import io
import json
import pickle
import struct
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from replicate.data import archives, manifest

REAL = manifest.paths.MANIFESTS


def grey(label: int) -> int:
    return 20 * label + 5


def save(path: Path, label: int = 0, size=(8, 8)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (grey(label),) * 3).save(path)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def imagenet(root):
    for part, n in (("train", 3), ("val", 2)):
        for label, wnid in enumerate(("n01", "n02")):
            for i in range(n):
                save(root / "imagenet" / part / wnid / f"{wnid}_{i}.JPEG", label)


def imagenet_list(percent):
    def make(root):
        imagenet(root)
        write(root / f"imagenet_subsets/{percent}percent.txt", "n02_2.JPEG\nn01_1.JPEG\n")

    return make


def inat18(root):
    for part, n in (("train", 2), ("val", 1)):
        images = []
        for label in range(11):  # as text 10 comes before 2
            for i in range(n):
                file = f"train_val2018/Aves/{label}/{part}{i}.jpg"
                save(root / "inat18" / file, label)
                images.append({"id": len(images), "file_name": file, "license": 0})
        write(root / f"inat18/{part}2018.json", json.dumps({"info": {}, "images": images[::-1], "annotations": [
            {"image_id": image["id"], "category_id": 0} for image in images]}))


def places205(root):
    base = root / "places205"
    for part, n in (("train", 3), ("val", 1)):
        rows = []
        for label, name in enumerate(("a/abbey", "a/apartment_building/outdoor")):
            for i in range(n):
                save(base / "data/vision/torralba/deeplearning/images256" / name / f"{part} {i}.jpg", label)
                rows.append(f"{name}/{part} {i}.jpg {label}")
        write(base / f"trainvalsplit_places205/{part}_places205.csv", "\n".join(rows) + "\n")


def eurosat(root):
    for label, name in enumerate(("Forest", "River")):
        for i in range(1, 9):
            save(root / f"eurosat/2750/{name}/{name}_{i}.jpg", label)


def sun397(root):
    names = ("/a/abbey", "/a/apartment_building/outdoor", "/z/zoo")
    write(root / "SUN397/ClassName.txt", "\n".join(names) + "\n")
    for label, name in enumerate(names):
        for i in range(10):
            save(root / f"SUN397{name}/sun_{i}.jpg", label)


def cars(root):
    from scipy.io import savemat

    base = root / "stanford_cars"
    fields = ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname")
    for part, n, file in (("train", 3, "devkit/cars_train_annos.mat"), ("test", 2, "cars_test_annos_withlabels.mat")):
        rows = []
        for label in (1, 0):
            for i in range(n):
                save(base / f"cars_{part}" / f"0000{label}{i}.jpg", label)
                rows.append((1, 2, 3, 4, label + 1, f"0000{label}{i}.jpg"))
        (base / "devkit").mkdir(exist_ok=True)
        savemat(base / file, {"annotations": np.array([rows], [(name, object) for name in fields])[0]})
    names = np.empty(2, object)
    names[:] = ["AM General Hummer SUV 2000", "Acura RL Sedan 2012"]
    savemat(base / "devkit/cars_meta.mat", {"class_names": names})


class Python2(pickle._Pickler):
    """Writes bytes as Python 2 wrote its str, in which CIFAR's batches came."""

    dispatch = dict(pickle._Pickler.dispatch)

    def save_str(self, text):
        self.write(pickle.BINSTRING + struct.pack("<i", len(text)) + text)

    dispatch[bytes] = save_str


def python2_pickle(content) -> bytes:
    out = io.BytesIO()
    Python2(out, 2).dump(content)
    return out.getvalue().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


def batch(path, key, labels):
    data = np.concatenate([np.full((1, 3072), grey(label), np.uint8) for label in labels])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(python2_pickle({b"data": data, key: list(labels), b"filenames": [b"x.png"] * len(labels)}))


def cifar10(root):
    base = root / "cifar-10-batches-py"
    for name in [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]:
        batch(base / name, b"labels", (2, 0, 1))
    (base / "batches.meta").write_bytes(python2_pickle({b"label_names": [b"airplane", b"automobile", b"bird"]}))


def cifar100(root):
    for name in ("train", "test"):
        batch(root / "cifar-100-python" / name, b"fine_labels", (2, 0, 1))
    (root / "cifar-100-python/meta").write_bytes(python2_pickle({b"fine_label_names": [b"apple", b"baby", b"bear"]}))


def fashion_mnist(root):
    base = root / "FashionMNIST/raw"
    base.mkdir(parents=True)
    for part, labels in (("train", [1, 0, 1, 0]), ("t10k", [0, 1])):
        images = np.stack([np.full((28, 28), grey(label), np.uint8) for label in labels])
        head = bytes([0, 0, 8, 3]) + struct.pack(">III", len(labels), 28, 28)
        (base / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(head + images.tobytes()))
        head = bytes([0, 0, 8, 1]) + struct.pack(">I", len(labels))
        (base / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(head + bytes(labels)))


def food101(root):
    base = root / "food-101"
    write(base / "meta/classes.txt", "apple_pie\nwaffles\n")
    for part, n in (("train", 3), ("test", 1)):
        rows = []
        for label, name in ((1, "waffles"), (0, "apple_pie")):
            for i in range(n):
                save(base / f"images/{name}/{part}{i}.jpg", label)
                rows.append(f"{name}/{part}{i}")
        write(base / f"meta/{part}.txt", "\n".join(rows) + "\n")


def clevr_count(root):
    base = root / "CLEVR_v1.0"
    for part, counts in (("train", (10, 3, 4, 3)), ("val", (3, 4, 10, 9))):  # no 9 in train
        scenes = []
        for i, count in enumerate(counts):
            file = f"CLEVR_{part}_{i:06d}.png"
            save(base / f"images/{part}/{file}", [3, 4, 10, 9].index(count))
            scenes.append({"image_filename": file, "split": part, "relationships": {"left": [[1]]},
                           "objects": [{"shape": "cube", "3d_coords": [0, 1]}] * count})
        write(base / f"scenes/CLEVR_{part}_scenes.json", json.dumps({"info": {"license": "x"}, "scenes": scenes}))


VOC = {"000001": (1, -1), "000002": (-1, 1), "000003": (1, 0)}  # aeroplane, bicycle: present, absent, only difficult


def voc_year(root, year, name, images):
    base = root / "VOCdevkit" / year
    write(base / f"ImageSets/Main/{name}.txt", "\n".join(images) + "\n")
    for number, one in enumerate(("aeroplane", "bicycle")):
        rows = [f"{image} {labels[number]:2d}" for image, labels in images.items()]
        write(base / f"ImageSets/Main/{one}_{name}.txt", "\n".join(rows) + "\n")
    for image, labels in images.items():
        save(base / f"JPEGImages/{image}.jpg", labels.index(1))
        write(base / f"Annotations/{image}.xml", "<annotation/>")


def voc07(root):
    voc_year(root, "VOC2007", "trainval", VOC)
    voc_year(root, "VOC2007", "test", {"000004": (1, -1), "000005": (-1, 1)})


def voc0712(root):
    voc07(root)
    voc_year(root, "VOC2012", "trainval", {"2008_000002": (-1, 1)})


def tiny_imagenet(root):
    base = root / "tiny-imagenet-200"
    write(base / "wnids.txt", "n02\nn01\n")  # not in alphabetical order
    for label, wnid in enumerate(("n02", "n01")):
        for i in range(2):
            save(base / f"train/{wnid}/images/{wnid}_{i}.JPEG", label)
        save(base / f"val/images/val_{label}.JPEG", label)
    write(base / "val/val_annotations.txt", "val_0.JPEG\tn02\t0\t0\t9\t9\nval_1.JPEG\tn01\t0\t0\t9\t9\n")


SETS = {  # name: (what makes it, classes in label order, counts)
    "imagenet": (imagenet, ["n01", "n02"], {"train": 6, "val": 4}),
    "imagenet_1percent": (imagenet_list(1), ["n01", "n02"], {"train": 2, "val": 4}),
    "imagenet_10percent": (imagenet_list(10), ["n01", "n02"], {"train": 2, "val": 4}),
    "inat18": (inat18, [str(i) for i in range(11)], {"train": 22, "val": 11}),
    "places205": (places205, ["abbey", "apartment_building/outdoor"], {"train": 6, "val": 2}),
    "eurosat": (eurosat, ["Forest", "River"], {"train": 8, "val": 6, "total": 16}),
    "sun397": (sun397, ["abbey", "apartment_building/outdoor", "zoo"], {"train": 21, "val": 3, "total": 30}),
    "cars": (cars, ["AM General Hummer SUV 2000", "Acura RL Sedan 2012"], {"train": 6, "val": 4}),
    "cifar10": (cifar10, ["airplane", "automobile", "bird"], {"train": 15, "val": 3}),
    "cifar100": (cifar100, ["apple", "baby", "bear"], {"train": 3, "val": 3}),
    "fashion_mnist": (fashion_mnist, ["0", "1"], {"train": 4, "val": 2}),
    "food101": (food101, ["apple_pie", "waffles"], {"train": 6, "val": 2}),
    "clevr_count": (clevr_count, ["count_3", "count_4", "count_10"], {"train": 4, "val": 3}),
    "voc07": (voc07, ["aeroplane", "bicycle"], {"train": 3, "val": 2}),
    "voc0712": (voc0712, ["aeroplane", "bicycle"], {"train": 4, "val": 2}),
    "tiny_imagenet": (tiny_imagenet, ["n02", "n01"], {"train": 4, "val": 2}),
}


def make(name: str, data_root: Path, manifests: Path, **changes) -> manifest.Manifest:
    """Write the small set and a copy of its manifest with its counts and sizes; `changes` are keys of the manifest."""
    build, classes, counts = SETS[name]
    build(data_root)
    content = yaml.safe_load((REAL / f"{name}.yaml").read_text(encoding="utf-8"))
    content |= {"classes": len(classes), "counts": counts}
    if name == "eurosat":
        content["layout"] |= {"train_per_class": 4, "val_per_class": 3}
    for archive in content["source"]["archives"]:
        path = archives.find(archive, data_root)  # a list that lies in its place: this one's size and checksum
        if path is not None:
            archive |= {"bytes": path.stat().st_size} | {
                kind: archives.checksum(path, kind) for kind in ("md5", "sha256") if kind in archive}
    content |= changes
    manifests.mkdir(exist_ok=True)
    file = manifests / f"{name}.yaml"
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    return manifest.read(file)
