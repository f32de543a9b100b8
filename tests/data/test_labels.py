"""Labels that `data.labels` renames, merges and leaves out."""

from collections import Counter
from dataclasses import replace

import pytest

from spectrnn.check.analysis import analyze_dataset
from spectrnn.config.instantiate import instantiate
from spectrnn.data.clips import Clip
from spectrnn.data.dataset import list_clips
from spectrnn.data.splits import require_classes
from spectrnn.errors import UserError


def test_labels_are_renamed_merged_and_left_out_once(source, tones):
    built = source("folder", root=tones, labels={"low": "high", "high": "low", "middle": None})
    own = {clip.path: clip.label for clip in built.clips()}
    clips = list_clips(built)
    assert {(own[clip.path], clip.label) for clip in clips} == {("low", "high"), ("high", "low")}
    merged = list_clips(replace(built, labels={"low": "high"}))
    assert Counter(clip.label for clip in merged) == {"high": 24, "middle": 12}
    assert list_clips(replace(built, labels=None)) == list_clips(replace(built, labels={})) == built.clips()


def test_check_analyzes_the_new_labels(source, tones):
    analysis = analyze_dataset(source("folder", root=tones, labels={"low": "deep", "high": None}))
    assert {clip.label for clip in analysis.clips} == {"deep", "middle"}


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            {"midle": "low", "none": None, "low": "x"},
            "data.labels={low: x, midle: low, none: null}: the dataset has no label 'midle', 'none'; did you mean "
            "'middle'? (its labels: 'high', 'low', 'middle')",
        ),
        (
            dict.fromkeys(["low", "middle", "high"]),
            "data.labels={high: null, low: null, middle: null}: leaves out every clip; null is for some labels only",
        ),
    ],
)
def test_labels_that_do_not_fit_the_dataset_are_rejected(source, tones, labels, message):
    with pytest.raises(UserError) as error:
        list_clips(source("folder", root=tones, labels=labels))
    assert str(error.value) == message


def test_empty_label_is_rejected_by_a_classifier_of_one_label_per_clip(source, tones):
    clips = list_clips(source("folder", root=tones, labels={"low": ""}))
    assert Counter(clip.label for clip in clips)[""] == 12
    message = rf"^12 clips have an empty label, such as {tones}/low/00.wav; null in data.labels leaves clips out, and "
    with pytest.raises(UserError, match=message):
        require_classes(clips)
    with pytest.raises(UserError, match=r"^1 clip has an empty label, such as a.wav; "):
        require_classes([Clip("a.wav", ""), Clip("b.wav", "b")])


@pytest.mark.parametrize(
    "given",
    [
        {1: "one", False: 0, 2.5: None},  # as YAML and Hydra read {1: one, false: 0, 2.5: null}
        "{1: one, 'false': 0, 2.5: null}",
        '{"1": "one", "false": "0", "2.5": null}',
    ],
    ids=["mapping", "YAML", "JSON"],
)
def test_keys_of_labels_are_text(tones, given):
    def labels(labels: dict[str, str | None] | None) -> dict[str, str | None] | None:
        return labels

    node = {"_target_": f"{__name__}.labels", "labels": given}
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr("spectrnn.config.instantiate.locate", lambda *_: labels)
        assert instantiate(node, "data") == {"1": "one", "false": "0", "2.5": None}
