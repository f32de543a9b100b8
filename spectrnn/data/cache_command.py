"""`spectrnn cache`: lists the cache, and prunes it. Without torch."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig

from spectrnn.config.instantiate import to_container, unknown_name, validate_kwargs
from spectrnn.config.types import NonNegativeFloat
from spectrnn.data.cache_entries import DECODED, OUTDATED, Entry, decoded_entries, format_size, other_entries, prune
from spectrnn.errors import UserError
from spectrnn.files import cache_folder
from spectrnn.messages import format_table


@dataclass(kw_only=True)
class CacheConfig:
    """Top level of cache.yaml."""

    prune: NonNegativeFloat | None
    kinds: list[str]
    cache: str


def run_cache(node: DictConfig) -> None:
    """Lists what the cache folder contains, or removes the least recently used, and prints what was removed.

    Args:
        node: Config as cache.yaml composes it.

    Raises:
        UserError: An error in the config, or a folder that cannot be read.
    """
    config = CacheConfig(**validate_kwargs(to_container(node, ""), CacheConfig, ""))
    folder = cache_folder(config.cache)
    try:
        is_empty = not any(folder.iterdir())
    except FileNotFoundError:
        is_empty = True
    except OSError as error:
        raise UserError(f"cache={folder}: cannot be read ({error.strerror})") from error
    if is_empty:
        print(f"the cache is empty: {folder}")
        return
    entries = [*decoded_entries(folder), *other_entries(folder)]
    if config.prune is not None:
        entries = _prune(entries, config.prune, config.kinds)
    print(format_entries(entries, folder))


def _prune(entries: Sequence[Entry], gigabytes: float, kinds: Sequence[str]) -> list[Entry]:
    """Removes entries of some kinds, prints how much, and returns the others."""
    known = {DECODED, *(entry.kind for entry in entries)} - {OUTDATED}
    if unknown := [kind for kind in kinds if kind not in known]:
        raise UserError(f"kinds={unknown[0]}: not in the cache; {unknown_name(unknown[0], known)}")
    chosen = [e for e in entries if e.kind in kinds or (e.kind == OUTDATED and DECODED in kinds)]
    removed = prune(chosen, gigabytes * 1e9)
    paths = {entry.path for entry in removed}
    kept = [entry for entry in entries if entry.path not in paths]
    excess = sum(entry.size for entry in kept if entry in chosen) - gigabytes * 1e9
    print(f"removed {format_size(sum(entry.size for entry in removed))}")
    if excess > 0:
        print(f"{format_size(excess)} more than prune={gigabytes:g} allows are in use, or cannot be removed")
    return kept


def format_entries(entries: Sequence[Entry], folder: Path) -> str:
    """Formats a table of the entries, most recently used first; those of the same recordings are one line."""
    groups: dict[tuple[str, str, int | None], list[Entry]] = {}
    for entry in sorted(entries, key=lambda entry: entry.used, reverse=True):
        groups.setdefault((entry.kind, entry.source, entry.sample_rate), []).append(entry)
    rows, sources = [], ["recordings in"]
    for (kind, source, rate), group in groups.items():
        clips = sum(entry.clips or 0 for entry in group)
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(group[0].used)) if group[0].used else ""
        size = format_size(sum(entry.size for entry in group))
        rows.append((kind, f"{clips:,}" if clips else "", str(rate or ""), size, used))
        sources.append(source)
    table = format_table(["kind", "clips", "Hz", "size", "last used"], rows).splitlines()
    lines = [f"{line}  {source}".rstrip() for line, source in zip(table, sources, strict=True)]  # paths may be long
    total = format_size(sum(entry.size for entry in entries))
    return "\n".join([*(lines if entries else []), f"{total} in {folder}"])
