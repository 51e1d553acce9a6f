"""Crops of image files: torchvision's law, the same whoever draws them, and what cannot be read is named."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from replicate import paths
from replicate.data import augment, jpeg, transforms
from replicate.errors import UserError

CROPS = (jpeg.Crop(2, 24, (0.3, 1.0)), jpeg.Crop(3, 16, (0.05, 0.3)))


def picture(height, width, seed=0):
    """A smooth random image, (H, W, 3) uint8."""
    small = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return np.array(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """40 JPEGs of various sizes."""
    root = tmp_path_factory.mktemp("images")
    for i in range(40):
        Image.fromarray(picture(30 + i, 70 - i, i)).save(root / f"{i}.jpg")
    return jpeg.Streamed(root, np.array([f"{i}.jpg" for i in range(40)], "S"), False, "random_resized_crop", 28)


def steps_of(n_steps, batch, shards, n=40):
    order = np.random.default_rng(1).permutation(n)[: n_steps * batch].reshape(n_steps, batch)
    return [np.array_split(index, shards) for index in order]


def batches(images, steps, workers=0, key=("SimCLR-1", 0, 0)):
    return list(jpeg.batches(images, steps, CROPS, key, workers, "cpu"))


def by_image(steps, found):
    """{index: its crops} of all steps and shards."""
    return {int(i): [tensor[:, place] for tensor in tensors] for step, shards in zip(steps, found)
            for index, tensors in zip(step, shards) for place, i in enumerate(index)}  # fmt: skip


# ---- one image ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width", "area"),
                         [(60, 90, (0.08, 1.0)), (64, 20, (0.05, 0.14)), (9, 90, (0.5, 1.0))])
def test_boxes_are_drawn_by_torchvisions_law(height, width, area):
    """Means and spreads of 3,000 boxes beside torchvision's; of the last size most have no box that fits."""
    rng, image = random.Random(0), torch.empty(3, height, width)
    ours = np.array([jpeg.random_box(height, width, area, rng) for _ in range(3000)], float)
    peer = v2.RandomResizedCrop(8, area)
    torch.manual_seed(0)
    theirs = [peer.make_params([image]) for _ in range(3000)]
    theirs = np.array([[box[key] for key in ("top", "left", "height", "width")] for box in theirs], float)
    noise = np.maximum(theirs.std(0), 0.05) / np.sqrt(1500)  # of a difference of two means
    assert (np.abs(ours.mean(0) - theirs.mean(0)) < 4 * noise).all()
    assert np.allclose(ours.std(0), theirs.std(0), rtol=0.1, atol=0.05)
    assert (ours[:, :2] + ours[:, 2:] <= [height, width]).all() and (ours[:, :2] >= 0).all()


def test_a_crop_of_the_whole_image_is_its_bicubic_resize_or_the_mirror_of_that():
    image = torch.from_numpy(picture(48, 48)).permute(2, 0, 1)
    resized = v2.functional.resize(image, [20, 20], v2.InterpolationMode.BICUBIC, antialias=True)
    seen = set()
    for seed in range(20):
        found = jpeg.random_crops(image, (jpeg.Crop(1, 20, (1.0, 1.0)),), seed)[0][0]
        seen.add(next(name for name, wanted in (("as is", resized), ("mirrored", resized.flip(-1)))
                      if torch.equal(found, wanted)))  # fmt: skip
    assert seen == {"as is", "mirrored"}


@pytest.mark.parametrize("transform", ["random_resized_crop", "resize", "resize_then_squash"])
def test_the_evaluation_transform_is_visslls(transform):
    """torchvision's transforms of PIL images, to the rounding of PIL's passes."""
    image = Image.fromarray(picture(90, 130))
    peer = {"random_resized_crop": [v2.Resize(256), v2.CenterCrop(224)], "resize": [v2.Resize([224, 224])],
            "resize_then_squash": [v2.Resize(256), v2.Resize([224, 224])]}[transform]  # fmt: skip
    ours = jpeg.evaluation(torch.from_numpy(np.array(image)).permute(2, 0, 1), transform, 224)
    gap = np.abs(ours.permute(1, 2, 0).numpy().astype(int) - np.asarray(v2.Compose(peer)(image)).astype(int))
    assert gap.max() <= 2


def test_of_a_square_the_evaluation_transform_is_that_of_prepared_sets():
    square = picture(64, 64).transpose(2, 0, 1)
    prepared = transforms.evaluation(square[None], "random_resized_crop", 32)[0]
    gap = np.abs(jpeg.evaluation(torch.from_numpy(square), "random_resized_crop", 32).numpy() - prepared.astype(int))
    assert gap.max() <= 1


