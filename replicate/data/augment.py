"""Augmentations of whole batches: every image draws its own parameters, all from one torch.Generator.

BYOL's asymmetric pair of views (Grill et al. 2020, arXiv 2006.07733, table 6; VICReg and RankMe take the same) and
DINO's multi-crop (Caron et al. 2021, arXiv 2104.14294; the reference code's crops). The single operations follow
torchvision.transforms.v2 on float images in [0, 1], to rounding: tests/test_augment.py holds them against it.

* Crops are antialiased, as torchvision's are by default: 64 px reduced to 32 px do not alias. Pretraining crops are
  bicubic (BYOL's and DINO's), the probes' bilinear (VISSL's).
* Blur is given at 224 px (23 taps, sigma U[0.1, 2.0] pixels) and scales with the crop, so that it removes the same
  share of an image: at 32 px 3 taps and sigma at most 0.29 px, which changes a pixel by 1 % of its range at most.
* Our own rather than a library's by measurement (benchmarks/bench_augment.py, one thread, two views of 256 images,
  32 px): 15 ms here, 76 with kornia 0.9 (which draws one order of the colour changes a batch, and from the global
  generator), 314 with torchvision's v2, which draws one set of parameters a call and so is called once an image, and
  whose import alone takes 3 s (least of 15 turns each). The network's step on these views takes about 120 ms.
* Parameters are drawn on the generator's device and do not depend on the images' device. A CPU generator gives the
  same views on a CPU and on a GPU, to rounding, and costs no synchronisation.
"""

import math

import torch

from replicate.errors import UserError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
LUMA = (0.2989, 0.587, 0.114)  # ITU-R 601-2, as torchvision's
CROP_RATIO = (3 / 4, 4 / 3)
CROP_TRIES = 10  # torchvision's; then the whole image is taken
FLIP = 0.5
JITTER, BRIGHTNESS, CONTRAST, SATURATION, HUE = 0.8, 0.4, 0.4, 0.2, 0.1
GRAYSCALE = 0.2
BLUR_TAPS_224, BLUR_SIGMA_224 = 23, (0.1, 2.0)
# Probability of (blur, solarization): BYOL's two views, which are DINO's two global crops too, and DINO's local crops.
FIRST_VIEW, SECOND_VIEW, LOCAL_VIEW = (1.0, 0.0), (0.1, 0.2), (0.5, 0.0)


def two_views(images, px, generator, crop_area=(0.08, 1.0)):
    """BYOL's two views of a batch.

    images: (N, 3, S, S), uint8, or float in [0, 1]. px: side of the views in pixels. crop_area: the crop's share of
    the image's area, (low, high). Returns two float32 tensors (N, 3, px, px), ImageNet-normalised, on the images'
    device. Raises UserError on images or sizes that cannot be cropped.
    """
    images = _unit_floats(images)
    return tuple(_view(images, px, generator, crop_area, *kind) for kind in (FIRST_VIEW, SECOND_VIEW))


def multi_crop(images, px, generator, global_area, local_area, local_px, local_crops):
    """DINO's crops of a batch: two global ones of px pixels and local_crops small ones of local_px pixels.

    images as in two_views; global_area, local_area: shares of the image's area, (low, high). Returns float32 tensors
    (2, N, 3, px, px) and (local_crops, N, 3, local_px, local_px), ImageNet-normalised.
    """
    images = _unit_floats(images)
    kinds = (FIRST_VIEW, SECOND_VIEW)
    global_views = torch.stack([_view(images, px, generator, global_area, *kind) for kind in kinds])
    local_views = global_views.new_empty((local_crops, len(images), 3, local_px, local_px))
    for views in local_views:
        views.copy_(_view(images, local_px, generator, local_area, *LOCAL_VIEW))
    return global_views, local_views


