"""What is counted while an epoch trains."""

import time
from typing import Any

import torch
from torch import Tensor

from spectrnn import processes


class Meter:
    """Loss and accuracy so far, the last gradient's norm, and the first batch in which one of them was not finite.

    All is counted on the device, which is waited for when it is read.

    Args:
        device: of the batches.

    Attributes:
        seen: clips so far, of this process.
        totals: loss, right clips, clips, and broken batches, of all processes, when last read.
    """

    def __init__(self, device: torch.device) -> None:
        self.sums = torch.zeros(2, device=device)  # of losses, and of clips that are right
        self.norm, self.broken = torch.zeros(2, device=device).unbind()
        self.seen, self.totals = 0, [0.0, 0.0, 0.0, 0.0]
        self._begun, self._earlier = time.perf_counter(), 0.0

    @property
    def seconds(self) -> float:
        """Since the epoch began, without the time in which the run lay still."""
        return self._earlier + time.perf_counter() - self._begun

    def begin(self) -> None:
        """The epoch begins, or goes on."""
        self._begun = time.perf_counter()

    def add(self, number: int, logits: Tensor, targets: Tensor, loss: Tensor, clips: int) -> None:
        """Counts a batch.

        Args:
            number: of the batch, from 1.
            logits, targets: (batch, classes).
            loss: its mean, ().
            clips: in it; 0 where this process only keeps the others company.
        """
        loss = loss.detach()
        if clips:
            right = (logits.detach().argmax(1) == targets.argmax(1)).sum()
            self.sums += torch.stack([loss * clips, right])
        self.seen += clips
        self._check(number, loss)

    def stepped(self, number: int, norm: Tensor, check: bool) -> None:
        """Counts the optimizer's step after a batch.

        Args:
            number: of the batch, from 1.
            norm: of the gradient, ().
            check: whether it must be finite.
        """
        self.norm = norm
        if check:
            self._check(number, norm)

    def read(self) -> dict[str, float]:
        """Mean loss and accuracy of all processes, and the norm of the last gradient; all processes must ask."""
        seen = torch.tensor(float(self.seen)).to(self.sums.device, non_blocking=True)
        sums = processes.total(torch.stack([*self.sums, seen, self.broken]))
        *self.totals, norm = torch.stack([*sums, self.norm]).tolist()  # waits, once
        loss, right, clips, _ = self.totals
        return {"loss": loss / max(1, clips), "accuracy": right / max(1, clips), "gradient_norm": norm}

    def first_broken(self) -> int:
        """The first batch, from 1, in which any process met what is not finite, or 0; all processes must ask."""
        found = [number for number in processes.gathered(int(self.broken)) if number]
        return min(found, default=0)

    def state_dict(self) -> dict[str, Any]:
        """What was last read, and how long the epoch has taken."""
        return {"totals": self.totals, "seconds": self.seconds}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from what was read then: it is the first process's now, as the others may be more or fewer."""
        self._earlier, self.totals = state["seconds"], state["totals"]
        if processes.rank() == 0:
            self.sums += torch.tensor(self.totals[:2], device=self.sums.device)
            self.seen = int(self.totals[2])

    def _check(self, number: int, value: Tensor) -> None:
        self.broken = torch.where((self.broken == 0) & ~value.isfinite(), float(number), self.broken)
