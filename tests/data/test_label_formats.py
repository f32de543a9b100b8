"""Label formats: what the label of a clip names, and the targets."""

import pytest

from spectrnn.data.labels import LABEL_SET, ONE_LABEL


def test_one_label_is_a_class_index():
    assert ONE_LABEL.join(ONE_LABEL.names("a;b", ";")) == "a;b"
    assert ONE_LABEL.classes("a;b") == ["a;b"]
    assert ONE_LABEL.targets(["b", "a", "b"], ["a", "b"]).tolist() == [1, 0, 1]
    assert [ONE_LABEL.is_usable(label, {"a"}) for label in ("a", "b")] == [True, False]


@pytest.mark.parametrize(
    ("label", "separator", "names"),
    [("b; a;;b", ";", ["a", "b"]), ("rain,Great tit", ",", ["Great tit", "rain"]), ("", ";", []), (" ", ",", [])],
)
def test_label_set_has_distinct_sorted_names(label, separator, names):
    normalized = LABEL_SET.join(LABEL_SET.names(label, separator))
    assert LABEL_SET.classes(normalized) == names
    assert LABEL_SET.join(LABEL_SET.names(normalized, ";")) == normalized


def test_targets_of_label_sets_ignore_unknown_classes():
    targets = LABEL_SET.targets(["a;c", "", "x;b", "x"], ["a", "b", "c"])
    assert targets.tolist() == [[True, False, True], [False] * 3, [False, True, False], [False] * 3]
    assert LABEL_SET.is_usable("x", {"a"})