def save(path, image, **more):
    image.save(path, **more)
    return path


def test_every_kind_of_file_decodes_to_the_picture_that_it_holds(tmp_path):
    colour = Image.fromarray(picture(40, 60))
    grey = colour.convert("L")
    sixteen = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    files = {
        save(tmp_path / "rgb.jpg", colour, quality=95): colour,
        save(tmp_path / "png.JPEG", colour, format="PNG"): colour,
        save(tmp_path / "cmyk.jpg", colour.convert("CMYK"), quality=95): colour,
        save(tmp_path / "grey.jpg", grey, quality=95): grey.convert("RGB"),
        save(tmp_path / "sixteen.png", sixteen): grey.convert("RGB"),
        save(tmp_path / "alpha.png", colour.convert("RGBA")): colour,
        save(tmp_path / "palette.gif", grey): grey.convert("RGB"),
    }
    for file, wanted in files.items():
        found = jpeg.decode(file)
        assert found.dtype == torch.uint8 and found.shape == (3, 40, 60), file.name
        gap = (found.permute(1, 2, 0).float() - torch.from_numpy(np.array(wanted)).float()).abs()
        assert gap.mean() < 3, file.name


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"not an image", None])
@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_an_unreadable_image_is_one_line_that_names_it(tmp_path, damage, suffix):
    path = tmp_path / f"broken{suffix}"
    if damage:
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
        path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match="not a readable image") as error:
        jpeg.decode(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


# ---- batches --------------------------------------------------------------------------------------------------------


def test_a_batch_has_a_tensor_a_crop_for_each_shard(images):
    found = batches(images, steps_of(2, 16, 4))
    assert [len(shards) for shards in found] == [4, 4]
    for tensors in (tensors for shards in found for tensors in shards):
        assert [tuple(t.shape) for t in tensors] == [(2, 4, 3, 24, 24), (3, 4, 3, 16, 16)]
        assert all(t.dtype == torch.uint8 and t.is_contiguous() for t in tensors)


def test_an_images_crops_depend_on_key_and_index_only(images, monkeypatch):
    """Not on workers, shards, the size of chunks, or the step that is first."""
    steps = steps_of(3, 12, 2)
    whole = by_image(steps, batches(images, steps))
    resumed = by_image(steps[1:], batches(images, steps[1:], workers=2))
    assert len(whole) == 36 and len(resumed) == 24
    monkeypatch.setattr(jpeg, "CHUNK", 5)
    coarse = [[np.concatenate(step)] for step in steps]
    other = by_image(coarse, batches(images, coarse, workers=1))
    for index, tensors in whole.items():
        for same in [other[index]] + ([resumed[index]] if index in resumed else []):
            assert all(torch.equal(a, b) for a, b in zip(tensors, same)), index
    next_epoch = by_image(steps, batches(images, steps, key=("SimCLR-1", 0, 1)))
    assert not any(torch.equal(whole[i][0], next_epoch[i][0]) for i in whole)


def test_views_of_an_image_differ(images):
    tensors = batches(images, [[np.arange(20)]])[0][0]
    assert not any(torch.equal(one[0], one[1]) for one in tensors[0].transpose(0, 1))


def test_the_global_generators_are_left_alone(images):
    torch.manual_seed(0)
    random.seed(0)
    before = torch.get_rng_state(), random.getstate()
    batches(images, steps_of(1, 8, 1), workers=1)
    assert torch.equal(before[0], torch.get_rng_state()) and before[1] == random.getstate()


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_image_of_a_batch_is_named(images, tmp_path, workers):
    for file in images.root.iterdir():
        os.link(file, tmp_path / file.name)
    (tmp_path / "7.jpg").unlink()
    (tmp_path / "7.jpg").write_bytes(b"not an image")
    moved = jpeg.Streamed(tmp_path, images.files, False, images.transform, images.px)
    with pytest.raises(UserError) as error:
        batches(moved, [[np.arange(4)], [np.arange(4, 12)]], workers)
    assert str(error.value).startswith(f"{tmp_path / '7.jpg'}: not a readable image")
    assert "\n" not in str(error.value)


def children():
    return [int(pid) for pid in Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()]


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs /proc")
def test_workers_leave_signals_to_the_training_and_one_that_is_killed_is_one_line(images):
    threads = torch.get_num_threads()
    for n in (threads + 1, threads):  # torch then starts threads of a worker's own before the loader calls us in it
        torch.set_num_threads(n)
    steps, others = steps_of(1, 40, 1) * 20, set(children())
    arriving = jpeg.batches(images, steps, CROPS, ("a",), 2, "cpu")
    next(arriving)
    workers = set(children()) - others
    assert len(workers) == 2
    for stop in ("TERM", "USR1", "INT"):  # from another process, as a cluster's
        subprocess.run(["kill", f"-{stop}", *map(str, workers)], check=True)
    next(arriving)
    os.kill(workers.pop(), signal.SIGKILL)
    time.sleep(0.1)  # what a training does meanwhile goes on
    with pytest.raises(UserError, match="a process that decodes images was ended"):
        list(arriving)


def test_a_training_that_fails_does_not_wait_for_its_workers(images):
    """Its frames, and in them the batches, live on until Python has ended the workers."""
    code = f"""if True:
        import numpy as np
        from pathlib import Path
        from replicate.data import jpeg
        images = jpeg.Streamed(Path({str(images.root)!r}), np.array(["0.jpg"], "S"), False, "resize", 8)
        steps = [[np.zeros(4, int)]] * 200
        arriving = jpeg.batches(images, steps, (jpeg.Crop(1, 8, (0.5, 1.0)),), (), 2, "cpu")
        next(arriving)
        raise ValueError("of the training")"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=paths.ROOT)
    assert ended.returncode == 1 and ended.stderr.rstrip().endswith("ValueError: of the training")


def test_decode_on_a_gpu_is_refused_where_there_is_none(images, monkeypatch):
    for value, complaint in (("gpu", "DECODE is gpu, but this training runs on cpu"), ("tpu", "DECODE is tpu")):
        monkeypatch.setenv("DECODE", value)
        with pytest.raises(UserError, match=complaint):
            batches(images, steps_of(1, 4, 1))


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a torch that finds no GPU")
def test_decode_on_a_gpu_that_cannot_is_said_before_any_image(images, monkeypatch):
    monkeypatch.setenv("DECODE", "gpu")
    with pytest.raises(UserError, match="torchvision cannot decode on cuda") as error:
        next(jpeg.batches(images, steps_of(1, 4, 1), CROPS, ("a",), 0, "cuda"))
    assert "\n" not in str(error.value)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that decodes")
def test_a_gpu_decodes_to_nearly_the_same_crops(images, monkeypatch):
    steps = steps_of(1, 16, 1)
    wanted = batches(images, steps)[0][0]
    monkeypatch.setenv("DECODE", "gpu")
    found = list(jpeg.batches(images, steps, CROPS, ("SimCLR-1", 0, 0), 1, "cuda"))[0][0]
    for ours, theirs in zip(found, wanted):
        assert (ours.cpu().float() - theirs.float()).abs().mean() < 4


def test_colours_are_those_of_augment_on_the_whole_image(monkeypatch):
    crops = torch.from_numpy(np.stack([picture(40, 40, i).transpose(2, 0, 1) for i in range(12)]))
    monkeypatch.setattr(augment, "FLIP", 0.0)
    for blur, solarization in (augment.FIRST_VIEW, augment.SECOND_VIEW, augment.LOCAL_VIEW):
        ours, theirs = (torch.Generator().manual_seed(3) for _ in range(2))
        augment.random_boxes(12, 40, ours, (1.0, 1.0), augment.CROP_RATIO)  # what the cropping draws before
        augment._happens(crops, augment.FLIP, ours)
        views = jpeg.colours(crops, ours, blur, solarization)
        wanted = augment._view(augment._unit_floats(crops), 40, theirs, (1.0, 1.0), blur, solarization)
        torch.testing.assert_close(views, wanted, atol=2e-5, rtol=0)
        assert views.dtype == torch.float32 and torch.equal(ours.get_state(), theirs.get_state())


# ---- a sequence -----------------------------------------------------------------------------------------------------


def test_a_streamed_set_is_a_sequence_of_arrays(images):
    assert len(images) == 40 and images.shape == (40, 3, 28, 28)
    part = images[10:50]
    assert part.shape == (30, 3, 28, 28) and part.dtype == np.uint8
    np.testing.assert_array_equal(images[12], part[2])
    np.testing.assert_array_equal(images[np.array([12, 39])], part[[2, 29]])
    assert images[40:].shape == (0, 3, 28, 28)
    wanted = jpeg.evaluation(jpeg.decode(images.root / "12.jpg"), "random_resized_crop", 28)
    np.testing.assert_array_equal(part[2], wanted.numpy())
