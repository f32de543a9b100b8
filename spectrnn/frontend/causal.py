"""What stages say of live streams: a state between packets, or the obstacles to one."""

from torch import Tensor

State = tuple[Tensor, ...]  # what a stage keeps from packet to packet, each (batch, ...)
NO_STEPS = {"": "has no way to go on from packet to packet"}  # of a stage that says nothing of streams
