"""The clip table, and the interface of all data sources."""

import os
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from itertools import takewhile
from sys import intern
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np

from spectrnn.config.instantiate import format_value
from spectrnn.config.types import Fraction, NonNegativeInt, NumFolds, PositiveFloat, Probability, SampleRate
from spectrnn.data.labels import ONE_LABEL, LabelFormat
from spectrnn.data.scan import Ignored
from spectrnn.data.timeline import Timeline
from spectrnn.errors import UserError
from spectrnn.messages import preview

SPLITS = ("train", "val", "test")

_MAX_NAMES = 20  # labels in a message


class Clip(NamedTuple):
    """A row of the clip table.

    Attributes:
        path: Audio file, or address of one.
        label: Class name; with a task of several labels per clip their names, joined by semicolons, or empty.
        split: ``train``, ``val`` or ``test``; None to be drawn.
        fold: Fold of a cross-validation; None if there are none.
        group: Speaker, recorder or source recording, which a drawn test split shares with no other; None if unknown.
        start: Start in the file in s.
        end: End in the file in s; None for the end of the file.
        copy: Local copy of the file at an address; None for a local file.
    """

    path: str
    label: str
    split: str | None = None
    fold: str | None = None
    group: str | None = None
    start: float = 0.0
    end: float | None = None
    copy: str | None = None


def similar_labels(labels: Iterable[str]) -> list[str]:
    """Describes the sets of labels that differ in case, blanks or Unicode normalization form only.

    Returns:
        A line per set, with escapes for labels that look the same.
    """
    sets: dict[str, list[str]] = {}
    for label in sorted(set(labels)):
        visible = "".join(char for char in label if unicodedata.category(char) != "Cf")  # such as zero-width spaces
        sets.setdefault(" ".join(unicodedata.normalize("NFKC", visible).casefold().split()), []).append(label)
    lines = []
    for names in sets.values():
        looks_same = len({" ".join(unicodedata.normalize("NFKC", name).split()) for name in names}) < len(names)
        quoted = [ascii(name) if looks_same and not name.isascii() else repr(name) for name in names]
        if len(names) > 1:
            shown = f"{' '.join(unicodedata.normalize('NFC', names[0]).split())}: " if looks_same else ""
            lines.append(f"{shown}{' and '.join(quoted)}")
    return lines


