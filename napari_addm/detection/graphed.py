"""A network on CUDA whose kernels are launched at once, as a recorded graph.

To launch the hundreds of kernels of a small network one by one takes Python longer than the GPU
takes to run them. No GPU was at hand when this was written, so that its speed is not measured, and
the recording is trusted only after it has given what the network gives.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

TOLERANCE = 0.02
"""How far a replay may be from the network's own answer, in shares of its greatest value; bfloat16
alone is off by half of that."""

Record = Callable[[Callable[[], Tensor]], tuple[Callable[[], None], Tensor]]
"""From a call on fixed tensors to what does it again, and the tensor where its answer then lies."""


def record_on_cuda(call: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
    """Record a call as a CUDA graph (``torch.cuda.CUDAGraph``)."""
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):  # libraries choose their kernels at the first calls
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    # other threads may go on with the GPU meanwhile
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        answer = call()
    return graph.replay, answer


class GraphedNetwork(nn.Module):
    """A denoiser that is recorded at its first call, and then replayed.

    Maps an image (B, 1, H, W) and timesteps (B,) to what `network` maps them to. Another shape is
    recorded anew. Where recording fails, or a replay differs, the network is called as it is.

    Parameters
    ----------
    network : nn.Module
        On the GPU, and not to be changed any more.
    record : callable
        See `Record`.
    """

    def __init__(self, network: nn.Module, record: Record = record_on_cuda) -> None:
        super().__init__()
        self.network = network
        self._record = record
        self._recorded_for: object = None
        self._replay: Callable[[], None] | None = None
        self._image = self._timesteps = self._answer = torch.empty(0)

    @torch.no_grad()
    def forward(self, image: Tensor, timesteps: Tensor) -> Tensor:
        kind = (image.shape, image.dtype, timesteps.dtype)
        if kind != self._recorded_for:
            self._recorded_for = kind
            return self._begin(image, timesteps)
        if self._replay is None:
            return self._call(image, timesteps)
        return self._again(self._replay, image, timesteps)

    def _call(self, image: Tensor, timesteps: Tensor) -> Tensor:
        predicted: Tensor = self.network(image, timesteps)
        return predicted

    def _begin(self, image: Tensor, timesteps: Tensor) -> Tensor:
        """Record, and compare with the network's own answer, which is given back."""
        expected = self._call(image, timesteps)
        self._replay = None
        self._image, self._timesteps = image.clone(), timesteps.clone()
        try:
            replay, self._answer = self._record(lambda: self._call(self._image, self._timesteps))
            # of other tensors than those that it was recorded with
            other, later = image.flip(-1).contiguous(), timesteps.flip(0).contiguous()
            replayed = self._again(replay, other, later)
        except RuntimeError:  # out of memory, too, for there is a copy of every layer
            return expected
        own = self._call(other, later)
        near = (replayed.float() - own.float()).abs().max() <= TOLERANCE * own.float().abs().max()
        if bool(near):
            self._replay = replay
        return expected

    def _again(self, replay: Callable[[], None], image: Tensor, timesteps: Tensor) -> Tensor:
        self._image.copy_(image)
        self._timesteps.copy_(timesteps)
        replay()
        return self._answer.clone()
