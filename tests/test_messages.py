"""Counts with their nouns, lists of names, and text without what a terminal would obey."""

import io
import logging

import pytest

from spectrnn.messages import PrintableFormatter, counted, preview, printable, wrapped


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((0, "clip"), "0 clips"),
        ((1, "clip"), "1 clip"),
        ((12, "clip"), "12 clips"),
        ((1, "class", "classes"), "1 class"),
        ((2, "recording is", "recordings are"), "2 recordings are"),
    ],
)
def test_counted(arguments, text):
    assert counted(*arguments) == text


def test_preview():
    assert preview(["a", "b"], 2) == "a, b"
    assert preview(list(map(str, range(10_000))), 2) == "0, 1 and 9,998 more"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("two\nlines, a\ttab, Kohlmeise, Mésange, 日本, 👍", None),
        ("\x1b]0;title\x07\x1b[2J", r"\x1b]0;title\x07\x1b[2J"),
        ("one\rline\x9b2J\x00", r"one\rline\x9b2J\x00"),
        ("a\u202egnp.wav", r"a\u202egnp.wav"),
        ("soft\xadhyphen, na\u00efve\u200d", None),  # shown, or joins letters
        ("undecodable \udce9", None),  # of a path, which the stream's own error handler writes
    ],
)
def test_printable(text, expected):
    assert printable(text) == (text if expected is None else expected)


def test_log_messages_are_printable():
    record = logging.LogRecord("", logging.INFO, "", 0, "label %s", ("\x1b[31mred",), None)
    assert PrintableFormatter("%(message)s").format(record) == r"label \x1b[31mred"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("short", ["short"]),
        ("a value of 0.123456 is too high", ["a value of", "  0.123456 is", "  too high"]),
        ("  key   what it means here", ["  key   what it", "        means", "        here"]),
        ("spectrnn: an-unbreakable-word/in/a.path", ["spectrnn:", "  an-unbreakable-word/in/a.path"]),
    ],
)
def test_lines_are_wrapped_between_words_on_a_terminal(monkeypatch, text, lines):
    monkeypatch.setenv("COLUMNS", "16")
    assert wrapped(text, Terminal(), keeps_commands=False).split("\n") == lines
    assert wrapped(text, io.StringIO(), keeps_commands=False) == text


def test_commands_and_tables_stay_as_they_are_on_a_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "16")
    for text in ("next: spectrnn predict RECORDINGS", "class    precision  recall"):
        assert wrapped(text, Terminal()) == text
