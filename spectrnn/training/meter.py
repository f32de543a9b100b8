"""Running metrics of a training epoch."""

import time
from typing import Any

import torch
from torch import Tensor

from spectrnn import distributed


class Meter:
    """Accumulates loss and accuracy, the last gradient norm, and the first batch with a non-finite loss or gradient.

    Everything is accumulated on the device; reading it synchronizes once.

    Args:
        device: Device of the batches.

    Attributes:
        seen: Number of clips so far, in this process.
        totals: Sums over all processes when last read: loss, correct clips, clips, processes with a non-finite value.
    """

    def __init__(self, device: torch.device) -> None:
        self.sums = torch.zeros(2, device=device)  # loss and correct clips
        self.grad_norm, self.first_nonfinite = torch.zeros(2, device=device).unbind()
        self.seen, self.totals = 0, [0.0, 0.0, 0.0, 0.0]
        self._started, self._earlier = time.perf_counter(), 0.0

    @property
    def seconds(self) -> float:
        """Training time of the epoch in s, without the time between an interruption and the resumption."""
        return self._earlier + time.perf_counter() - self._started

    def start(self) -> None:
        """Marks the start, or the resumption, of the epoch."""
        self._started = time.perf_counter()

    def update(self, number: int, correct: Tensor, loss: Tensor, clips: int) -> None:
        """Adds a batch.

        Args:
            number: Number of the batch, from 1.
            correct: Whether each clip is classified correctly, bool (batch,).
            loss: Mean loss of the batch, ().
            clips: Number of clips; 0 for a padding batch on a rank without a shard.
        """
        loss = loss.detach()
        if clips:
            self.sums += torch.stack([loss * clips, correct.sum()])
        self.seen += clips
        self._check_finite(number, loss)

    def record_grad_norm(self, number: int, norm: Tensor, check: bool) -> None:
        """Stores the gradient norm () of the update after batch `number`, and checks that it is finite if requested."""
        self.grad_norm = norm
        if check:
            self._check_finite(number, norm)

    def read(self) -> dict[str, float]:
        """Returns mean loss and accuracy over all processes, and the last gradient norm (collective)."""
        seen = torch.tensor(float(self.seen)).to(self.sums.device, non_blocking=True)
        sums = distributed.all_reduce_sum(torch.stack([*self.sums, seen, self.first_nonfinite]))
        *self.totals, norm = torch.stack([*sums, self.grad_norm]).tolist()  # the only synchronization
        loss, correct, clips, _ = self.totals
        return {"loss": loss / max(1, clips), "accuracy": correct / max(1, clips), "gradient_norm": norm}

    def first_nonfinite_batch(self) -> int:
        """Returns the first batch, from 1, with a non-finite value in any process, or 0 (collective)."""
        return min(filter(None, distributed.all_gather(int(self.first_nonfinite))), default=0)

    def state_dict(self) -> dict[str, Any]:
        """Returns the sums when last read, and the training time of the epoch."""
        return {"totals": self.totals, "seconds": self.seconds}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a state, whose sums go to rank 0, as the number of processes may have changed."""
        self._earlier, self.totals = state["seconds"], state["totals"]
        if distributed.rank() == 0:
            self.sums += torch.tensor(self.totals[:2], device=self.sums.device)
            self.seen = int(self.totals[2])

    def _check_finite(self, number: int, value: Tensor) -> None:
        self.first_nonfinite = torch.where(
            (self.first_nonfinite == 0) & ~value.isfinite(), float(number), self.first_nonfinite
        )