def _view(images, px, generator, area, blur, solarization):
    """One augmented view of float images in [0, 1]; blur and solarization are probabilities."""
    views = _random_resized_crop(images, px, generator, area, CROP_RATIO, FLIP, "bicubic")
    colour_jitter_(views, generator)
    _apply_(views, _happens(views, GRAYSCALE, generator), grayscale)
    low, high = (sigma * px / 224 for sigma in BLUR_SIGMA_224)
    sigmas = _uniform(len(views), low, high, generator)
    _apply_(views, _happens(views, blur, generator), lambda x, sigma: gaussian_blur(x, sigma, blur_taps(px)), sigmas)
    _apply_(views, _happens(views, solarization, generator), solarize)
    return _normalise_(views)


def normalise(images):
    """(N, 3, H, W) uint8, or float in [0, 1], to float32 less ImageNet's mean, over its standard deviation."""
    return _normalise_(_unit_floats(images, copy=True))


def _normalise_(images):
    mean, std = (images.new_tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    return images.sub_(mean).div_(std)


def _unit_floats(images, copy=False):
    """The batch as float32 in [0, 1]; float32 images themselves unless copy."""
    if images.ndim != 4 or images.shape[1] != 3:
        raise UserError(f"augmentation needs images of shape (N, 3, H, W), got {tuple(images.shape)}")
    if images.dtype == torch.uint8:
        return images.to(torch.float32).div_(255)
    if not images.is_floating_point():
        raise UserError(f"augmentation needs uint8 or float images, got {images.dtype}")
    if images.numel() and not 0 <= images.min() <= images.max() <= 1:
        raise UserError("float images must lie in [0, 1]: divide by 255 or pass uint8")
    return images.to(torch.float32, copy=copy)


# ---- randomness -----------------------------------------------------------------------------------------------------


def _uniform(shape, low, high, generator):
    return torch.rand(shape, generator=generator, device=generator.device).mul_(high - low).add_(low)


def _happens(images, probability, generator):
    """(N,) bool, true with the given probability. Draws at 0 and 1 too, so that one setting shifts no other's draws."""
    return _uniform(len(images), 0, 1, generator) < probability


def _apply_(images, chosen, change, *parameters):
    """Replaces images[chosen] by change(images[chosen], *parameters[chosen]); the others cost nothing."""
    rows = chosen.nonzero().squeeze(1)
    if len(rows) == 0:
        return
    parameters = [values[rows].to(images.device, non_blocking=True) for values in parameters]
    rows = rows.to(images.device, non_blocking=True)
    images.index_copy_(0, rows, change(images.index_select(0, rows), *parameters))


# ---- crop, resize, mirror -------------------------------------------------------------------------------------------


def random_resized_crop(images, px, generator, area=(0.08, 1.0), ratio=CROP_RATIO, flip=0.0, interpolation="bilinear"):
    """A random box of each image, resized to px, mirrored with probability flip.

    images: (N, 3, S, S), uint8, or float in [0, 1]. area: share of the image's area, uniform in (low, high); ratio:
    width over height, log-uniform in (low, high). Returns float32 (N, 3, px, px) in [0, 1]. The box is drawn as
    torchvision's RandomResizedCrop draws it: ten tries for one that fits, then the whole image.
    """
    return _random_resized_crop(_unit_floats(images), px, generator, area, ratio, flip, interpolation)


def _random_resized_crop(images, px, generator, area, ratio, flip, interpolation):
    side = images.shape[-1]
    if images.shape[-2] != side:
        raise UserError(f"random crops need square images, got {images.shape[-2]} x {side} px")
    if px < 1:
        raise UserError(f"random crops need a size of at least 1 px, got {px}")
    if not 0 < area[0] <= area[1] <= 1:
        raise UserError(f"crop area must satisfy 0 < low <= high <= 1, got {tuple(area)}")
    boxes = random_boxes(len(images), side, generator, area, ratio)
    mirrored = _happens(images, flip, generator)
    return resized_crop(images, boxes.to(images.device), px, interpolation, mirrored.to(images.device))


def random_boxes(n, side, generator, area, ratio):
    """(n, 4) float tensor of whole numbers, top, left, height, width, in images of side x side px."""
    target = side * side * _uniform((n, CROP_TRIES), *area, generator)
    aspect = _uniform((n, CROP_TRIES), math.log(ratio[0]), math.log(ratio[1]), generator).exp_()
    width, height = (target * aspect).sqrt_().round_(), (target / aspect).sqrt_().round_()
    fits = (width >= 1) & (width <= side) & (height >= 1) & (height <= side)
    first = fits.to(torch.uint8).argmax(1, keepdim=True)
    size = torch.stack([height, width], 2).take_along_dim(first[:, :, None], 1).squeeze(1)
    size = torch.where(fits.any(1, keepdim=True), size, float(side))
    corner = (_uniform((n, 2), 0, 1, generator) * (side - size + 1)).floor_()
    return torch.cat([corner, size], 1)


def resized_crop(images, boxes, px, interpolation="bilinear", mirrored=None):
    """Boxes (N, 4) of top, left, height, width out of float images (N, 3, H, W), resized to px with antialiasing.

    Interpolation bilinear or bicubic, separable, so a crop, its resize and its mirror image are two small matrices
    an image: faster than grid_sample, which does not antialias. Returns (N, 3, px, px), clamped to [0, 1].
    """
    n, _, height, width = images.shape
    top, left, rows, columns = boxes.unbind(1)
    across = _resize_matrices(left, columns, width, px, interpolation, mirrored)
    down = _resize_matrices(top, rows, height, px, interpolation)
    images = torch.bmm(images.reshape(n, 3 * height, width), across.transpose(1, 2)).view(n, 3, height, px)
    # One product a channel: a broadcast over channels would copy the matrices and is four times slower.
    resized = torch.stack([torch.bmm(down, images[:, channel]) for channel in range(3)], 1)
    return resized.clamp_(0, 1) if interpolation == "bicubic" else resized


def _resize_matrices(start, length, side, px, interpolation, mirrored=None):
    """(N, px, side) weights that resample [start, start + length) of side pixels to px pixels, rows summing to one.

    The kernel is widened by the scale where a crop is reduced (antialiasing) and sees no pixel outside the crop.
    """
    centre = (torch.arange(px, device=start.device) + 0.5) * (length / px)[:, None]
    if mirrored is not None:
        centre = torch.where(mirrored[:, None], length[:, None] - centre, centre)
    pixel = torch.arange(side, device=start.device) - start[:, None]
    inside = ((pixel >= 0) & (pixel < length[:, None])).to(start.dtype)
    distance = ((pixel + 0.5)[:, None] - centre[:, :, None]).abs_()
    weights = KERNELS[interpolation](distance.div_((length / px).clamp(min=1)[:, None, None]))
    weights.mul_(inside[:, None])
    return weights.div_(weights.sum(2, keepdim=True))


def _triangle(distance):
    return (1 - distance).clamp_(min=0)


def _cubic(distance):
    """Keys' kernel with a = -1/2, Pillow's and that of torch's antialiased resize."""
    t = distance.clamp(max=1)
    near = t.mul(1.5).sub_(2.5).mul_(t).mul_(t).add_(1)
    t = distance.clamp_(1, 2)  # both halves are zero at their common end, so they add
    far = t.mul(-0.5).add_(2.5).mul_(t).sub_(4).mul_(t).add_(2)
    return near.add_(far)


KERNELS = {"bilinear": _triangle, "bicubic": _cubic}


# ---- colour ---------------------------------------------------------------------------------------------------------
# Images are float (N, 3, H, W) in [0, 1]; factor is (N,), one value an image.


def colour_jitter_(images, generator):
    """Brightness, contrast, saturation and hue, in an order drawn for each image, on four images in five; in place."""
    n = len(images)
    jittered = _happens(images, JITTER, generator)
    order = _uniform((n, 4), 0, 1, generator).argsort(1)
    changes = [(change, _uniform(n, 1 - strength, 1 + strength, generator)) for change, strength in
               ((brightness, BRIGHTNESS), (contrast, CONTRAST), (saturation, SATURATION))]
    changes.append((hue, _uniform(n, -HUE, HUE, generator)))
    for position in range(4):
        for which, (change, factor) in enumerate(changes):
            _apply_(images, jittered & (order[:, position] == which), change, factor)


def brightness(images, factor):
    return (images * _per_image(factor)).clamp_(0, 1)


def contrast(images, factor):
    """Away from (factor > 1) or towards the image's mean luma."""
    return _blend(images, luma(images).mean((2, 3), keepdim=True), factor)


def saturation(images, factor):
    """Away from (factor > 1) or towards each pixel's luma."""
    return _blend(images, luma(images), factor)


def hue(images, shift):
    """Turns the hue by shift, in turns; HSV's value and chroma stay. shift: (N,)."""
    # Sorting networks and signs instead of torch.where, which costs 25 passes of arithmetic on a CPU.
    red, green, blue = images.unbind(1)
    upper, lower = torch.maximum(green, blue), torch.minimum(green, blue)
    high, middle = torch.maximum(red, upper), torch.minimum(red, upper)
    low = torch.minimum(middle, lower)
    chroma = high - low
    # Hue in sixths of a turn: |offset + (middle - lower) / chroma|, offset 0 or -6 where red is highest, -2 where green
    # is, 4 where blue is. A grey pixel's is of no consequence, its chroma being zero.
    offset = (blue - green).sign_().clamp_(min=0).mul_(-6)
    not_red = (upper - red).sign_().clamp_(min=0)
    offset.addcmul_(not_red, offset.add(1), value=-2)
    sixths = middle.sub_(lower).div_(chroma.clamp(min=1e-12)).add_(offset).abs_().add_(6 * shift[:, None, None])
    sixths.sub_(sixths.div(6).floor_().mul_(6))
    channels = [(sixths - 3).abs_().sub_(1)] + [(sixths - peak).abs_().neg_().add_(2) for peak in (2, 4)]
    return torch.stack([share.clamp_(0, 1).mul_(chroma).add_(low) for share in channels], 1)


def luma(images):
    """(N, 1, H, W) grey value."""
    red, green, blue = images.split(1, 1)
    return (red * LUMA[0]).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])


