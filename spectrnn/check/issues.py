"""What a check says: findings, of three levels of weight."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

Level = Literal["error", "warning", "note"]
LEVELS: tuple[Level, ...] = ("error", "warning", "note")


@dataclass(frozen=True)
class Issue:
    """Something about a dataset that its owner should know.

    Args:
        level: an error makes the figures of a training untrue, or stops it; a warning may; a note is good to know.
        kind: a word or two, the same for all findings of a kind, for programs that read the report.
        text: one sentence that says what it is, and what would help.
        count: of clips, sets, groups or classes concerned.
        examples: a line each, the worst first.
    """

    level: Level
    kind: str
    text: str
    count: int
    examples: Sequence[str]


def components(links: Iterable[Sequence[int]], nodes: int) -> list[list[int]]:
    """Sets of nodes that links connect, each sorted and of two or more, the first by its first node.

    Args:
        links: nodes that belong together.
        nodes: how many there are; they are numbered from 0.
    """
    parent = list(range(nodes))

    def root(node: int) -> int:
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for first, *others in links:
        for other in others:
            low, high = sorted((root(first), root(other)))
            parent[high] = low
    members: dict[int, list[int]] = {}
    for node in range(nodes):
        members.setdefault(root(node), []).append(node)
    return [nodes for nodes in members.values() if len(nodes) > 1]


def as_json(finding: Issue, most: int) -> dict[str, Any]:
    """For the report that programs read, with the first examples."""
    return {**asdict(finding), "examples": list(finding.examples[:most])}
