"""A recorded network, with a recorder that needs no GPU: it calls again on the same tensors."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from napari_addm.checkpoint.file import load_checkpoint
from napari_addm.detection.graphed import GraphedNetwork
from napari_addm.methods.loading import load_network


class Recorder:
    """As CUDA's: a replay writes what the recorded call gives now into the same tensor."""

    def __init__(self) -> None:
        self.recorded = self.replayed = 0

    def __call__(self, call: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        self.recorded += 1
        answer = call().clone()

        def replay() -> None:
            self.replayed += 1
            answer.copy_(call())

        return replay, answer


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture(scope="module")
def network(tiny_checkpoint) -> nn.Module:
    return load_network(load_checkpoint(tiny_checkpoint))


@pytest.fixture(scope="module")
def calls(tiny_checkpoint) -> list[tuple[Tensor, Tensor]]:
    height, width = load_checkpoint(tiny_checkpoint).specification.preparation.size
    generator = torch.Generator().manual_seed(5)
    return [
        (torch.randn(2, 1, height, width, generator=generator), torch.tensor([9, level]))
        for level in (3, 5, 7)
    ]


@torch.no_grad()
def test_replays_are_the_networks_answers(network, recorder, calls):
    graphed = GraphedNetwork(network, recorder)
    answers = [graphed(image, levels) for image, levels in calls]
    for answer, (image, levels) in zip(answers, calls, strict=True):
        assert torch.equal(answer, network(image, levels))
    assert not torch.equal(answers[0], answers[1])
    assert (recorder.recorded, recorder.replayed) == (1, 1 + 2)  # one to compare


@torch.no_grad()
def test_an_answer_is_the_callers_own(network, recorder, calls):
    graphed = GraphedNetwork(network, recorder)
    graphed(*calls[0])
    kept = graphed(*calls[1])
    before = kept.clone()
    graphed(*calls[2])
    assert torch.equal(kept, before)


@torch.no_grad()
def test_another_batch_is_recorded_anew(network, recorder, calls):
    graphed = GraphedNetwork(network, recorder)
    image, levels = calls[0]
    graphed(image, levels)
    for _ in range(2):
        assert torch.equal(graphed(image[:1], levels[:1]), network(image[:1], levels[:1]))
    assert recorder.recorded == 2


def fails(call: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
    raise torch.OutOfMemoryError("CUDA out of memory")


def forgets(call: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
    """A recording that always gives the answer of its first call."""
    return (lambda: None), call().clone()


@torch.no_grad()
@pytest.mark.parametrize("record", [fails, forgets])
def test_where_it_cannot_be_trusted_the_network_is_called(network, calls, record):
    graphed = GraphedNetwork(network, record)
    for image, levels in calls:
        assert torch.equal(graphed(image, levels), network(image, levels))


def test_it_has_the_networks_precision(network, recorder):
    graphed = GraphedNetwork(network, recorder)
    assert next(graphed.parameters()).dtype == next(network.parameters()).dtype
