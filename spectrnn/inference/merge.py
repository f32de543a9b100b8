"""The table of all shards, merged by the last of them that completes its part."""

import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock

from spectrnn.errors import UserError
from spectrnn.files import atomic_write, reporting_write_errors
from spectrnn.inference.formats import RowFormat
from spectrnn.inference.shards import Shard
from spectrnn.inference.writers import ResumeJournal, hidden
from spectrnn.messages import counted

log = logging.getLogger(__name__)


def merge(
    out: Path,
    parts: Sequence[Path],
    settings: Mapping[str, Any],
    shard: Shard,
    combine: Callable[[list[ResumeJournal]], None],
) -> None:
    """Merges the parts of an output, if all are complete, to what one process would have written, and deletes them.

    Args:
        out: Output.
        parts: Part of each shard.
        settings: Settings that determine the rows.
        shard: Shard of the caller.
        combine: Function that writes the output, atomically, given the journals of the parts.

    Raises:
        UserError: Parts of other settings or recordings, a part that was changed, or a table that cannot be written.
    """
    lock = hidden(out, "lock")
    with reporting_write_errors(f"out={out}"), FileLock(lock):
        journals = [ResumeJournal(part, settings) for part in parts]
        missing = sum(journal.failed is None for journal in journals)
        if missing:
            log.info("shard %d/%d is complete; %s not", *shard, counted(missing, "other is", "others are"))
        else:
            if any(journal.done for journal in journals):  # otherwise a previous table is kept
                for journal in journals:
                    if journal.out.stat().st_size != journal.position.size:
                        raise UserError(f"out={journal.out}: was changed after it was written; {journal.restart_hint}")
                combine(journals)
            for journal in journals:
                journal.out.unlink()
                journal.delete()
            lock.unlink(missing_ok=True)


def concatenate(journals: list[ResumeJournal], out: Path, row_format: RowFormat) -> None:
    """Writes the table that consists of the parts of a table."""
    header = row_format.header.encode()
    rows = microseconds = 0  # before a part
    with atomic_write(out) as temporary, temporary.open("wb") as file:
        file.write(header)
        for journal in journals:
            with journal.out.open("rb") as part:
                part.seek(len(header))
                if row_format.shift is None:
                    shutil.copyfileobj(part, file)
                else:
                    for line in part:
                        text = line.decode("utf-8", "surrogateescape")
                        shifted = row_format.shift(text, rows, microseconds)
                        file.write(shifted.encode("utf-8", "surrogateescape"))
            rows += journal.position.rows
            microseconds += journal.position.microseconds
    log.info("%s: merged from %s", out, counted(len(journals), "shard"))
