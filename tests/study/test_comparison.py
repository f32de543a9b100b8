"""Names of runs, differences of configs, and the layout of tables."""

from pathlib import Path

import pytest

from spectrnn.runs import RunSummary
from spectrnn.study.comparison import config_differences, short_names
from spectrnn.study.comparison_formats import format_value
from spectrnn.study.summary import differing_overrides, format_runs, relative_folders, sort_runs


def test_config_differences_are_full_keys_with_both_values():
    a = {"model": {"_target_": "GRU", "size": 4}, "augment": {"noise": {"p": 0.5}}, "seed": 0, "data": {"labels": [1]}}
    b = {"model": {"_target_": "GRU", "size": 8}, "augment": None, "seed": 0, "data": {"labels": [1, 2]}, "ema": 0.9}
    assert config_differences(a, b) == {
        "model.size": (4, 8),
        "augment.noise.p": (0.5, None),
        "data.labels": ([1], [1, 2]),
        "ema": (None, 0.9),
    }
    assert config_differences(a, a) == {}


def test_values_of_configs_are_short():
    assert [format_value(value) for value in (None, True, [1, "a"], 0.001, "x")] == [
        "-",
        "true",
        '[1, "a"]',
        "0.001",
        "x",
    ]
    assert format_value("x" * 100) == "x" * 21 + "..."


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["2026-11-26/10-00-00", "2026-11-26/11-00-00"], ["10-00-00", "11-00-00"]),
        (["sweep/0", "sweep/10"], ["run 0", "run 10"]),
        (["a/0", "b/0", "b/1"], ["a/0", "b/0", "run 1"]),
        (["cv", "other/cv"], ["cv", "other/cv"]),
        (["."], ["."]),
    ],
)
def test_names_are_as_short_as_they_are_unique(paths, names):
    assert short_names(paths) == names


def test_common_folder_is_the_deepest():
    folders = [Path("outputs/sweep/0"), Path("outputs/sweep/1")]
    assert relative_folders(folders) == (Path("outputs/sweep"), ["0", "1"])
    assert relative_folders(folders[:1]) == (Path("outputs/sweep"), ["0"])
    assert relative_folders([Path("a"), Path("b/c")]) == (Path.cwd(), ["a", "b/c"])
    assert relative_folders([Path("/a"), Path("b")]) == (Path(), ["/a", "b"])


def test_equal_values_of_overrides_do_not_differ():
    given = [{"optimizer.lr": "1e-3", "data.download": "True"}, {"optimizer.lr": "0.001", "data.download": "false"}]
    assert differing_overrides([RunSummary(Path(), overrides) for overrides in given]) == ["data.download"]


def make_run(name, value, metric="accuracy", **settings):
    settings = {"is_finished": value is not None, "split": "val", "higher_is_better": metric != "loss"} | settings
    return RunSummary(Path("outputs") / name, {}, metric=metric, value=value, **settings)


def test_runs_of_another_metric_follow_those_of_the_most_frequent_one():
    values = [("a", 0.5), ("b", 0.7), ("c", None)]
    runs = [make_run("x", 0.1, "loss"), make_run("y", 9.0, "loss"), *(make_run(*value) for value in values)]
    order = [run.folder.name for run in sort_runs([*runs, make_run("d", 0.6)])]
    assert order == ["b", "d", "a", "x", "y", "c"]
    text = format_runs(runs)
    assert "val loss 9.0000" in text
    assert "val accuracy 0.5000" in text
    assert text.splitlines()[-1].split() == ["unfinished", "c"]


def test_titles_of_columns_are_full_keys_if_their_last_parts_are_not_unique():
    overrides = [{"model.dropout": "0", "head.dropout": "0", "optimizer.lr": "1"}, {"model.dropout": "1"}]
    runs = [make_run(name, 0.5)._replace(overrides=given) for name, given in zip("ab", overrides, strict=True)]
    assert format_runs(runs, 200).splitlines()[2].split()[:3] == ["model.dropout", "head.dropout", "lr"]