def grayscale(images):
    return luma(images).expand_as(images)


def solarize(images):
    """Inverts what is above one half."""
    return torch.minimum(images, 1 - images)


def _blend(images, other, factor):
    factor = _per_image(factor)
    return (images * factor).add_(other * (1 - factor)).clamp_(0, 1)


def _per_image(values):
    return values[:, None, None, None]


# ---- blur -----------------------------------------------------------------------------------------------------------


def blur_taps(px):
    """Odd number of taps for views of px pixels: 23 at 224 px, 7 at 64, 3 at 32, 1 (no blur) below 20."""
    return 1 + 2 * round((BLUR_TAPS_224 * px / 224 - 1) / 2)


def gaussian_blur(images, sigma, taps):
    """Separable Gaussian of an odd number of taps, sigma (N,) in pixels, borders reflected."""
    if taps == 1:
        return images
    half = taps // 2
    offsets = torch.arange(-half, half + 1, device=images.device)
    weights = (offsets / sigma[:, None]).square_().mul_(-0.5).softmax(1)
    blurred = torch.nn.functional.pad(images, (half,) * 4, mode="reflect")
    for axis, size in ((2, images.shape[2]), (3, images.shape[3])):
        padded, blurred = blurred, 0
        for tap in range(taps):
            window, weight = padded.narrow(axis, tap, size), _per_image(weights[:, tap])
            blurred = window * weight if tap == 0 else blurred.addcmul_(window, weight)
    return blurred