def common_folder(paths: Iterable[str]) -> str:
    """Returns the folder that contains all files, with its final separator; "" if there is none.

    Paths may be addresses, whose double slash `os.path.commonpath` would remove.
    """
    paths = list(paths)
    pairs = zip(min(paths, default=""), max(paths, default=""), strict=False)
    prefix = "".join(first for first, _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    return prefix[: max(prefix.rfind(separator) for separator in ("/", os.sep)) + 1]


@dataclass(kw_only=True)
class DataSource(ABC):
    """Interface of all data sources: dataclasses whose fields are config keys, with a method that lists the clips.

    A source of your own is a subclass in any importable module, and a YAML file with the values of its fields. For
    recordings named ``<label>_<number>.wav`` in a folder per speaker, of which no speaker is in two splits::

        @dataclass(kw_only=True)
        class SpeakerFolders(DataSource):
            root: str

            def clips(self) -> list[Clip]:
                paths = sorted(Path(self.root).glob("*/*.wav"))
                return [Clip(str(path), path.stem.split("_")[0], group=path.parent.name) for path in paths]

    With ``my_configs/data/speakers.yaml``, ``spectrnn train --config-dir my_configs data=speakers`` trains on it::

        defaults: [_common, _self_]
        _target_: my_package.sources.SpeakerFolders
        root: ???

    Args:
        labels: New label by label of the dataset: equal ones are merged, and the clips of None are left out; None for
            the dataset's own.
        sample_rate: Sample rate of the decoded clips in Hz.
        max_seconds: Maximum length of a clip in s, longer ones are cropped; None for no limit.
        folds: Folds of a cross-validation: a number to draw, ``groups`` to leave out a group in each, or None for those
            of the dataset.
        fold: Fold to test on; ``none`` to train on all clips; None for the dataset's own or drawn splits.
        val_fraction: Fraction of the training clips for validation if there is no validation split.
        val_groups: Whether a drawn validation split has groups of its own (``disjoint``) or those of training
            (``shared``); ``auto`` for disjoint if there are enough groups.
        test_fraction: Fraction of the clips for testing if there are no splits.
        split_seed: Seed of drawn splits.
        label_separator: Separator of the names in a label, for a task of several labels per clip.
        sampling: Draws of training clips per epoch: each clip once (``natural``), all classes equally often
            (``balanced``), or classes in proportion to a power of their number of clips (``power``).
        sampling_power: Exponent of the number of clips for ``power``: 0 is balanced, 1 natural.
        on_error: Whether a file that cannot be read stops the run or is skipped.
        negatives: Folders and files of recordings in which no class sounds.
        negative_share: Fraction of the training clips that are windows of `negatives`.
        hard_share: Fraction of these windows that are drawn from the hardest ones.
        rehearsal_clips: Clips per class and split that are added from `rehearsal`, whose classes a model knows already.
        rehearsal: Config node of another source; None for none.
        storage: Storage of the samples, as for `spectrnn.data.samples.open_samples`.
        license: License of the recordings; None if unknown.
        description: Sentence about the recordings; None for none.
        cache: Folder of the decoded datasets.
        cache_gb: Maximum size of the decoded datasets in GB, as for `spectrnn.data.cache_entries.prune_decoded`.

    Attributes:
        has_label_sets: Whether a clip may have any number of labels, so that only some tasks can be trained.
        group_noun: What a group is, in the singular.
        ignored: What `clips` has passed over, such as files of other kinds.
    """

    group_noun: ClassVar[str] = "group"

    labels: dict[str, str | None] | None
    sample_rate: SampleRate
    max_seconds: PositiveFloat | None
    folds: NumFolds | Literal["groups"] | None
    fold: int | str | None
    val_fraction: Fraction
    val_groups: Literal["auto", "disjoint", "shared"]
    test_fraction: Fraction
    split_seed: NonNegativeInt
    label_separator: str
    sampling: Literal["natural", "balanced", "power"]
    sampling_power: Probability
    on_error: Literal["fail", "skip"]
    negatives: list[str]
    negative_share: Fraction
    hard_share: Fraction
    rehearsal_clips: NonNegativeInt
    rehearsal: dict[str, Any] | None
    storage: Literal["auto", "gpu", "ram", "disk"]
    license: str | None
    description: str | None
    cache: str
    cache_gb: PositiveFloat | Literal["auto"] | None
    has_label_sets: ClassVar[bool] = False
    ignored: list[Ignored] = field(init=False, repr=False, compare=False, default_factory=list)

    @property
    def class_power(self) -> float:
        """Exponent of the number of clips of a class, to which its number of draws in training is proportional."""
        return {"natural": 1.0, "balanced": 0.0, "power": self.sampling_power}[self.sampling]

    @abstractmethod
    def clips(self) -> list[Clip]:
        """Returns the clip table, in an order that does not depend on the machine.

        Files are decoded later; paths may be relative to the working directory.

        Raises:
            UserError: A dataset that is missing or invalid.
        """

    def labelled_clips(self, label_format: LabelFormat = ONE_LABEL) -> list[Clip]:
        """Returns the clip table with normalized labels, whose names `labels` has replaced.

        A name of several that is replaced by nothing is removed; a clip is left out with any name that is left out.

        Raises:
            UserError: As `clips`, or a label that the dataset does not have.
        """
        table = [(clip, label_format.names(clip.label, self.label_separator)) for clip in self.clips()]
        self.require_labels({name for _, names in table for name in names})
        new = self.labels or {}
        clips = []
        for clip, names in table:
            renamed = [new.get(name, name) for name in names]
            if None not in renamed:
                clips.append(clip._replace(label=intern(label_format.join(filter(None, renamed)))))
        if not clips:
            raise UserError(f"data.labels={format_value(new)}: leaves out every clip; null is for some labels only")
        return clips

    def require_labels(self, own: Collection[str]) -> None:
        """Rejects `labels` that rename what is not among the own labels of a dataset."""
        new, own = self.labels or {}, sorted(own)
        if missing := [label for label in new if label not in own]:
            near = [match for label in missing for match in get_close_matches(label, own, n=1, cutoff=0.5)]
            meant = f"; did you mean {' and '.join(map(repr, near))}?" if near else ""
            listed, named = (preview([repr(label) for label in labels], _MAX_NAMES) for labels in (own, missing))
            raise UserError(
                f"data.labels={format_value(new)}: the dataset has no label {named}{meant} (its labels: {listed})"
            )

    def timeline(
        self, clips: Sequence[Clip], offsets: np.ndarray, lengths: np.ndarray, labels: Sequence[str]
    ) -> Timeline | None:
        """Returns the timeline of decoded recordings of which windows are cut; None if `clips` returns the clips.

        Args:
            clips: Recordings, as from `clips`.
            offsets: First sample of each, decoded, int64 (recordings,).
            lengths: Number of samples of each, int64 (recordings,).
            labels: Class names.
        """
        return None
