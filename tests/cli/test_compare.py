"""`spectrnn compare` and `run=best`, end to end on copies of a run whose results were edited."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from spectrnn.evaluation.predictions import Predictions, read_predictions, write_predictions
from spectrnn.study.comparison import compare_runs
from spectrnn.study.comparison_page import build_page


@pytest.fixture
def make_run(trained_run, tmp_path):
    """Copies a run: `make_run(name, accuracy, overrides, wrong=2)` misclassifies that number of test clips."""

    def make(name, accuracy, *overrides, wrong=0, **edits):
        folder = shutil.copytree(trained_run, tmp_path / "outputs" / name)
        given = ["data=folder", "optimizer.lr=0.02", *overrides]
        (folder / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump(given))
        metrics = json.loads((folder / "metrics.json").read_text())
        metrics["val"]["accuracy"] = accuracy
        (folder / "metrics.json").write_text(json.dumps(metrics))
        config = yaml.safe_load((folder / "config.yaml").read_text())
        for override in overrides:
            group, _, rest = override.partition(".")
            key, _, value = rest.partition("=")
            config[group][key] = yaml.safe_load(value)
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        table = read_predictions(folder / "predictions.csv")
        is_test = np.array([clip.split == "test" for clip in table.clips])
        rows = np.flatnonzero(is_test)
        answers = np.zeros_like(table.probabilities)
        answers[np.arange(len(answers)), table.targets] = 1
        answers[rows[:wrong]] = np.roll(answers[rows[:wrong]], 1, axis=1)
        clips = [clip._replace(**edits) if clip.split == "test" else clip for clip in table.clips]
        write_predictions(Predictions(clips, answers, answers.argmax(1), table.labels), folder / "predictions.csv")
        return folder

    return make


def test_table_lists_the_best_run_first_and_unfinished_ones_last(spectrnn, make_run, tmp_path):
    make_run("sweep/0", 0.5, "model.hidden_size=4")
    make_run("sweep/1", 0.75, "model.hidden_size=32", "optimizer.lr=1e-3")
    (make_run("sweep/2", 0.9, "model.hidden_size=8") / "metrics.json").unlink()
    (tmp_path / "outputs" / "sweep" / "3").mkdir()
    (tmp_path / "outputs" / "sweep" / "3" / "error.txt").write_text("out of memory\n")
    outcome = spectrnn("compare")
    assert outcome.code == 0, outcome.err
    lines = [line.split() for line in outcome.out.splitlines()]
    assert outcome.out.startswith("4 runs in outputs/sweep\n\ndata  ")
    assert [line[-1] for line in lines[3:7]] == ["1", "0", "2", "3"]
    assert lines[3][:4] == ["folder", "1e-3", "32", "0.7500"]
    assert lines[4][:4] == ["folder", "0.02", "4", "0.5000"]
    assert [lines[5][3], lines[6][3]] == ["unfinished", "failed"]
    assert "3: out of memory" in outcome.out


def test_table_fits_into_80_columns(spectrnn, make_run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    for number in range(3):
        long = [f"data.extensions=[{','.join(8 * [f'.wav{number}'])}]"]
        make_run(f"2026-11-26/12-00-0{number}", number / 10, *long, f"model.hidden_size={2 + number}")
    lines = spectrnn("compare").out.splitlines()
    assert lines[0] == "3 runs in outputs/2026-11-26"
    assert lines[3].split()[:2] == ["12-00-02", "0.2000"]
    assert lines[4].startswith("    data.extensions=[.wav2,")
    assert lines[5] == "    model.hidden_size=4"
    assert max(map(len, lines)) <= 80


def test_two_runs_are_tested_on_their_common_clips(spectrnn, make_run):
    a = make_run("a", 0.5, "model.hidden_size=4", wrong=4)
    b = make_run("b", 0.75, "optimizer.lr=0.5", wrong=1)
    outcome = spectrnn("compare", a, b)
    assert outcome.code == 0, outcome.err
    rows = [line.split() for line in outcome.out.splitlines()]
    assert ["model.hidden_size", "4", "12"] in rows
    assert ["optimizer.lr", "0.02", "0.5"] in rows
    text = " ".join(outcome.out.split())
    assert "b is better than a by 50.0 points (95 %: " in text
    assert "McNemar p = 0.250; 0 clips only a classifies correctly, 3 only b." in text
    assert "On all 6 test clips of both; intervals by resampling clips." in outcome.out
    assert ["accuracy", "0.3333", "0.8333", "+0.5000"] in [row[:4] for row in rows]


def test_several_runs_are_tested_against_the_best(spectrnn, make_run):
    make_run("a", 0.5, wrong=4)
    make_run("b", 0.75, wrong=1)
    (make_run("c", 0.7, wrong=2) / "predictions.csv").unlink()
    make_run("d", 0.6, wrong=0)
    out = spectrnn("compare", "outputs").out
    rows = [line.split() for line in out.splitlines()]
    assert ["a", "6", "-50.0"] in [row[:3] for row in rows]
    assert ["d", "6", "+16.7"] in [row[:3] for row in rows]
    assert "c and b cannot be tested on the same clips: " in " ".join(out.split())


def test_other_splits_are_compared_on_the_common_clips_only(spectrnn, make_run):
    a, b = make_run("a", 0.5, wrong=3), make_run("b", 0.5)
    table = read_predictions(b / "predictions.csv")
    rows = [row for row, clip in enumerate(table.clips) if clip.split == "test"]
    for row in rows[:2]:
        table.clips[row] = table.clips[row]._replace(split="val")
    write_predictions(table, b / "predictions.csv")
    out = " ".join(spectrnn("compare", a, b).out.split())
    assert "On the 4 common test clips, of 6 of a and 4 of b; intervals" in out
    assert "1 only b" in out


def test_formats_can_be_read_back(spectrnn, make_run, tmp_path):
    a, b = make_run("a", 0.5, "model.hidden_size=4", wrong=4), make_run("b|c", 0.75, wrong=1)
    for name in ("runs.csv", "runs.json", "runs.md", "runs.txt"):
        outcome = spectrnn("compare", a, b, f"out={tmp_path / 'deep' / name}")
        assert (outcome.code, outcome.out) == (0, ""), outcome.err
    text = {path.suffix: path.read_text() for path in (tmp_path / "deep").iterdir()}
    rows = list(csv.DictReader(text[".csv"].splitlines()))
    assert [(row["folder"], float(row["value"]), row["model.hidden_size"]) for row in rows] == [
        (str(b), 0.75, ""),
        (str(a), 0.5, "4"),
    ]
    content = json.loads(text[".json"])
    assert [(run["folder"], run["value"]) for run in content["runs"]] == [(str(b), 0.75), (str(a), 0.5)]
    assert content["config_differences"] == {"model.hidden_size": {"a": 4, "b": 12}}
    (test,) = content["tests"]
    assert (test["a"], test["b"], test["correct_only_in_b"], test["mcnemar_p"]) == (str(a), str(b), 3, 0.25)
    assert test["metrics"]["accuracy"]["difference"] == pytest.approx(0.5)
    head, _, *cells = [line for line in text[".md"].splitlines() if line.startswith("|")]
    assert head == "| hidden\\_size | val accuracy | 95 % CI | time | folder |"
    assert cells[0].replace("\\|", "").count("|") == head.count("|")
    assert cells[0].endswith(" b\\|c |")
    assert text[".txt"] == spectrnn("compare", a, b).out


def test_metric_and_split_are_chosen(spectrnn, make_run):
    a, b = make_run("a", 0.5), make_run("b", 0.75)
    for folder, loss in ((a, 0.1), (b, 0.2)):
        metrics = json.loads((folder / "metrics.json").read_text())
        metrics["test"]["loss"] = loss
        (folder / "metrics.json").write_text(json.dumps(metrics))
    rows = [line.split() for line in spectrnn("compare", a, b, "metric=loss", "split=test").out.splitlines()]
    assert rows[2][:2] == ["test", "loss"]
    assert [row[0] for row in rows[3:5]] == ["0.1000", "0.2000"]  # lower is better
    message = "metric=macro_f2: not a metric of these runs; did you mean macro_f1?"
    assert spectrnn("compare", a, b, "metric=macro_f2").error() == f"spectrnn: {message}"


def test_cross_validations_are_tested_on_all_out_of_fold_clips(spectrnn, make_run, tmp_path):
    for name, wrong in (("cv", 0), ("other", 5)):
        run = make_run(f"{name}/fold-1", 0.5, "optimizer.lr=0.5", wrong=wrong, fold="1")
        run.joinpath("predictions.csv").rename(run.parent / "predictions.csv")
        pooled = {"accuracy": 0.8 - wrong / 10}
        content = {"metric": "accuracy", "pooled": pooled, "intervals_95": {"pooled": {"accuracy": [0.1, 0.9]}}}
        (run.parent / "metrics.json").write_text(json.dumps(content))
    outcome = spectrnn("compare", "outputs/other", "outputs/cv")
    assert outcome.code == 0, outcome.err
    assert "pooled accuracy" in outcome.out
    assert "cv is better than other by 83.3 points" in outcome.out


def test_page_shows_curves_differences_and_clips_to_play(spectrnn, make_run, open_page, tmp_path):
    a = make_run("a", 0.5, "model.hidden_size=4", wrong=4)
    b = make_run("b", 0.75, wrong=1)
    (b / "report.html").touch()
    outcome = spectrnn("compare", a, b, f"out={tmp_path / 'page.html'}")
    assert (outcome.code, outcome.out) == (0, ""), outcome.err
    page, messages = open_page(tmp_path / "page.html", viewport={"width": 390, "height": 844}, color_scheme="dark")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.inner_text("h1") == "b is better than a by 50.0 points"
    assert "McNemar p = 0.250; 0 clips only a classifies correctly, 3 only b. On all 6" in page.inner_text("#lead")
    assert page.locator("#runs tbody tr").count() == 2
    assert page.locator("#runs a").evaluate_all("links => links.map(link => link.getAttribute('href'))") == [
        "outputs/b/report.html"  # run a has none
    ]
    assert page.locator("#tables tbody tr").all_inner_texts() == ["model.hidden_size\t4\t12"]
    assert page.locator("#plots svg").count() == 2  # accuracy and loss, of two epochs each
    curves = page.locator("#plots polyline")
    assert curves.count() == 2 + 4
    assert all(
        len(points.split()) == 2 for points in curves.evaluate_all("lines => lines.map(l => l.getAttribute('points'))")
    )

    tables = [read_predictions(folder / "predictions.csv").of_split("test") for folder in (a, b)]
    cells = np.zeros((2, 3, 3), int)
    for matrix, table in zip(cells, tables, strict=True):
        np.add.at(matrix, (table.targets, table.probabilities.argmax(1)), 1)
    texts = page.locator(".matrix tbody td").all_inner_texts()
    assert [int(text.replace("\N{MINUS SIGN}", "-") or 0) for text in texts] == (cells[1] - cells[0]).ravel().tolist()

    assert page.inner_text("#count") == "3 of 3 clips"
    names = page.locator(".clip .about").all_inner_texts()
    changed = [Path(clip.path) for clip in tables[0].clips[1:4]]
    assert sorted(name.split(" · ")[0] for name in names) == sorted(
        f"{path.parent.name}/{path.name}" for path in changed
    )
    assert page.locator(".spectrogram img").first.evaluate("image => image.complete && image.naturalWidth") > 10
    assert page.locator(".clip audio").first.get_attribute("src").startswith("data:audio/")
    page.select_option("#show", "a")
    assert page.inner_text("#count") == "None of 3 clips match."
    page.keyboard.press("Escape")
    wrong = next(zip(*np.nonzero(cells[1] - cells[0] < 0), strict=True))
    page.locator(f".matrix td[data-true='{wrong[0]}'][data-predicted='{wrong[1]}']").click()
    assert page.locator(".clip").count() == -(cells[1] - cells[0])[wrong]
    assert messages == []


def test_page_is_safe_from_script_injection_and_works_without_audio(spectrnn, make_run, open_page, tmp_path):
    labels = ["</script><script>alert(1)</script>", "<img src=x onerror=alert(2)>", "<b>"]
    folders = [make_run("<i>a", 0.5, wrong=4), make_run("b", 0.75, wrong=1)]
    for folder in folders:
        table = read_predictions(folder / "predictions.csv")
        clips = [
            clip._replace(label=labels[target], group=f"<b>{number}", path=f"/gone/<b>{number}.wav")
            for number, (clip, target) in enumerate(zip(table.clips, table.targets, strict=True))
        ]
        write_predictions(replace(table, clips=clips, labels=labels), folder / "predictions.csv")
    assert spectrnn("compare", *folders, f"out={tmp_path / 'page.html'}").code == 0
    page, messages = open_page(tmp_path / "page.html")
    assert page.inner_text("h1") == "b is better than <i>a by 50.0 points"
    assert "as files such as /gone/<b>" in page.inner_text("#notes")
    assert page.locator(".clip").count() == page.locator(".clip .absent").count() == 3
    assert {*page.locator(".clip h3 > span").all_inner_texts()} <= {*labels}
    assert page.locator("main img, main b, i").count() == 0
    assert messages == []


def test_page_with_the_labels_of_another_model_has_no_audio(spectrnn, make_run, tmp_path):
    folders = [make_run("a", 0.5, wrong=4), make_run("b", 0.75, wrong=1)]
    for folder in folders:
        table = read_predictions(folder / "predictions.csv")
        clips = [clip._replace(label=clip.label.replace("low", "bass")) for clip in table.clips]
        labels = [label.replace("low", "bass") for label in table.labels]
        write_predictions(replace(table, clips=clips, labels=labels), folder / "predictions.csv")
    page = build_page(compare_runs(folders), 10**7, []).decode()
    assert f"of 3 clips are omitted, as {folders[1] / 'model.safetensors'} has other labels." in page
    assert "data:audio" not in page


def test_page_of_several_runs_is_bounded(spectrnn, make_run, open_page, tmp_path):
    folders = [
        make_run(f"sweep/{number}", number / 4, f"model.hidden_size={number + 1}", wrong=[3, 4, 5, 0][number])
        for number in range(4)
    ]
    comparison = compare_runs(folders)
    whole = build_page(comparison, 10**9, [])
    limit = len(whole) - 3000
    page = build_page(comparison, limit, [])
    assert len(page) <= limit
    (tmp_path / "page.html").write_bytes(page)
    page, messages = open_page(tmp_path / "page.html")
    assert page.inner_text("h1") == "Best: run 3"
    assert page.locator("#tables tbody tr").count() == 3
    assert "are omitted, to stay under" in page.inner_text("#notes")
    assert 0 < page.locator(".clip .absent").count() <= page.locator(".clip").count()
    assert messages == []


def test_page_without_finished_runs_states_why(spectrnn, open_page, tmp_path):
    folder = tmp_path / "outputs" / "0"
    folder.mkdir(parents=True)
    (folder / "error.txt").write_text("data.root=<b>: no such folder")
    assert spectrnn("compare", f"out={tmp_path / 'page.html'}").code == 0
    page, messages = open_page(tmp_path / "page.html")
    assert page.inner_text("h1") == "No run has finished"
    assert page.inner_text("#notes") == "run 0 has failed: data.root=<b>: no such folder"
    assert not page.locator("#clips").is_visible()
    assert messages == []


def test_errors_are_one_sentence(spectrnn, make_run, tmp_path):
    a, b = make_run("a", 0.5), make_run("b", 0.75, path="elsewhere.wav")
    outcome = spectrnn("compare", a, b)
    message = "a and b cannot be tested on the same clips: they have no common clips of the test split"
    assert outcome.error() == f"spectrnn: {message}"
    assert outcome.out.startswith("2 runs in ")  # with the table nevertheless
    table = read_predictions(a / "predictions.csv")
    labels = ["bass", *table.labels[1:]]
    clips = [clip._replace(label=labels[target]) for clip, target in zip(table.clips, table.targets, strict=True)]
    write_predictions(replace(table, clips=clips, labels=labels), a / "predictions.csv")
    assert "their labels differ: only one of them has 'bass', 'high'" in spectrnn("compare", a, b).error()
    assert spectrnn("compare", "none").error() == "spectrnn: paths: none: no such folder"
    (tmp_path / "empty").mkdir()
    assert spectrnn("compare", "empty").error() == "spectrnn: paths: empty: contains no run"
    assert "format=xml: should be 'auto'" in spectrnn("compare", "format=xml").error()


def test_best_run_predicts(spectrnn, make_run, tones):
    make_run("a", 0.5)
    make_run("b", 0.75)
    outcome = spectrnn("predict", tones / "low" / "00.wav", "run=best")
    assert outcome.code == 0, outcome.err
    assert outcome.err.count("run=best is outputs/b: val accuracy 0.7500, the best of 2 runs") == 1
    outcome = spectrnn("eval", "run=outputs", "report=false")
    assert outcome.code == 0, outcome.err
    assert outcome.err.count("run=outputs is outputs/b: val accuracy 0.7500, the best of 2 runs") == 1
    assert Path("outputs/b/eval/test/metrics.json").is_file()
