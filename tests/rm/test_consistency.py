"""RoIAlign of a shared box, as a fixed weighting, against torchvision's and against what it must
be.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import roi_align

from rm import registry
from rm.methods._consistency import ConsistencyNetwork, roi_features


@st.composite
def cases(draw):
    stride = draw(st.sampled_from([1, 4, 8]))
    cells = draw(st.integers(1, 7)), draw(st.integers(1, 7))
    height, width = cells[0] * stride, cells[1] * stride
    y0, x0 = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
    return (
        cells,
        (height, width),
        (y0, x0, draw(st.integers(y0 + 1, height)), draw(st.integers(x0 + 1, width))),
    )


@given(cases(), st.booleans())
@settings(max_examples=150, deadline=None)
def test_equals_torchvision(case, transposed):
    (rows, columns), (height, width), (y0, x0, y1, x1) = case
    features = torch.randn(2, 3, rows, columns, generator=torch.Generator().manual_seed(3))
    corners = [y0, x0, y1, x1] if transposed else [x0, y0, x1, y1]  # torchvision wants x first
    boxes = torch.tensor([[i, *corners] for i in range(2)], dtype=torch.float32)
    expected = roi_align(
        features, boxes, 1, spatial_scale=rows / height, sampling_ratio=-1, aligned=True
    )
    ours = roi_features(features, (y0, x0, y1, x1), (height, width), transposed=transposed)
    assert torch.allclose(ours, expected[:, :, 0, 0], atol=1e-5)


@pytest.mark.parametrize(("rows", "columns"), [(4, 4), (2, 5)])
def test_the_full_box_is_the_global_average_pool(rows, columns):
    features = torch.randn(3, 6, rows, columns, dtype=torch.float64)
    pooled = roi_features(features, (0, 0, 8 * rows, 8 * columns), (8 * rows, 8 * columns))
    assert torch.allclose(pooled, features.mean((2, 3)), atol=1e-12)


def test_second_head_adds_one_linear_layer_and_sharing_it_none():
    def parameters(**options):
        network = ConsistencyNetwork(
            registry.load("backbone", "resnet8")(10, 1, width=8), **options
        )
        return sum(p.numel() for p in network.parameters()), network

    plain = sum(
        p.numel() for p in registry.load("backbone", "resnet8")(10, 1, width=8).parameters()
    )
    own, network = parameters()
    assert own - plain == 32 * 10 + 10
    assert parameters(share_head=True)[0] == plain
    logits, region = network(torch.randn(2, 1, 16, 16), (0, 0, 16, 16))
    assert logits.shape == region.shape == (2, 10)
    assert torch.equal(
        network(torch.ones(2, 1, 16, 16)), network.backbone(torch.ones(2, 1, 16, 16))
    )
