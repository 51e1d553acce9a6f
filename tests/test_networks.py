import pytest
import torch

from replicate import networks


def test_shapes_and_widths():
    network = networks.build("thin_resnet", 128, [512, 512, 32])
    representation, embedding = network(torch.randn(4, 3, 32, 32))
    assert representation.shape == (4, 128) and embedding.shape == (4, 32)
    assert network.projector[-1].bias is None and (representation >= 0).all()
    assert network.backbone(torch.randn(2, 3, 16, 16)).shape == (2, 128)


def test_dinos_logits_are_cosines_with_unit_prototypes():
    torch.manual_seed(0)
    network = networks.build("thin_resnet", 128, [64, 64, 16], prototypes=10)
    embedding = torch.randn(5, 16)
    logits = network.logits(embedding)
    torch.testing.assert_close(logits, network.logits(3 * embedding))
    assert logits.abs().max() <= 1 + 1e-6
    torch.testing.assert_close(network.unit_prototypes().norm(dim=1), torch.ones(10))
    assert network.projector[-1].bias is not None


@pytest.mark.parametrize("name, width", [("resnet18", 512), ("resnet50", 2048)])
def test_torchvisions_resnets_end_at_the_pooled_features(name, width):
    assert networks.backbone(name).eval()(torch.randn(1, 3, 32, 32)).shape == (1, width)
