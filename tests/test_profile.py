import pytest
import yaml

from replicate import grid, paths, profile
from replicate.errors import UserError

NAMES = ("mini", "small", "small-gpu", "paper")


@pytest.mark.parametrize("name", NAMES)
def test_profiles_keep_the_grids_ratios(name):
    p = profile.load(name)
    simclr, vicreg, wide = grid.get("SimCLR-15"), grid.get("VICReg-9"), grid.get("SimCLR-0")
    assert p.batch_of(simclr) == 2 * p.batch_of(vicreg) == 2 * p.batch
    assert p.projector_of(simclr) == [4 * p.width, 4 * p.width, p.width]
    assert p.projector_of(wide)[-1] == p.width // 4
    assert p.epochs_of(grid.get("iNat18-SimCLR-0")) == 3 * p.epochs
    assert p.lr_of(simclr) == pytest.approx(0.5 * p.batch_of(simclr) / 256 * p.lr_scale["LARS"])


def test_the_paper_profile_is_the_papers():
    p = profile.load("paper")
    assert p.projector_of(grid.get("SimCLR-15")) == [8192, 8192, 2048]
    assert p.projector_of(grid.get("iNat18-VICReg-0")) == [8192, 8192, 8192]
    assert (p.batch_of(grid.get("SimCLR-15")), p.batch_of(grid.get("VICReg-0"))) == (2048, 1024)
    assert (p.epochs_of(grid.get("DINO-0")), p.warmup_epochs, p.px) == (100, 10, 224)
    assert set(p.lr_scale.values()) == {1.0}


def test_mini_has_enough_samples_for_the_rank():
    p = profile.load("mini")
    assert all(n >= 20 * p.width for name, (n, _) in p.sizes.items() if name != "voc07")
    assert min(val for _, val in p.sizes.values()) >= 1000


@pytest.mark.parametrize("key, value, says", [
    ("bach", 128, "unknown key 'bach'"),
    ("batch", 0, "impossible"),
    ("batch", "128", "expected int"),
    ("batch", True, "expected int"),
    ("crop_area", [0.5, 0.2], "impossible"),
    ("precision", "fp8", "impossible"),
    ("sources", {"imagenet": "elsewhere"}, "impossible"),
    ("lr_scale", {"LARS": 1.0}, "impossible"),
    ("sizes", {"imagenet": [10, 10]}, "impossible"),
    ("warmup_epochs", 99, "impossible"),
])  # fmt: skip
def test_bad_keys_and_values_name_key_and_file(tmp_path, key, value, says):
    path = tmp_path / "broken.yaml"
    path.write_text(yaml.safe_dump({"base": "mini", key: value}))
    with pytest.raises(UserError, match=says) as error:
        profile.load(str(path))
    assert key in str(error.value) and str(path) in str(error.value)


def test_missing_keys_missing_files_and_bad_yaml(tmp_path):
    values = yaml.safe_load((paths.PROFILES / "mini.yaml").read_text())
    del values["batch"]
    (tmp_path / "short.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(UserError, match="'batch' is missing"):
        profile.load(str(tmp_path / "short.yaml"))
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(UserError, match="bad.yaml"):
        profile.load(str(tmp_path / "bad.yaml"))
    with pytest.raises(UserError, match="mini"):
        profile.load("huge")
