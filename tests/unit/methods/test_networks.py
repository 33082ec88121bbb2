"""The quick group norm against torch's own, and where it is used."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import group_norm

from napari_addm.checkpoint.file import load_checkpoint
from napari_addm.io.demo import DEMO_CHECKPOINT
from napari_addm.methods.loading import load_network
from napari_addm.methods.networks import SMALL_MAP, GroupNorm
from napari_addm.registry import METHODS

SMALL = [(1, 8, 1, 2), (3, 24, 28, 24), (4, 32, 7, 6), (2, 6, 31, 33)]


def norm(channels: int, groups: int, dtype: torch.dtype, affine: bool = True) -> GroupNorm:
    made = GroupNorm(groups, channels, eps=1e-6, affine=affine)
    if affine:
        nn.init.normal_(made.weight)
        nn.init.normal_(made.bias)
    return made.to(dtype)


def exact(module: nn.GroupNorm, values: Tensor) -> Tensor:
    """In double precision, from the rounded input and parameters."""
    parameters = [None if p is None else p.double() for p in (module.weight, module.bias)]
    return group_norm(values.double(), module.num_groups, *parameters, module.eps)


@pytest.mark.parametrize("shape", SMALL)
@pytest.mark.parametrize("groups", [1, 2, None])
@pytest.mark.parametrize("offset", [0.0, 5.0, 250.0])
@pytest.mark.parametrize("affine", [True, False])
def test_bfloat16_is_as_near_to_the_exact_values_as_it_can_be(shape, groups, offset, affine):
    torch.manual_seed(0)
    module = norm(shape[1], groups or shape[1], torch.bfloat16, affine)
    # channels of different size, and far from zero: at 250 the numbers are 1 apart
    values = torch.randn(shape) * (1 + torch.arange(shape[1]))[:, None, None] + offset
    values = values.bfloat16().contiguous(memory_format=torch.channels_last)
    found, expected = module(values), exact(module, values)
    assert found.dtype == torch.bfloat16
    assert found.shape == values.shape
    # half of a unit in the last place, and a tenth of one for the sums in float32
    unit = torch.finfo(torch.bfloat16).eps * expected.abs()
    assert ((found.double() - expected).abs() <= 0.6 * unit + 1e-4).all()


def test_it_stays_in_the_layout_that_convolutions_prefer():
    module = norm(24, 8, torch.bfloat16)
    values = torch.randn(2, 24, 12, 10, dtype=torch.bfloat16)
    last = values.contiguous(memory_format=torch.channels_last)
    assert module(last).is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(module(last), module(values))


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((2, 8, 7, 6), torch.float32),
        ((2, 8, 7, 6), torch.float16),
        ((2, 8, 9), torch.bfloat16),
        ((1, 8, 1, SMALL_MAP), torch.bfloat16),
    ],
)
def test_elsewhere_it_is_torchs_to_the_bit(shape, dtype):
    module = norm(8, 4, dtype)
    values = torch.randn(shape, dtype=dtype)
    theirs = group_norm(values, 4, module.weight, module.bias, module.eps)
    assert torch.equal(module(values), theirs)


def test_a_slice_is_rounded_the_same_whatever_is_beside_it(threads):
    module = norm(96, 32, torch.bfloat16)
    values = torch.randn(4, 96, 28, 24, dtype=torch.bfloat16)
    values = values.contiguous(memory_format=torch.channels_last)
    found = []
    for count in (1, 2):
        threads(count)
        found += [module(values), torch.cat([module(one[None]) for one in values])]
    assert all(torch.equal(found[0], other) for other in found[1:])


def test_a_loaded_network_has_it_and_predicts_as_the_plain_one():
    """The plain one: as MONAI builds it."""
    checkpoint = load_checkpoint(DEMO_CHECKPOINT)
    specification = checkpoint.specification
    plain = (
        METHODS[specification.method]
        .load()
        .build(specification.network, specification.preparation.size)
    )
    plain.load_state_dict(
        {name: value.float() for name, value in checkpoint.network_weights.items()}
    )
    plain.eval()
    loaded = load_network(checkpoint)
    norms = [m for m in loaded.modules() if isinstance(m, nn.GroupNorm)]
    assert norms
    assert all(type(m) is GroupNorm for m in norms)
    assert {type(m) for m in plain.modules() if isinstance(m, nn.GroupNorm)} == {nn.GroupNorm}
    image = torch.randn(2, 1, *specification.preparation.size, generator=torch.manual_seed(1))
    level = torch.full((2,), 150)
    with torch.inference_mode():
        expected = plain(image, level)
        assert torch.equal(loaded(image, level), expected)
        half = [n.to(torch.bfloat16)(image.bfloat16(), level).float() for n in (plain, loaded)]
    errors = [(each - expected).square().mean().sqrt().item() for each in half]
    assert errors[1] < 1.05 * errors[0] < 0.02
