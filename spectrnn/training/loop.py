"""The training loop: epochs, validation, and the moments at which a run is saved."""

import logging
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

from spectrnn.data.batches import Batches
from spectrnn.data.corpus import Corpus
from spectrnn.errors import Stopped, UserError
from spectrnn.inference.evaluate import classify
from spectrnn.inference.metrics import score
from spectrnn.progress import Stopwatch
from spectrnn.runs import CHECKPOINT
from spectrnn.training.learner import Learner
from spectrnn.training.logs import RunLog
from spectrnn.training.meter import Meter
from spectrnn.training.signals import Interruption

log = logging.getLogger(__name__)

_PROGRESS = ("epoch", "done", "best", "stale", "history")  # of a trainer, apart from what it trains


class Trainer:
    """Trains a classifier, epoch after epoch.

    Args:
        learner: learns from the batches of the training split.
        val: batches; ``val=None`` takes each epoch's classifier for the best.
        corpus: that they are of.
        clock: counts where the time goes.
    """

    def __init__(self, learner: Learner, val: Batches | None, corpus: Corpus, clock: Stopwatch) -> None:
        self.learner, self.settings, self.batches = learner, learner.settings, learner.batches
        self.val, self.corpus, self.clock = val, corpus, clock
        self.epoch, self.done = 0, 0  # finished epochs, and finished batches of the next one
        self.meter = Meter(learner.device)
        self.best, self.stale, self.saved = [-math.inf, -math.inf], 0, time.monotonic()
        self.history: list[dict[str, Any]] = []

    @property
    def clips_seen(self) -> int:
        """Since the run began, up to what is saved: the steps of TensorBoard's curves."""
        return self.epoch * len(self.batches.rows) + int(self.meter.totals[2])

    def fit(self, run_log: RunLog, save: Callable[[bool], None]) -> None:
        """Trains up to the last epoch, or until the metric has stood still for `patience` epochs.

        Args:
            run_log: where progress goes.
            save: called when the run is to be saved, with whether the classifier is the best so far.

        Raises:
            UserError: a loss or a gradient that is not finite.
            Stopped: a signal came; the run is saved.
        """
        with Interruption() as interruption:
            while self.epoch < self.settings.epochs and not self.exhausted:
                train = self._train_epoch(run_log, save, interruption)
                with self.clock.measure("evaluation"):
                    val = score(*classify(self.learner.candidate, self.val)) if self.val is not None else None
                better = self._judge({"epoch": self.epoch + 1, "train": train, "val": val})
                self.epoch, self.done, self.meter = self.epoch + 1, 0, Meter(self.learner.device)
                run_log.epoch(self.clips_seen, self.history[-1], better)
                self._save(save, better)
                self._stop_at(interruption.told(all_ask=True))

    @property
    def exhausted(self) -> bool:
        """Whether the metric has stood still for too long."""
        return self.settings.patience is not None and self.stale >= self.settings.patience

    def _train_epoch(
        self, run_log: RunLog, save: Callable[[bool], None], interruption: Interruption
    ) -> dict[str, float]:
        self.learner.classifier.train()
        self.meter.begin()
        with run_log.progress(self.epoch, self.settings.epochs, len(self.batches.rows), self.meter.seen) as progress:
            for batch in self.clock.each("data", self.batches.epoch(self.epoch, self.done)):
                self.done += 1
                reading = self.done % self.settings.log_every == 0 or self.done == len(self.batches)
                with self.clock.measure("step"):
                    if not self.learner.learn(self.epoch, self.done, batch, self.meter):
                        log.warning("left out: %s", self._named(self.done))
                    progress.update(len(batch.rows))
                    if reading:
                        figures = {**self._read(), "learning_rate": self.learner.lr}
                        run_log.step(self.clips_seen, figures)
                        progress.set_postfix_str(self._state(figures), refresh=False)
                if self.learner.steps_after(self.done) and self.done < len(self.batches):
                    self._pause(reading, save, interruption)
        speed = self.meter.totals[2] / self.meter.seconds
        return {"loss": figures["loss"], "accuracy": figures["accuracy"], "clips_per_second": speed}

    def _pause(self, reading: bool, save: Callable[[bool], None], interruption: Interruption) -> None:
        """Between two steps of an epoch: saves the run where that is due, and ends it where a signal came."""
        signal = interruption.told(all_ask=reading)
        if signal or (reading and time.monotonic() - self.saved > 60 * self.settings.save_minutes):
            self._read()
            self._save(save, better=False)
        self._stop_at(signal)

    def _save(self, save: Callable[[bool], None], better: bool) -> None:
        with self.clock.measure("saving"):
            save(better)
        self.saved = time.monotonic()

    def _stop_at(self, signal: int | None) -> None:
        if signal:
            within = f", {self.done} of {len(self.batches)} batches into the next" if self.done else ""
            raise Stopped(f"stopped after epoch {self.epoch}{within}", 128 + signal)

    def _read(self) -> dict[str, float]:
        figures = self.meter.read()
        if self.meter.totals[3]:
            number = self.meter.first_broken()
            raise UserError(
                f"the loss or its gradient is not finite; {CHECKPOINT} is from before. Try a lower optimizer.lr, or "
                f"trainer.on_nan=skip. It is {self._named(number)}"
            )
        return figures

    def _named(self, number: int) -> str:
        """A batch of this epoch, counted from 1, and its clips."""
        names = "".join(f"\n  {self.corpus.clips[row].path}" for row in self.batches.clips_of(self.epoch, number))
        return f"batch {number} of epoch {self.epoch + 1}, whose loss or gradient is not finite:{names}"

    def _state(self, figures: Mapping[str, float]) -> str:
        shares, lr = self.clock.shares("data", "step"), figures["learning_rate"]
        return f"{shares}, loss {figures['loss']:.3f}, acc {figures['accuracy']:.3f}, lr {lr:.1e}"

    def _judge(self, figures: dict[str, Any]) -> bool:
        """Enters an epoch's figures into the history; whether it is the best so far."""
        value = self._value(figures)
        # On small validation splits many epochs tie: then the surer one is the better, though it is no progress.
        rank = [value, -figures["val"]["loss"]] if figures["val"] else [float(self.epoch), 0.0]
        better = rank > self.best
        self.stale = 0 if rank[0] > self.best[0] else self.stale + 1
        self.best = rank if better else self.best
        self.learner.schedule.after_epoch(value)
        self.history.append(figures)
        return better

    def _value(self, figures: dict[str, Any]) -> float:
        """The chosen metric of the validation split (of the training split without one), higher being better."""
        part = figures["val"] or {"loss": figures["train"]["loss"]}
        metric = self.settings.metric if self.settings.metric in part else "loss"
        return -part["loss"] if metric == "loss" else part[metric]

    def state_dict(self) -> dict[str, Any]:
        """All that the future of the run depends on, in plain containers and tensors."""
        return {
            "corpus": self._identity(),
            "learner": self.learner.state_dict(),
            "meter": self.meter.state_dict(),
            "progress": {name: getattr(self, name) for name in _PROGRESS},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on where `state_dict` was taken.

        Raises:
            UserError: it was taken with another corpus, or is no such state.
        """
        if state.get("corpus") != self._identity():
            raise UserError("resume: the corpus has other labels or clips than when the run was started")
        try:
            self.learner.load_state_dict(state["learner"])
            self.meter.load_state_dict(state["meter"])
            for name in _PROGRESS:
                setattr(self, name, state["progress"][name])
        except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise UserError(f"resume: {CHECKPOINT} does not fit the run ({str(error).splitlines()[0]})") from error

    def _identity(self) -> dict[str, Any]:
        return {"labels": self.corpus.labels, "splits": self.corpus.fingerprints}
