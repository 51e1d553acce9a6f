"""Augmentations: each operation against torchvision v2 at fixed parameters, then what is drawn, then the whole views."""

import math

import pytest
import torch

from replicate.data import augment
from replicate.errors import UserError

N, S = 12, 20


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def random_images(n=N, side=S, seed=0):
    """Uniform noise, with the awkward pixels of a hue: greys, ties of two channels, black and white."""
    images = torch.rand(n, 3, side, side, generator=seeded(seed))
    images[:, :, 0] = images[:, :1, 0]
    images[:, 1, 1] = images[:, 0, 1]
    images[:, 2, 2] = images[:, 1, 2]
    images[:, 2, 3] = images[:, 0, 3]
    images[:, :, 4], images[:, :, 5] = 0, 1
    return images


def random_bytes(n=N, side=S, seed=0):
    return torch.randint(0, 256, (n, 3, side, side), dtype=torch.uint8, generator=seeded(seed))


@pytest.fixture(scope="module")
def peer():
    from torchvision.transforms.v2 import functional
    return functional


# ---- each operation against torchvision -----------------------------------------------------------------------------


@pytest.mark.parametrize("name, low, high", [("brightness", 0, 2), ("contrast", 0, 2), ("saturation", 0, 2),
                                             ("hue", -0.5, 0.5)])
def test_colour_changes_are_torchvisions_image_by_image(peer, name, low, high):
    images, factors = random_images(), torch.linspace(low, high, N)
    changed = getattr(augment, name)(images, factors)
    for image, factor, mine in zip(images, factors, changed):
        expected = getattr(peer, f"adjust_{name}")(image, factor.item())
        torch.testing.assert_close(mine, expected, atol=1e-5, rtol=0)


def test_grayscale_and_solarize_are_torchvisions(peer):
    images = random_images()
    torch.testing.assert_close(augment.grayscale(images), peer.rgb_to_grayscale(images, 3), atol=1e-6, rtol=0)
    torch.testing.assert_close(augment.solarize(images), peer.solarize(images, 0.5), atol=1e-6, rtol=0)


@pytest.mark.parametrize("taps", [1, 3, 7, 23])
def test_blur_is_torchvisions_image_by_image(peer, taps):
    images, sigmas = random_images(side=24), torch.linspace(0.1, 2.0, N)
    blurred = augment.gaussian_blur(images, sigmas, taps)
    for image, sigma, mine in zip(images, sigmas, blurred):
        torch.testing.assert_close(mine, peer.gaussian_blur(image, taps, sigma.item()), atol=1e-5, rtol=0)


@pytest.mark.parametrize("px", [7, 20, 33])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_crop_resize_and_mirror_are_torchvisions_antialiased(peer, px, interpolation):
    images = random_images()
    boxes = augment.random_boxes(N, S, seeded(3), (0.05, 1.0), (0.5, 2.0))
    mirrored = torch.arange(N) % 2 == 0
    crops = augment.resized_crop(images, boxes, px, interpolation, mirrored)
    for image, box, mirror, mine in zip(images, boxes, mirrored, crops):
        box = [int(value) for value in box]
        expected = peer.resized_crop(image, *box, size=[px, px], interpolation=interpolation, antialias=True)
        expected = peer.horizontal_flip(expected) if mirror else expected
        torch.testing.assert_close(mine, expected.clamp(0, 1), atol=1e-5, rtol=0)


def test_enlarged_bilinear_crops_are_torchvisions_without_antialiasing_too(peer):
    images, boxes = random_images(), torch.tensor([[3.0, 5.0, 9.0, 11.0]]).expand(N, 4)
    expected = peer.resized_crop(images, 3, 5, 9, 11, size=[20, 20], antialias=False)
    torch.testing.assert_close(augment.resized_crop(images, boxes, 20), expected, atol=1e-5, rtol=0)


