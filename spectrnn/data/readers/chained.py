"""A chain of recordings in one file, read as one."""

from collections.abc import Callable, Iterator, Sequence

from spectrnn.data.readers.reader import AudioReader, FloatSamples


class ChainedReader(AudioReader):
    """Reader of consecutive parts of a file; a part with another sample rate or number of channels ends it.

    Args:
        links: Functions that open the parts.
    """

    def __init__(self, links: Sequence[Callable[[], AudioReader]]) -> None:
        self.warnings, self.links = list[str](), list[tuple[int, Callable[[], AudioReader]]]()
        frames, unused = 0, 0.0
        for number, link in enumerate(links):
            part = link()
            length = part.frames or 0
            if number == 0:
                self._format, self.is_float = part.format, part.is_float
                self.sample_rate, self.channels = part.sample_rate, part.channels
            if (part.sample_rate, part.channels) == (self.sample_rate, self.channels) and not unused:
                self.links.append((frames, link))
                frames += length
            else:
                unused += length / part.sample_rate
            part.close()
        self.frames = frames
        if unused:
            after = frames / self.sample_rate
            self.warnings.append(f"its format changes after {after:.3f} s; the other {unused:.3f} s are not used")

    @property
    def format(self) -> str:
        """Container and encoding."""
        return self._format

    def read(self, first: int, last: int | None, size: int) -> Iterator[FloatSamples]:
        """Reads frames of one part after the other."""
        last = self.frames if last is None else last
        ends = [*(start for start, _ in self.links[1:]), self.frames or 0]
        for (start, link), end in zip(self.links, ends, strict=True):
            if first < end and last is not None and start < last:
                part = link()
                try:
                    yield from part.read(max(0, first - start), min(last, end) - start, size)
                finally:
                    part.close()

    def close(self) -> None:
        """Does nothing: each part is closed after it was read."""
