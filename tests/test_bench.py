"""The benchmark of pretraining compares like with like, and runs."""

import pytest
import torch

from benchmarks import bench_pretrain
from replicate import profile
from replicate.data import augment, microworld


@pytest.fixture(scope="module")
def images():
    return torch.from_numpy(microworld.make("imagenet", 512, 1, 0, 32).train)


def test_lightlys_views_are_ours_in_distribution(images, monkeypatch):
    """Mean, spread and sharpness in both views: another jitter, crop, blur or solarization would show.

    But for the interpolation, which lightly's transforms fix to bilinear: ours is set to it here.
    """
    crop = augment._random_resized_crop
    monkeypatch.setattr(augment, "_random_resized_crop", lambda *arguments: crop(*arguments[:-1], "bilinear"))
    sizes = profile.load(bench_pretrain.PROFILE)
    pictures = bench_pretrain.Pictures(images, bench_pretrain.lightly_transform(sizes))
    torch.manual_seed(0)
    theirs = [torch.stack(views) for views in zip(*(pictures[i][0] for i in range(len(pictures))))]
    ours = augment.two_views(images, sizes.px, torch.Generator().manual_seed(0), tuple(sizes.crop_area))
    for mine, peer in zip(ours, theirs):
        assert mine.shape == peer.shape and mine.dtype == peer.dtype
        torch.testing.assert_close(mine.mean((0, 2, 3)), peer.mean((0, 2, 3)), atol=0.1, rtol=0)
        torch.testing.assert_close(mine.std((0, 2, 3)), peer.std((0, 2, 3)), atol=0.07, rtol=0)
        sharpness = [(views[..., 1:] - views[..., :-1]).abs().mean().item() for views in (mine, peer)]
        assert sharpness[0] == pytest.approx(sharpness[1], rel=0.08)


def test_both_loops_run_and_the_ratio_is_printed(images, monkeypatch, capsys):
    monkeypatch.setattr(bench_pretrain, "WARM_UP", 1)
    monkeypatch.setattr(bench_pretrain, "CORES", 1)
    threads = torch.get_num_threads()
    contenders = [(bench_pretrain.ours, 0), (bench_pretrain.lightly, 0)]
    bench_pretrain.contest(bench_pretrain.one_training, contenders, images, steps=1, repeats=1)
    torch.set_num_threads(threads)
    lines = capsys.readouterr().out.splitlines()
    assert "turn 1: replicate" in lines[2] and "ratio to lightly's best" in lines[-1]