def test_normalise_is_torchvisions_for_bytes_and_floats_and_leaves_its_input(peer):
    images = random_bytes()
    floats = images / 255
    kept = floats.clone()
    expected = peer.normalize(floats, augment.IMAGENET_MEAN, augment.IMAGENET_STD)
    torch.testing.assert_close(augment.normalise(images), expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(augment.normalise(floats), expected, atol=1e-6, rtol=0)
    assert torch.equal(floats, kept)


# ---- identities -----------------------------------------------------------------------------------------------------


def test_neutral_parameters_change_nothing():
    images, one, zero = random_images(), torch.ones(N), torch.zeros(N)
    for changed in (augment.brightness(images, one), augment.contrast(images, one), augment.saturation(images, one),
                    augment.hue(images, zero), augment.gaussian_blur(images, zero + 1e-2, 3)):
        torch.testing.assert_close(changed, images, atol=1e-6, rtol=0)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_the_whole_image_at_its_size_is_itself(interpolation):
    images, whole = random_images(), torch.tensor([[0.0, 0.0, S, S]]).expand(N, 4)
    torch.testing.assert_close(augment.resized_crop(images, whole, S, interpolation), images, atol=1e-6, rtol=0)
    mirrored = augment.resized_crop(images, whole, S, interpolation, torch.ones(N, dtype=torch.bool))
    torch.testing.assert_close(mirrored, images.flip(3), atol=1e-6, rtol=0)


def test_a_crop_sees_no_pixel_outside_its_box():
    images = torch.ones(1, 3, S, S)
    images[:, :, 4:10, 6:15] = 0.25
    crop = augment.resized_crop(images, torch.tensor([[4.0, 6.0, 6.0, 9.0]]), 31, "bicubic")
    torch.testing.assert_close(crop, torch.full_like(crop, 0.25), atol=1e-6, rtol=0)


@pytest.mark.parametrize("px, taps", [(16, 1), (32, 3), (64, 7), (96, 9), (224, 23)])
def test_blur_scales_with_the_view(px, taps):
    assert augment.blur_taps(px) == taps


# ---- what is drawn --------------------------------------------------------------------------------------------------


def test_boxes_have_the_asked_areas_and_ratios_and_lie_inside():
    side, n = 1000, 20_000
    top, left, height, width = augment.random_boxes(n, side, seeded(), (0.08, 0.5), (3 / 4, 4 / 3)).unbind(1)
    area, log_ratio = height * width / side**2, (width / height).log()
    assert 0.079 < area.min() and area.max() < 0.501
    assert area.mean() == pytest.approx(0.29, abs=0.005)  # uniform: mean and standard deviation of U(.08, .5)
    assert area.std() == pytest.approx(0.42 / math.sqrt(12), abs=0.003)
    assert log_ratio.abs().max() < math.log(4 / 3) + 0.01
    assert log_ratio.mean() == pytest.approx(0, abs=0.005)
    assert log_ratio.std() == pytest.approx(2 * math.log(4 / 3) / math.sqrt(12), abs=0.005)
    assert top.min() >= 0 and (top + height).max() <= side and left.min() >= 0 and (left + width).max() <= side
    assert (top / (side - height)).mean() == pytest.approx(0.5, abs=0.01)
    assert torch.corrcoef(torch.stack([area, log_ratio, top / (side - height), left / (side - width)])
                          ).fill_diagonal_(0).abs().max() < 0.03


def test_boxes_follow_torchvisions_distribution_on_small_images():
    """At 32 px rounding and rejection shape the distribution: the mean of each side and of the area is the peer's."""
    from torchvision.transforms import v2
    crop, images = v2.RandomResizedCrop(32, scale=(0.08, 1.0)), [torch.zeros(3, 32, 32)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        drawn = [crop.make_params(images) for _ in range(4000)]
    theirs = torch.tensor([[p["height"], p["width"], p["height"] * p["width"] / 32] for p in drawn]).mean(0)
    boxes = augment.random_boxes(40_000, 32, seeded(), (0.08, 1.0), (3 / 4, 4 / 3))
    ours = torch.stack([boxes[:, 2], boxes[:, 3], boxes[:, 2] * boxes[:, 3] / 32], 1).mean(0)
    torch.testing.assert_close(ours, theirs, atol=0.5, rtol=0)  # standard error of theirs: .09, .09, .13


def test_where_no_box_fits_the_whole_image_is_taken():
    boxes = augment.random_boxes(5, 8, seeded(), (1.0, 1.0), (1.4, 1.4))
    assert torch.equal(boxes, torch.tensor([[0.0, 0.0, 8.0, 8.0]]).expand(5, 4))


def share(changed, images, tolerance=1e-4):
    """Share of the images that a change touched."""
    return ((changed - images).flatten(1).abs().amax(1) > tolerance).float().mean().item()


def test_flips_happen_to_half_of_the_images():
    images = random_images(4000, 6)
    flipped = augment.random_resized_crop(images, 6, seeded(), (1.0, 1.0), (1.0, 1.0), flip=0.5)
    assert share(flipped, images) == pytest.approx(0.5, abs=0.03)
    assert share(torch.minimum((flipped - images).abs(), (flipped - images.flip(3)).abs()), 0 * images) == 0


def test_colour_jitter_touches_four_images_in_five_each_with_its_own_factors():
    one = random_images(1, 6)
    images = one.repeat(4000, 1, 1, 1)
    jittered = images.clone()
    augment.colour_jitter_(jittered, seeded())
    assert share(jittered, images) == pytest.approx(0.8, abs=0.025)
    touched = jittered[(jittered - images).flatten(1).abs().amax(1) > 1e-4]
    assert len(touched.flatten(1).unique(dim=0)) == len(touched)


def test_colour_jitter_draws_each_of_the_24_orders(monkeypatch):
    """A change that appends its name to the image as a digit in base 5 shows the order in which it was applied."""
    for digit, name in enumerate(("brightness", "contrast", "saturation", "hue"), start=1):
        monkeypatch.setattr(augment, name, lambda images, factor, digit=digit: images * 5 + digit)
    images = torch.zeros(12_000, 3, 1, 1, dtype=torch.float64)
    augment.colour_jitter_(images, seeded())
    orders, counts = images[:, 0, 0, 0].unique(return_counts=True)
    assert len(orders) == 25 and orders[0] == 0  # the untouched fifth, and every permutation
    torch.testing.assert_close(counts[1:].double(), torch.full((24,), 400.0).double(), atol=100, rtol=0)


@pytest.mark.parametrize("kind, blur, solarization", [("FIRST_VIEW", 1, 0), ("SECOND_VIEW", 0.1, 0.2),
                                                      ("LOCAL_VIEW", 0.5, 0)])
def test_views_blur_solarize_and_grey_with_their_probabilities(monkeypatch, kind, blur, solarization):
    n, touched = 4000, {}

    def counting(name):
        real = getattr(augment, name)

        def change(images, *parameters):
            touched[name] = len(images) / n
            return real(images, *parameters)
        monkeypatch.setattr(augment, name, change)

    for name in ("gaussian_blur", "solarize", "grayscale"):
        counting(name)
    augment._view(random_images(n, 24), 24, seeded(), (0.2, 1.0), *getattr(augment, kind))
    assert touched.get("gaussian_blur", 0) == pytest.approx(blur, abs=0.025)
    assert touched.get("solarize", 0) == pytest.approx(solarization, abs=0.02)
    assert touched["grayscale"] == pytest.approx(0.2, abs=0.02)


def test_blur_sigma_is_uniform_over_the_papers_range_scaled(monkeypatch):
    seen = []
    monkeypatch.setattr(augment, "gaussian_blur", lambda images, sigma, taps: seen.append((sigma, taps)) or images)
    augment._view(random_images(4000, 8), 64, seeded(), (0.2, 1.0), *augment.FIRST_VIEW)
    sigma, taps = seen[0]
    assert taps == 7
    assert 0.1 * 64 / 224 <= sigma.min() and sigma.max() <= 2 * 64 / 224
    assert sigma.mean() == pytest.approx(1.05 * 64 / 224, rel=0.03)


# ---- whole views ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("images", [random_bytes(), random_bytes() / 255, (random_bytes() / 255).double()])
def test_two_views_of_bytes_and_of_floats(images):
    kept = images.clone()
    first, second = augment.two_views(images, 16, seeded(), (0.2, 1.0))
    expected = augment.two_views(random_bytes(), 16, seeded(), (0.2, 1.0))
    for view, mine in zip((first, second), expected):
        assert view.shape == (N, 3, 16, 16) and view.dtype == torch.float32 and view.is_contiguous()
        torch.testing.assert_close(view, mine, atol=1e-5, rtol=0)
    assert torch.equal(images, kept) and not torch.allclose(first, second)


def test_images_of_one_batch_get_different_views():
    images = random_images(1).repeat(64, 1, 1, 1)
    for view in augment.two_views(images, 24, seeded()):
        assert len(view.flatten(1).unique(dim=0)) == 64


def test_a_views_values_lie_in_the_normalised_range():
    mean, std = (torch.tensor(v)[None, :, None, None] for v in (augment.IMAGENET_MEAN, augment.IMAGENET_STD))
    for view in augment.two_views(random_images(64), 24, seeded()):
        pixels = view * std + mean
        assert pixels.isfinite().all() and -1e-5 < pixels.min() and pixels.max() < 1 + 1e-5


def test_the_generators_state_alone_decides_the_views():
    images, generator = random_bytes(), seeded(5)
    augment.two_views(images, 16, generator)
    state = generator.get_state()
    expected = augment.two_views(images, 16, generator)
    torch.manual_seed(99)  # the global generator plays no part
    restored = torch.Generator()
    restored.set_state(state)
    for view, again in zip(expected, augment.two_views(images, 16, restored)):
        assert torch.equal(view, again)
    assert torch.equal(generator.get_state(), restored.get_state())
    assert not torch.equal(expected[0], augment.two_views(images, 16, restored)[0])


def test_how_much_is_drawn_does_not_depend_on_the_images():
    """Resuming relies on it, and so does comparing two data sets under one seed."""
    first, second = seeded(), seeded()
    augment.two_views(random_images(seed=1), 16, first)
    augment.two_views(torch.zeros(N, 3, 33, 33), 24, second)
    assert torch.equal(first.get_state(), second.get_state())


def test_multi_crop_shapes_and_independence():
    images = random_images(1, 32).repeat(8, 1, 1, 1)
    global_views, local_views = augment.multi_crop(images, 24, seeded(), (0.2, 1.0), (0.05, 0.2), 16, 6)
    assert global_views.shape == (2, 8, 3, 24, 24) and local_views.shape == (6, 8, 3, 16, 16)
    assert local_views.dtype == torch.float32
    assert len(local_views.flatten(0, 1).flatten(1).unique(dim=0)) == 48
    assert len(global_views.flatten(0, 1).flatten(1).unique(dim=0)) == 16


def test_multi_crop_without_local_crops_and_its_global_crops_are_two_views():
    images = random_bytes()
    global_views, local_views = augment.multi_crop(images, 16, seeded(), (0.2, 1.0), (0.05, 0.2), 8, 0)
    assert local_views.shape == (0, N, 3, 8, 8)
    assert torch.equal(global_views, torch.stack(augment.two_views(images, 16, seeded(), (0.2, 1.0))))


def test_an_empty_batch_and_a_single_image():
    assert augment.two_views(random_bytes(0), 16, seeded())[0].shape == (0, 3, 16, 16)
    assert augment.two_views(random_bytes(1), 16, seeded())[1].shape == (1, 3, 16, 16)


@pytest.mark.parametrize("images, complaint", [
    (torch.zeros(2, 1, 8, 8), r"\(2, 1, 8, 8\)"),
    (torch.zeros(3, 8, 8), r"\(3, 8, 8\)"),
    (torch.zeros(2, 3, 8, 8, dtype=torch.int64), "int64"),
    (torch.full((2, 3, 8, 8), 255.0), r"\[0, 1\]"),
    (torch.full((2, 3, 8, 8), float("nan")), r"\[0, 1\]"),
    (torch.zeros(2, 3, 8, 9), "square"),
])
def test_images_that_cannot_be_augmented_are_refused(images, complaint):
    with pytest.raises(UserError, match=complaint):
        augment.two_views(images, 8, seeded())


@pytest.mark.parametrize("px, area, complaint", [(0, (0.1, 1), "1 px"), (8, (0.0, 1), "area"), (8, (0.5, 0.2), "area"),
                                                 (8, (0.5, 1.2), "area")])
def test_impossible_crops_are_refused(px, area, complaint):
    with pytest.raises(UserError, match=complaint):
        augment.random_resized_crop(random_bytes(), px, seeded(), area)
