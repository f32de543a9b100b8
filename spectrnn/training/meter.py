"""Running metrics of a training epoch."""

import time
from typing import Any

import torch
from torch import Tensor

from spectrnn import distributed


class Meter:
    """Accumulates loss and accuracy, the last gradient norm, and the first batch with a non-finite loss or gradient.

    Everything is accumulated on the device, in few operations, as each is a kernel launch; reading it synchronizes
    once. From a non-finite loss or gradient on, the sum of the losses is not finite.

    Args:
        device: Device of the batches.

    Attributes:
        seen: Number of clips so far, in this process.
        totals: Sums over all processes when last read: loss, correct clips, clips.
    """

    def __init__(self, device: torch.device) -> None:
        self.loss, self.correct, self.grad_norm = torch.zeros(3, device=device).unbind()
        self.started = torch.zeros((), device=device)  # number of batches before which the sum of the losses was finite
        self.first_batch: int | None = None
        self.seen, self.totals = 0, [0.0, 0.0, 0.0]
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
        self.first_batch = self.first_batch or number
        self.started += self.loss * 0 == 0
        self.loss.add_(loss.detach(), alpha=clips)
        self.correct += correct.sum() if clips else 0
        self.seen += clips

    def record_grad_norm(self, norm: Tensor, check: bool) -> None:
        """Stores the gradient norm () of an update after its last batch, and checks that it is finite if requested."""
        self.grad_norm = norm
        if check:
            self.loss.add_(norm, alpha=0)

    def read(self) -> dict[str, float]:
        """Returns mean loss and accuracy over all processes, and the last gradient norm (collective).

        The loss is non-finite if any loss or checked gradient was.
        """
        sums = torch.stack([self.loss, self.correct, torch.full_like(self.loss, self.seen)])
        sums = distributed.all_reduce_sum(sums)
        *self.totals, norm = torch.stack([*sums, self.grad_norm]).tolist()  # the only synchronization
        loss, correct, clips = self.totals
        return {"loss": loss / max(1, clips), "accuracy": correct / max(1, clips), "gradient_norm": norm}

    def first_nonfinite_batch(self) -> int:
        """Returns the first batch, from 1, with a non-finite value in any process, or 0 (collective)."""
        number = 0 if self.loss.isfinite() else (self.first_batch or 1) + int(self.started) - 1
        return min(filter(None, distributed.all_gather(number)), default=0)

    def state_dict(self) -> dict[str, Any]:
        """Returns the sums when last read, and the training time of the epoch."""
        return {"totals": self.totals, "seconds": self.seconds}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a state, whose sums go to rank 0, as the number of processes may have changed."""
        self._earlier, self.totals = state["seconds"], state["totals"]
        if distributed.rank() == 0:
            loss, correct, seen = self.totals[:3]
            self.loss += loss
            self.correct += correct
            self.seen = int(seen)
