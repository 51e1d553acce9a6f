"""A trained backbone in the form that other programs read: detectron2's weights and configuration, or torchvision's.

Names of detectron2's layers: facebookresearch/moco, detection/convert-pretrain-to-detectron2.py, and
facebookresearch/vissl, extra_scripts/convert_vissl_to_detectron2.py.
"""

import re
from pathlib import Path

from torch import Tensor

from replicate import checkpoint, paths, study
from replicate.errors import UserError
from replicate.grid import Run
from replicate.probes import finetune
from replicate.profile import Profile

NETWORKS = {"detectron2": ("resnet50",), "torchvision": ("resnet18", "resnet50")}  # format: what it can hold
WEIGHTS, CONFIG = "backbone.pth", "voc0712_c4.yaml"

# VICReg's appendix C.3 (rate, warm-up, proposals' loss) on MoCo's configuration for VOC 2007 + 2012; the rest of
# detectron2's defaults stays. DESCRIPTION is filled in.
DETECTRON2 = """\
# Faster R-CNN C4 on VOC 2007 + 2012 from the backbone of DESCRIPTION.
#
# 1. Install detectron2, and get detection/train_net.py of github.com/facebookresearch/moco: it defines the heads
#    Res5ROIHeadsExtraNorm, which have a batch norm behind res5.
# 2. Let DETECTRON2_DATASETS be the folder that holds VOC2007/ and VOC2012/, each with Annotations, ImageSets and
#    JPEGImages: `python -m replicate data prepare voc0712` makes it, DATA_ROOT/prepared/voc0712.
# 3. In this folder: python PATH/TO/train_net.py --config-file voc0712_c4.yaml --num-gpus 8 OUTPUT_DIR output
#
# It ends with AP, AP50 and AP75 of VOC 2007's test split; table 3 has AP50. The rate of .1 belongs to 16 images over
# all GPUs together.
MODEL:
  META_ARCHITECTURE: GeneralizedRCNN
  WEIGHTS: backbone.pth
  MASK_ON: false
  PIXEL_MEAN: [123.675, 116.28, 103.53]
  PIXEL_STD: [58.395, 57.12, 57.375]
  BACKBONE:
    FREEZE_AT: 0
  RESNETS:
    DEPTH: 50
    NORM: SyncBN
    STRIDE_IN_1X1: false
  RPN:
    PRE_NMS_TOPK_TEST: 6000
    POST_NMS_TOPK_TEST: 1000
    LOSS_WEIGHT: 0.2
  ROI_HEADS:
    NAME: Res5ROIHeadsExtraNorm
    NUM_CLASSES: 20
INPUT:
  FORMAT: RGB
  MIN_SIZE_TRAIN: [480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800]
  MIN_SIZE_TEST: 800
DATASETS:
  TRAIN: [voc_2007_trainval, voc_2012_trainval]
  TEST: [voc_2007_test]
SOLVER:
  IMS_PER_BATCH: 16
  BASE_LR: 0.1
  MAX_ITER: 24000
  STEPS: [18000, 22000]
  WARMUP_FACTOR: 0.333
  WARMUP_ITERS: 1000
TEST:
  PRECISE_BN:
    ENABLED: true
VERSION: 2
"""


def detectron2_name(name: str) -> str:
    """A ResNet's layer from torchvision's name to detectron2's: layer1.0.bn2.bias is res2.0.conv2.norm.bias."""
    name = re.sub(r"^layer(\d)", lambda stage: f"res{int(stage[1]) + 1}", name)
    name = re.sub(r"^(conv|bn)1\.", r"stem.\g<0>", name)
    name = name.replace("downsample.0.", "shortcut.").replace("downsample.1.", "shortcut.norm.")
    return re.sub(r"\bbn(\d)\.", r"conv\1.norm.", name)


def detectron2_state(state: dict[str, Tensor]) -> dict:
    """What detectron2's checkpointer reads; it finds each layer's place by the end of its name."""
    kept = {detectron2_name(name): value for name, value in state.items() if not name.endswith("num_batches_tracked")}
    return {"model": kept, "__author__": "replicate", "matching_heuristics": True}


def backbone(profile: Profile, run: Run, seed: int) -> dict[str, Tensor]:
    """A trained run's backbone under torchvision's names, without a classifier. UserError where it is not trained."""
    if not study.pretrain_path(profile, run, seed).exists():
        raise study.not_trained(profile, run, seed)
    path = study.checkpoint_path(profile, run, seed)
    try:
        return finetune.backbone(profile, run, seed).state_dict()
    except FileNotFoundError:
        raise UserError(f"{path}: is not there: the training diverged before its first checkpoint") from None
    except RuntimeError:
        raise UserError(f"{path}: not the networks of profile {profile.name}; name the one of its training") from None


def export(profile: Profile, run: Run, seed: int, form: str, out: Path) -> list[Path]:
    """Write backbone.pth, and for detectron2 its configuration, into the folder `out`; returns what was written."""
    if profile.network not in NETWORKS[form]:
        raise UserError(f"profile {profile.name} trains {profile.network}; {form} reads {' or '.join(NETWORKS[form])}")
    state = backbone(profile, run, seed)
    if form == "torchvision":
        checkpoint.save(out / WEIGHTS, state)
        return [out / WEIGHTS]
    checkpoint.save(out / WEIGHTS, detectron2_state(state))
    what = f"{run.run}, seed {seed} ({profile.provenance})"
    paths.write_text(out / CONFIG, DETECTRON2.replace("DESCRIPTION", what))
    return [out / WEIGHTS, out / CONFIG]
