"""What VISSL is told: sizes, heads, seeds and quoting; that the rest is VISSL's own is tested beside the library."""

import dataclasses

import pytest
from replicate import profile
from replicate.data import manifest
from replicate.probes.vissl import settings

PAPER = profile.load("paper")


def value(lines, key):
    found = [line.split("=", 1)[1] for line in lines if line.split("=", 1)[0] == key]
    assert len(found) == 1, key
    return found[0]


def lines_of(name, px=224, scale=1.0, n_classes=10, widths=(2048, 512)):
    sized = dataclasses.replace(PAPER, px=px, probe_lr_scale=scale)
    widths = dict(zip(("representation", "embedding"), widths))
    return settings.jobs(sized, name, manifest.load(name).probe, widths, n_classes)["linear"][1]


@pytest.mark.parametrize("name", PAPER.datasets)
def test_every_set_of_the_paper_has_a_configuration_of_its_kind(name):
    kind = manifest.load(name).probe["kind"]
    assert settings.CONFIGS[name].endswith("_svm" if kind == "svm" else "_linear")


def test_a_set_outside_the_paper_takes_the_configuration_of_its_transform():
    assert "imagenet1k" in lines_of("tiny_imagenet")[0] and "cifar10" in lines_of("fashion_mnist")[0]


@pytest.mark.parametrize("px, side", [(224, 256), (32, 37), (64, 73)])
def test_sizes_keep_the_benchmarks_ratio_of_256_to_224(px, side):
    test = value(lines_of("imagenet", px), "DATA.TEST.TRANSFORMS")
    assert f"{{name:Resize,size:{side}}},{{name:CenterCrop,size:{px}}}" in test
    assert f"{{name:RandomResizedCrop,size:{px}}}" in value(lines_of("imagenet", px), "DATA.TRAIN.TRANSFORMS")


def test_sets_without_random_crops_are_squashed_and_mirrored_in_training_only():
    lines = lines_of("sun397", 32)
    assert value(lines, "DATA.TRAIN.TRANSFORMS").startswith("[{name:Resize,size:[32,32]},{name:RandomHorizontalFlip},")
    assert "Flip" not in value(lines, "DATA.TEST.TRANSFORMS")


def test_both_spaces_and_the_mlp_are_heads_of_one_process():
    lines = lines_of("sun397", n_classes=397, widths=(128, 32))
    assert value(lines, "METERS.accuracy_list_meter.num_meters") == "4"
    heads = value(lines, "MODEL.HEAD.PARAMS")
    assert "{in_channels:128,dims:[128,397],use_relu:False}" in heads
    assert "{in_channels:32,dims:[32,32,32,397],use_relu:True}" in heads
    pools = value(lines, "MODEL.FEATURE_EVAL_SETTINGS.LINEAR_EVAL_FEAT_POOL_OPS_MAP")
    assert pools.count("Identity") == 4 and "[embedding-mlp," in pools


def test_the_learning_rate_is_scaled_by_the_profile_and_the_schedule_is_the_manifests():
    key = "OPTIMIZER.param_schedulers.lr"
    assert value(lines_of("cars", scale=5.0), f"{key}.auto_lr_scaling.base_value") == "0.05"
    assert value(lines_of("inat18"), f"{key}.milestones") == "[24,48,72]"
    assert value(lines_of("inat18"), f"{key}.values") == "[0.01,0.001,0.0001,1e-05]"
    assert (value(lines_of("clevr_count"), f"{key}.name"), value(lines_of("clevr_count"), f"{key}.end_value")) == (
        "cosine", "0.0001")  # fmt: skip


@pytest.mark.parametrize("name", ["inat18", "imagenet", "voc07"])
def test_vissls_own_product_of_seed_and_epochs_stays_below_32_bits(name):
    epochs = manifest.load(name).probe.get("epochs", 28)
    seeds = {settings.seed_of(name, seed, probe_seed) for seed in range(3) for probe_seed in range(3)}
    assert len(seeds) == 9 and max(seeds) * epochs < 2**32


@pytest.mark.parametrize("text", ["/a b/c", "it's", "/a$b", "${x}", "a\\b", "a\\", "a\\'b", "[x],{y}:z=1", ""])
def test_paths_are_quoted_so_that_hydra_reads_them_back(text):
    parser = pytest.importorskip("hydra.core.override_parser.overrides_parser").OverridesParser.create()
    (override,) = parser.parse_overrides([f"++config.CHECKPOINT.DIR={settings.quoted(text)}"])
    from omegaconf import OmegaConf

    assert OmegaConf.create({"dir": str(override.value())})["dir"] == text


def test_every_override_but_the_configuration_lies_below_config():
    lines = settings.as_arguments(lines_of("cars") + settings.machine("cpu", "/out", "/w.pt", "cars", 1))
    assert lines[0].startswith("config=benchmark/")
    assert all(line.startswith("++config.") for line in lines[1:])


def test_k_nn_is_told_to_normalise_which_is_not_its_default():
    lines = settings.knn_test({"representation": 128}, manifest.load("sun397").probe, 32)
    assert value(lines, "NEAREST_NEIGHBOR.L2_NORM_FEATS") == "True" and len(settings.KNN_GRID) == 36


def test_the_svm_takes_vissls_8192_wide_layer_beside_ours_at_the_benchmarks_size_only():
    probe, widths = manifest.load("voc07").probe, {"representation": 2048, "embedding": 512}
    _, lines = settings.jobs(PAPER, "voc07", probe, widths, 20)["svm"]
    assert "[res5,[AvgPool2d,[[6,6],1,0]]]" in value(lines, "MODEL.FEATURE_EVAL_SETTINGS.LINEAR_EVAL_FEAT_POOL_OPS_MAP")
    assert value(lines, "SVM.costs.costs_list") == "[0.01,0.1,1,2,5,10,15,20,50,100,1000]"
    assert settings.heads_of("svm", probe, widths, 32) == widths


def test_a_cpu_needs_no_gpu_backend_and_a_folder_of_its_own_is_absolute():
    lines = settings.machine("cpu", "/out", "/w.pt", "cars", 1)
    assert value(lines, "DISTRIBUTED.BACKEND") == "gloo" and value(lines, "CHECKPOINT.DIR") == "'/out'"
    assert value(settings.machine("cuda:1", "/out", "/w", "cars", 1), "MACHINE.DEVICE") == "gpu"
