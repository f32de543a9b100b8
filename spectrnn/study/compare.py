"""`spectrnn compare`: compares runs, and tests whether they differ on the same clips."""

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from omegaconf import DictConfig

from spectrnn.config.instantiate import to_container, validate_kwargs
from spectrnn.config.types import ReportMegabytes
from spectrnn.errors import UserError
from spectrnn.files import atomic_write, reporting_write_errors
from spectrnn.messages import printable
from spectrnn.runs import find_runs
from spectrnn.study.comparison import compare_runs
from spectrnn.study.comparison_formats import FORMATS

log = logging.getLogger(__name__)

_SUFFIXES = {".csv": "csv", ".json": "json", ".md": "markdown", ".html": "html"}


@dataclass(kw_only=True)
class CompareConfig:
    """Top level of compare.yaml."""

    paths: list[str]
    metric: str | None
    split: Literal["val", "test"] | None
    format: Literal["auto", "table", "csv", "json", "markdown", "html"]
    out: str | None
    report_max_mb: ReportMegabytes
    trust: list[str]


def compare(node: DictConfig) -> None:
    """Compares runs, and prints or writes the result.

    Args:
        node: Config as compare.yaml composes it.

    Raises:
        UserError: An error in the config, no runs, damaged files, or two named runs that have no clips or labels in
            common; the table is printed nevertheless.
    """
    config = CompareConfig(**validate_kwargs(to_container(node, ""), CompareConfig, ""))
    suffix = Path(config.out or "").suffix.lower()
    kind = _SUFFIXES.get(suffix, "table") if config.format == "auto" else config.format
    folders = _find_folders(config.paths)
    comparison = compare_runs(folders, config.metric, config.split)
    if kind == "html":
        from spectrnn.study.comparison_page import build_page

        folder = Path(config.out).expanduser().parent if config.out else None
        content = build_page(comparison, round(config.report_max_mb * 1e6), config.trust, folder)
    else:
        text = FORMATS[kind](comparison) + "\n"
        content = (printable(text) if kind == "table" else text).encode("utf-8", "surrogateescape")
    if config.out is None:
        sys.stdout.buffer.write(content)
        sys.stdout.flush()
    else:
        out = Path(config.out).expanduser()
        with reporting_write_errors(f"out={config.out}"):
            out.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(out) as temporary:
                temporary.write_bytes(content)
        log.info("the comparison is in %s", out)
    if len(config.paths) == len(folders) == 2 and comparison.untested:
        raise UserError(comparison.untested[0])


def _find_folders(paths: Sequence[str]) -> list[Path]:
    folders: dict[Path, None] = {}
    for path in paths:
        folder = Path(path).expanduser()
        if not folder.is_dir():
            raise UserError(f"paths: {path}: no such folder")
        found = find_runs(folder)
        if not found:
            raise UserError(f"paths: {path}: contains no run")
        folders |= dict.fromkeys(found)
    return list(folders)
