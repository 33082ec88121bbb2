"""The noises: unit variance everywhere, the right spectrum, and the same field whoever asks."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from napari_addm.diffusion.noise import SliceNoise
from napari_addm.diffusion.noises import simplex
from napari_addm.registry import NOISES

KINDS = list(NOISES)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Threads waiting for each other on a busy machine cost far more than these small sums."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def low_frequency_share(fields, below=8.0):
    """Share of the power of (N, 1, S, S) fields below so many cycles per image."""
    power = torch.fft.fft2(fields).abs().square().mean(dim=(0, 1))
    cycles = torch.fft.fftfreq(fields.shape[-1]) * fields.shape[-1]
    radius = torch.hypot(cycles[:, None], cycles[None, :])
    return (power[radius < below].sum() / power.sum()).item()


@pytest.mark.parametrize("kind", ["gaussian", "pyramid"])
def test_every_pixel_has_mean_0_and_variance_1(kind):
    fields = NOISES[kind].draw((20_000, 11, 13), generator())
    assert fields.dtype == torch.float32
    assert fields.mean(dim=0).abs().max().item() < 5 / math.sqrt(20_000)
    assert (fields.square().mean(dim=0) - 1).abs().max().item() < 5 * math.sqrt(2 / 20_000)


def test_simplex_has_mean_0_and_variance_1_at_every_pixel():
    # Channels share the place of the corners, so both many places and many channels are needed.
    rng = generator()
    fields = torch.stack([simplex.simplex((100, 6, 7), rng) for _ in range(150)])
    assert fields.dtype == torch.float32
    assert fields.mean(dim=(0, 1)).abs().max().item() < 0.05
    assert (fields.square().mean(dim=(0, 1)) - 1).abs().max().item() < 0.1
    assert fields.square().mean().item() == pytest.approx(1, abs=0.03)


def test_simplex_variance_is_the_integral_over_places():
    """The named constant against the kernel summed over the corners of the triangular lattice."""
    edge = math.sqrt(2 / 3)
    first = np.array([edge, 0.0])
    second = np.array([edge / 2, edge * math.sqrt(3) / 2])
    share = (np.arange(200) + 0.5) / 200
    places = share[:, None, None] * first + share[None, :, None] * second
    variance = 0.0
    for i in range(-2, 4):
        for j in range(-2, 4):
            distance2 = ((places - i * first - j * second) ** 2).sum(axis=-1)
            variance += (np.clip(0.5 - distance2, 0, None) ** 8 * distance2 / 2).mean()
    assert variance == pytest.approx(simplex.VARIANCE, rel=1e-4)


def test_simplex_is_smooth_across_its_triangles():
    # A corner taken wrongly would be a jump; 1/1000 of a period apart, neighbors hardly differ.
    field = simplex.simplex_octave((1, 1500, 40), 1000.0, generator(4))
    spread = math.sqrt(simplex.VARIANCE)
    assert field.abs().max() > spread
    assert field.diff(dim=1).abs().max() < 0.02 * spread
    assert field.diff(dim=2).abs().max() < 0.02 * spread


@pytest.mark.parametrize(
    ("kind", "low", "high"),
    # AnoDDPM's simplex noise has about 70 % of its power below 8 cycles per image.
    [
        ("gaussian", 0.001, 0.01),
        ("pyramid", 0.5, 0.8),
        ("coarse_grid", 0.3, 0.4),
        ("simplex", 0.6, 0.75),
    ],
)
def test_share_of_low_frequencies(kind, low, high):
    rng = generator()
    fields = torch.stack([NOISES[kind].draw((1, 256, 256), rng) for _ in range(10)])
    assert low < low_frequency_share(fields) < high


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 1, 9), (3, 40, 24)])
def test_any_shape(kind, shape):
    field = NOISES[kind].draw(shape, generator())
    assert field.shape == shape
    assert field.isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
def test_channels_are_independent(kind):
    rng = generator()
    first, second = torch.stack([NOISES[kind].draw((2, 32, 32), rng) for _ in range(50)]).unbind(1)
    assert abs((first * second).mean().item()) < 0.1


@given(
    kind=st.sampled_from(KINDS),
    seed=st.integers(0, 2**64),
    order=st.permutations(range(5)),
    cut=st.integers(0, 5),
)
def test_a_slice_has_the_same_noise_in_any_order_and_batch(kind, seed, order, cut):
    noise = SliceNoise(kind, seed)
    shape = (1, 6, 5)
    whole = noise.sample(range(5), shape, draw=1, step=2)
    parts = [noise.sample(ids, shape, draw=1, step=2) for ids in (order[:cut], order[cut:])]
    assert torch.equal(torch.cat(parts), whole[list(order)])


@pytest.mark.parametrize("kind", KINDS)
def test_every_field_of_a_run_is_its_own(kind):
    shape = (1, 32, 32)
    fields = [
        SliceNoise(kind, seed).sample(range(3), shape, draw, step)
        for seed in range(2)
        for draw in range(2)
        for step in range(3)
    ]
    flat = torch.cat(fields).flatten(1)
    assert len(flat.unique(dim=0)) == 36
    if kind == "gaussian":
        similarity = flat @ flat.T / 1024
        assert (similarity - similarity.diag().diag()).abs().max() < 5.5 / 32


def test_numpy_slice_numbers_are_the_same_slices():
    noise = SliceNoise("gaussian", 0)
    by_numpy = noise.sample(np.array([7, 40]), (1, 4, 4), 0, 0)
    assert torch.equal(by_numpy, noise.sample([7, 40], (1, 4, 4), 0, 0))


@pytest.mark.parametrize("kind", KINDS)
def test_the_global_generator_is_left_alone(kind):
    before = torch.get_rng_state()
    SliceNoise(kind, 3).sample([0], (1, 8, 8), 0, 0)
    assert torch.equal(torch.get_rng_state(), before)


def test_noise_has_the_deviation_that_it_is_given():
    one, less = (SliceNoise("simplex", 4, deviation) for deviation in (1.0, 0.48))
    fields = [noise.sample([3, 5], (1, 32, 32), 0, 0) for noise in (one, less)]
    torch.testing.assert_close(fields[1], 0.48 * fields[0])
