"""A recorder of means over places."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..taps import Recorder, Step, to_tokens


class PooledRecorder:
    """A recorder that keeps means over places only: [S, C] a sample instead of [S, T, C].

    Args:
        progress: as `progress_targets` of `Recorder`, whose rules on calls hold here too.
    """

    def __init__(self, progress: Sequence[float]) -> None:
        self._recorder = Recorder(progress)

    def __call__(self, h: Tensor, step: Step) -> None:
        """Keep the mean of `h` over places; see `Tap`."""
        self._recorder(to_tokens(h).float().mean(1, keepdim=True), step)

    def take(self, sample: int) -> Tensor:
        """Hand out a sample's means [S, C] and forget them."""
        tokens, _ = self._recorder.take(sample)
        return tokens[:, 0]
