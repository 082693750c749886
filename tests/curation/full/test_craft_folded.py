"""What is multiplied out gives the maps that EasyOCR's CRAFT gives."""

import pytest
import torch

from curation.full.craft_folded import Folded
from curation.full.torchvision_ops import make_importable


@pytest.mark.parametrize("size", [(64, 96), (96, 64)])
def test_the_maps_are_crafts(size: tuple[int, int]) -> None:
    """With biases and statistics that are not those of a network that has seen nothing."""
    make_importable()
    from easyocr.craft import CRAFT

    torch.manual_seed(0)
    craft = CRAFT().eval()
    for module in craft.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
            torch.nn.init.uniform_(module.weight, 0.5, 2)
        if isinstance(module, torch.nn.BatchNorm2d | torch.nn.Conv2d):
            torch.nn.init.normal_(module.bias, 0, 0.2)
    before = {name: value.clone() for name, value in craft.state_dict().items()}
    x = torch.randn(2, 3, *size)
    with torch.no_grad():
        wanted, found = craft(x)[0], Folded(craft)(x)
    assert wanted.std() > 0.1
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)
    assert all(torch.equal(value, before[name]) for name, value in craft.state_dict().items())
