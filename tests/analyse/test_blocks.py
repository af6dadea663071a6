"""Which layers an analysis looks at by default."""

from __future__ import annotations

import torch

import leanconv as lc
from leanconv import analyse
from leanconv.analyse.cam import last_maps
from leanconv.analyse.layers import block_layers, chosen


def test_a_block_is_the_unit_of_a_tied_and_of_a_dense_network():
    """The default layers of both networks are the same blocks, and a tied block's output spans all of its splits."""
    with torch.device("meta"):
        dense, tied = lc.create_model("timm/resnet50"), lc.create_model("tied_resnet50_s")
    blocks = [f"layer{stage}.{block}" for stage, depth in enumerate((3, 4, 6, 3), 1) for block in range(depth)]
    assert block_layers(dense) == block_layers(tied) == blocks
    assert chosen(dense, (), 4, blocks=True) == chosen(tied, (), 4, blocks=True) == [blocks[i] for i in (0, 5, 10, 15)]
    assert block_layers(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3))) == []
    vgg = lc.create_model("shard_vgg16", width=8)
    assert block_layers(vgg) == [] and chosen(vgg, (), 4, blocks=True) == chosen(vgg, (), 4)
    small = lc.create_model("resnet8").eval()
    images = torch.randn(2, 3, 32, 32)
    assert analyse.grad_cam(small, images).layer == "layer3.0"
    assert analyse.grad_cam(small, images, "layer3.0.conv2").maps.shape == (2, 8, 8)
    assert last_maps(vgg, images) == "block5.conv3"
