"""Backbones, projectors and prototypes. Representation: the backbone's pooled output; embedding: the projector's."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

THIN_CHANNELS, THIN_STRIDES = (16, 32, 64, 128), (1, 2, 2, 2)


class ThinBlock(nn.Module):
    """The basic block of He et al. 2016: two 3x3 convolutions and a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(self.bn2(self.conv2(out)) + self.shortcut(x), inplace=True)


def thin_resnet() -> nn.Sequential:
    """A ResNet of four basic blocks, 16 to 128 channels, (N, 3, px, px) -> (N, 128); about 12 MFLOP forward at 32 px."""
    layers: list[nn.Module] = [nn.Conv2d(3, THIN_CHANNELS[0], 3, 2, 1, bias=False), nn.BatchNorm2d(THIN_CHANNELS[0]),
                               nn.ReLU()]
    inputs = THIN_CHANNELS[0]
    for outputs, stride in zip(THIN_CHANNELS, THIN_STRIDES):
        layers.append(ThinBlock(inputs, outputs, stride))
        inputs = outputs
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return net


def backbone(name: str) -> nn.Module:
    """'thin_resnet', or torchvision's 'resnet18' and 'resnet50' without their classifier."""
    if name == "thin_resnet":
        return thin_resnet()
    import torchvision.models  # 3 s to import, needless for the thin network

    net = getattr(torchvision.models, name)()
    net.fc = nn.Identity()
    return net


def projector(inputs: int, widths: list[int]) -> nn.Sequential:
    """Linear-BN-ReLU for each hidden width, then Linear without bias (Garrido et al. 2022, section 5)."""
    return _mlp(inputs, widths, nn.ReLU, bias=False)


def dino_projector(inputs: int, widths: list[int]) -> nn.Sequential:
    """DINO's head up to its bottleneck (Caron et al. 2021): Linear-BN-GELU for each hidden width, then Linear.

    With batch norm, as its authors' ResNet-50 recipe (use_bn_in_head); without it the mini study collapses to one output.
    """
    head = _mlp(inputs, widths, nn.GELU, bias=True)
    for module in head:
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)
    return head


def _mlp(inputs: int, widths: list[int], activation: type[nn.Module], bias: bool) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in widths[:-1]:
        layers += [nn.Linear(inputs, width), nn.BatchNorm1d(width), activation()]
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, widths[-1], bias=bias))


class Network(nn.Module):
    """Backbone, projector and, for DINO, prototypes (P, K)."""

    def __init__(self, net: nn.Module, head: nn.Module, prototypes: Tensor | None = None):
        super().__init__()
        self.backbone, self.projector = net, head
        self.prototypes = None if prototypes is None else nn.Parameter(prototypes)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images (N, 3, px, px) to representations (N, w) and embeddings (N, d)."""
        representation = self.backbone(images)
        return representation, self.projector(representation)

    def unit_prototypes(self) -> Tensor:
        """DINO's prototypes: the rows of its weight-normalised last layer, gain fixed to 1."""
        return F.normalize(self.prototypes, dim=1)

    def logits(self, embedding: Tensor) -> Tensor:
        """Embeddings (N, K) before DINO's L2 normalisation to its logits (N, P)."""
        return F.linear(F.normalize(embedding, dim=1), self.unit_prototypes())


def build(network: str, width: int, widths: list[int], prototypes: int = 0) -> Network:
    """A fresh network, initialised from torch's global generator."""
    net = backbone(network)
    if not prototypes:
        return Network(net, projector(width, widths))
    return Network(net, dino_projector(width, widths), torch.randn(prototypes, widths[-1]) * widths[-1] ** -0.5)
