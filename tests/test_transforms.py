"""Evaluation transforms and probe views: closed forms, then torchvision's."""

import numpy as np
import pytest
import torch

from replicate.data import transforms


def test_evaluation_is_a_crop_where_nothing_is_to_be_resized():
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 256, 256), dtype=np.uint8)
    cropped = transforms.evaluation(images, "random_resized_crop", 224)
    np.testing.assert_array_equal(cropped, images[..., 16:240, 16:240])
    np.testing.assert_array_equal(transforms.evaluation(images, "resize", 256), images)


@pytest.mark.parametrize(("side", "px"), [(64, 32), (32, 32), (50, 28)])
def test_evaluation_is_torchvisions_resize_and_centre_crop(side, px):
    from torchvision.transforms import v2

    images = np.random.default_rng(0).integers(0, 256, (3, 3, side, side), dtype=np.uint8)
    peer = v2.Compose([v2.Resize(round(px * 256 / 224), antialias=True), v2.CenterCrop(px)])(torch.from_numpy(images))
    difference = transforms.evaluation(images, "random_resized_crop", px).astype(int) - peer.numpy()
    if (round(px * 256 / 224) - px) % 2 == 0:  # else the crops may differ by the half pixel between two centres
        assert abs(difference).max() <= 1
    squash = v2.Resize([px, px], antialias=True)(torch.from_numpy(images)).numpy()
    assert abs(transforms.evaluation(images, "resize", px).astype(int) - squash).max() <= 1


def views(images, seed="0/mine", n=3, px=8):
    out = np.empty((n, len(images), 3, px, px), np.uint8)
    transforms.draw_views(images, seed, out)
    return out


def test_views_mirror_half_of_the_images_and_differ_from_each_other():
    ramp = np.broadcast_to(np.linspace(0, 255, 16).astype(np.uint8), (400, 3, 16, 16))
    found = views(ramp)
    rising = found[..., -1].mean((2, 3)) > found[..., 0].mean((2, 3))  # (V, N)
    assert (abs(rising.mean(1) - 0.5) < 4 * 0.5 / 400**0.5).all()
    assert (found[0] != found[1]).any((1, 2, 3)).mean() > 0.9  # of the images
    assert len(np.unique(found[0].reshape(400, -1), axis=0)) > 100  # on a ramp, crops at one column look alike


def test_views_of_one_colour_keep_it():
    flat = np.full((5, 3, 16, 16), 77, np.uint8)
    assert (views(flat) == 77).all()


def test_views_depend_on_the_seed_only():
    images = np.random.default_rng(0).integers(0, 256, (6, 3, 16, 16), dtype=np.uint8)
    np.testing.assert_array_equal(views(images), views(images))
    np.testing.assert_array_equal(views(images, n=2), views(images)[:2])  # more views change none of the first
    assert (views(images) != views(images, "1/mine")).any()


def test_more_images_than_a_chunk_are_all_filled(monkeypatch):
    monkeypatch.setattr(transforms, "CHUNK", 4)
    images = np.random.default_rng(0).integers(1, 256, (10, 3, 16, 16), dtype=np.uint8)
    assert views(images).all((2, 3, 4)).all()
    out = np.zeros((10, 3, 16, 16), np.uint8)
    transforms.evaluate(images, "resize", out)
    np.testing.assert_array_equal(out, images)
