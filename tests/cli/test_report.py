"""report.html as `spectrnn eval` and `spectrnn train` write it, opened in a headless Chromium."""

import csv
import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import yaml

from spectrnn.evaluation.predictions import read_predictions

# Polled, as the page's policy forbids JavaScript's eval, which playwright's own waiting needs.
PLAYED_SECONDS = """audio => new Promise(done => {
    const poll = () => audio.currentTime > 0.05 ? done(audio.currentTime) : setTimeout(poll, 20);
    poll();
})"""
BLOCKED_URI = """new Promise(done => {
    document.addEventListener('securitypolicyviolation', event => done(event.blockedURI));
    fetch('http://127.0.0.1:9/').then(() => done('answered'), () => 0);
})"""


@pytest.fixture(scope="module")
def mislabelled(tones, tmp_path_factory):
    """Folder of 40 tones, of which four high ones are labelled low, so that a trained model misclassifies them."""
    root = shutil.copytree(tones, tmp_path_factory.mktemp("dataset") / "tones")
    for number in range(4):
        shutil.copy(tones / "high" / f"{number:02d}.wav", root / "low" / f"high{number}.wav")
    return root


def test_report_can_be_filtered_and_played(spectrnn, trained_run, mislabelled, open_page, tmp_path):
    report = tmp_path / "out" / "report.html"
    outcome = spectrnn("eval", f"run={trained_run}", f"data.root={mislabelled}", "split=all", f"out={report.parent}")
    assert outcome.code == 0, outcome.err
    metrics = json.loads((report.parent / "metrics.json").read_text())["all"]
    errors = 40 - round(metrics["accuracy"] * 40)
    assert errors >= 4
    page, messages = open_page(report)
    assert page.inner_text("h1") == f"Accuracy {100 * metrics['accuracy']:.1f}\u00a0% (40 clips)"
    assert page.inner_text("#lead").startswith(f"{errors} clips are misclassified. ")
    assert page.locator(".clip").count() == page.locator(".clip.error").count() == min(24, errors)

    page.select_option("#show", "all")
    assert page.inner_text("#count") == "40 of 40 clips"
    page.click("#more")
    assert page.locator(".clip").count() == 40
    assert not page.is_visible("#more")
    page.fill("#search", "HIGH/0")
    assert page.locator(".clip").count() == 10
    page.keyboard.press("Escape")
    labels = metrics["confusion"]["labels"]
    counts = metrics["confusion"]["counts"][labels.index("low")][labels.index("high")]
    assert counts >= 4
    cell = page.locator(f".matrix td[data-true='{labels.index('low')}'][data-predicted='{labels.index('high')}']")
    assert cell.inner_text() == str(counts)
    cell.click()
    assert page.locator(".clip").count() == counts
    assert set(page.locator(".clip h3 > span").all_inner_texts()) == {"low classified as high"}
    assert "true=low&predicted=high" in page.url

    audio = page.locator(".clip audio").first
    page.locator(".clip .play").first.click()
    assert audio.evaluate(PLAYED_SECONDS) > 0.05
    seconds = audio.evaluate("audio => audio.duration")
    assert f"{seconds:.2f}\u00a0s" in page.locator(".clip .about").first.inner_text()
    spectrogram = page.locator(".spectrogram img").first
    assert spectrogram.evaluate("image => image.complete && image.naturalWidth") > 10
    assert page.locator(".clip").first.locator("polyline:not(.halo)").count() == 2  # attention heads
    assert messages == []


def test_report_works_with_the_keyboard_alone(spectrnn, trained_run, mislabelled, open_page, tmp_path):
    assert spectrnn("eval", f"run={trained_run}", f"data.root={mislabelled}", "split=all", f"out={tmp_path}").code == 0
    page, messages = open_page(tmp_path / "report.html", viewport={"width": 390, "height": 844}, color_scheme="dark")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    press = page.keyboard.press
    press("m")
    for key in ("ArrowRight", "ArrowDown", "ArrowUp", "ArrowLeft", "ArrowLeft", "ArrowRight"):
        press(key)  # on the way to the name of the class, and back
    assert page.evaluate("document.activeElement.dataset.true + document.activeElement.dataset.predicted") == "00"
    press("Enter")
    assert page.locator(".clip").count() == page.locator(".clip.correct").count() == 12  # all high clips
    press("j")
    press(" ")
    assert page.evaluate("document.activeElement.parentNode.children[1] === document.activeElement")
    assert page.locator(".clip audio").nth(1).evaluate(PLAYED_SECONDS) > 0.05
    press("k")
    assert page.evaluate("document.activeElement === document.querySelector('.clip')")
    press("e")
    assert page.inner_text("#count") == "None of 40 clips match."
    press("/")
    assert page.evaluate("document.activeElement.id") == "search"
    press("Escape")
    assert page.locator(".clip.error").count() >= 4
    press("j")
    assert page.evaluate("document.activeElement === document.querySelector('.clip')")
    assert messages == []


@pytest.fixture(scope="module")
def mapped(trained_run, mislabelled, tmp_path_factory):
    """Report of the 40 tones, by a model of three classes."""
    folder = tmp_path_factory.mktemp("map")
    command = ["eval", f"run={trained_run}", f"data.root={mislabelled}", "split=all", f"out={folder}"]
    done = subprocess.run([sys.executable, "-m", "spectrnn", *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "report.html"


def test_clips_of_the_map_are_colored_chosen_and_played(mapped, open_page):
    page, messages = open_page(mapped)
    report = json.loads(page.locator("#report").inner_text())
    wrong = sum(clip[4] != clip[5] for clip in report["clips"])
    first, second = (f"{100 * fraction:.1f}\u00a0%" for fraction in report["map"]["variance"])
    assert f"with {first} and {second} of their variance." in page.inner_text("#map-caption")
    assert page.locator("#map .place").count() == 40
    assert page.locator("#map .outlined").count() == wrong >= 4
    legend = page.locator("#map-legend button")
    assert [text.split() for text in legend.all_inner_texts()] == [["high", "12"], ["low", "16"], ["middle", "12"]]
    colors = page.evaluate("[...document.querySelectorAll('#map .place')].map(node => getComputedStyle(node).fill)")
    assert len({*colors}) == 3
    legend.nth(1).click()
    assert page.locator("#map .place:not(.faded)").count() == 16
    page.select_option("#map-color", "error")
    assert page.locator("#map .faded").count() == 0
    assert [int(text.split()[-1]) for text in legend.all_inner_texts()] == [40 - wrong, wrong]

    page.locator("#map .outlined").last.hover()
    text = page.inner_text("#map-text")
    assert " classified as " in text
    page.locator("#map .outlined").last.click()
    assert page.inner_text("#map-clip h3 > span") in text
    assert page.locator("#map-clip audio").evaluate(PLAYED_SECONDS) > 0.05
    number = page.locator("#map-clip .clip").get_attribute("data-clip")
    page.locator("#map-clip .flag").click()  # and the same clip in the list
    assert page.locator(f"#list .clip.marked[data-clip='{number}']").count() == 1
    assert messages == []


def test_map_is_used_with_the_keyboard_on_a_phone(mapped, open_page):
    page, messages = open_page(mapped, viewport={"width": 390, "height": 844}, color_scheme="dark")
    page.locator("#map svg").focus()
    seen = []
    for key in ("ArrowDown", "ArrowLeft", "ArrowUp", "ArrowRight"):
        page.keyboard.press(key)
        seen.append(page.inner_text("#map-text"))
    assert len({*seen}) > 1
    page.keyboard.press("Enter")
    assert page.locator("#map-clip audio").evaluate(PLAYED_SECONDS) > 0.05
    assert page.evaluate("document.activeElement.closest('#map') !== null")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert messages == []


def test_map_of_many_classes_is_colored_by_error(mapped, open_page, tmp_path):
    text = mapped.read_text()
    (data,) = re.findall(r'id="report">(.*?)</script>', text)
    report = json.loads(data)
    report["labels"] += [f"species {number}" for number in range(37)]
    for number, clip in enumerate(report["clips"]):
        clip[4], clip[5] = [number], [0]
    (tmp_path / "many.html").write_text(text.replace(data, json.dumps(report).replace("<", "\\u003c")))
    page, messages = open_page(tmp_path / "many.html")
    assert page.locator("#map-color option").all_inner_texts() == ["correct or error"]
    assert page.locator("#map-class option").count() == 41
    page.select_option("#map-class", "species 7")
    assert page.locator("#map .place:not(.faded)").count() == 1
    assert page.inner_text("#map-text") == "1 clip shown."
    assert [text.split() for text in page.locator("#map-legend button").all_inner_texts()] == [["error", "1"]]
    assert messages == []


def test_training_writes_a_report_that_is_safe_from_script_injection(spectrnn, tiny, tone, open_page, tmp_path):
    labels = ["</script><script>alert(1)</script>", "<img src=x onerror=alert(2)>"]
    rows = [
        {
            "path": str(tone(tmp_path / f"{number}-{index}.wav", frequency=400 * (number + 1))),
            "label": label,
            "group": f"<b>{index}</b>",
        }
        for number, label in enumerate(labels)
        for index in range(10)
    ]
    (tmp_path / "clips.jsonl").write_text("\n".join(map(json.dumps, rows)))
    run = tmp_path / "run"
    settings = ("data=manifest", f"data.path={tmp_path / 'clips.jsonl'}", "trainer.report=true", "trainer.epochs=1")
    outcome = spectrnn("train", *tiny[1:], *settings, f"hydra.run.dir={run}")
    assert outcome.code == 0, outcome.err
    assert f"the report of the test split is {run / 'report.html'}" in outcome.err
    page, messages = open_page(run / "report.html")
    page.select_option("#show", "all")
    names = page.locator("#classes tbody th").all_inner_texts()
    assert sorted(names) == labels
    assert page.locator(".clip").count() == json.loads(page.locator("#report").inner_text())["count"] > 0
    assert page.locator("#classes img, .clip b, #groups b").count() == 0
    assert page.evaluate(BLOCKED_URI) == "http://127.0.0.1:9/"
    assert all("Content Security Policy" in line for line in messages)

    metrics = json.loads((run / "metrics.json").read_text())
    assert [epoch["epoch"] for epoch in metrics["history"]] == [1]
    assert page.locator("#plots figcaption").all_inner_texts() == ["validation accuracy", "loss"]
    assert page.locator("#plots .kept title").first.evaluate("node => node.textContent").startswith("kept: epoch 1, ")
    assert not page.locator("#config pre").is_visible()
    page.click("#config summary")
    assert yaml.safe_load(page.inner_text("#config pre")) == yaml.safe_load((run / "config.yaml").read_text())
    versions = ", ".join(f"{name} {version}" for name, version in metrics["versions"].items())
    assert page.inner_text("#versions") == f"Versions: {versions}."


@pytest.fixture(scope="module")
def parts(tone, tmp_path_factory):
    """Manifest of 24 parts of long files with commas and quotes in their names, half of them labelled noise."""
    root = tmp_path_factory.mktemp("parts")
    rows = []
    for label, frequency in (("noise", 300), ('si"ren, loud', 900)):
        times = np.arange(60 * 8000) / 8000
        path = tone(root / "audio" / f'{label}, "1".wav')
        soundfile.write(
            path, 0.5 * np.sin(2 * np.pi * frequency * (1 + 0.01 * times) * times), 8000
        )  # no part is equal
        rows += [[f'audio/{label}, "1".wav', 5 * part, 5 * part + 5, label, f"site {part % 2}"] for part in range(12)]
    with (root / "clips.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["path", "start", "end", "label", "group"], *rows])
    return root / "clips.csv"


@pytest.fixture(scope="module")
def two_classes(parts, tiny, tmp_path_factory):
    """Folder with the report of all clips by a model of two classes that was trained for an epoch."""
    folder = tmp_path_factory.mktemp("two") / "run"
    settings = (
        "data=manifest",
        f"data.path={parts}",
        "trainer.epochs=1",
        "optimizer.lr=0.0003",
        f"hydra.run.dir={folder}",
    )
    for command in (("train", *tiny[1:], *settings), ("eval", f"run={folder}", "split=all")):
        done = subprocess.run([sys.executable, "-m", "spectrnn", *command], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    return folder / "eval" / "all"


def test_shown_predictions_are_downloaded_as_in_the_file(two_classes, open_page, tmp_path):
    page, messages = open_page(two_classes / "report.html")
    written = read_predictions(two_classes / "predictions.csv")
    for actions, expected in (
        ([("show", "all")], range(24)),
        ([("true", "noise"), ("show", "all")], [row for row in range(24) if written.clips[row].label == "noise"]),
        ([("show", "errors")], np.flatnonzero(written.probabilities.argmax(1) != written.targets)),
    ):
        page.keyboard.press("Escape")
        for field, value in actions:
            page.select_option(f"#{field}", value)
        if not len(expected):
            assert page.locator("#save").is_disabled()
            continue
        with page.expect_download() as download:
            page.click("#save")
        assert download.value.suggested_filename == "predictions.csv"
        download.value.save_as(tmp_path / "saved.csv")
        saved = read_predictions(tmp_path / "saved.csv")
        values = {
            clip._replace(split=None, fold=None): own.tolist()
            for clip, own in zip(saved.clips, saved.probabilities, strict=True)
        }
        assert saved.labels == written.labels
        assert values == {
            written.clips[row]._replace(split=None, fold=None): written.probabilities[row].tolist() for row in expected
        }
    assert [line for line in messages if not line.startswith("blob:")] == []


def test_predictions_of_a_page_without_all_probabilities_have_the_largest(
    spectrnn, two_classes, parts, open_page, monkeypatch, tmp_path
):
    monkeypatch.setattr("spectrnn.evaluation.report.html._MAX_COLUMNS", 1)
    assert spectrnn("eval", f"run={two_classes.parents[1]}", "split=all", f"out={tmp_path}").code == 0
    page, _ = open_page(tmp_path / "report.html")
    page.select_option("#show", "all")
    with page.expect_download() as download:
        page.click("#save")
    download.value.save_as(tmp_path / "saved.csv")
    saved, written = read_predictions(tmp_path / "saved.csv"), read_predictions(tmp_path / "predictions.csv")
    assert saved.is_partial
    by_clip = {clip._replace(split=None): own for clip, own in zip(written.clips, written.probabilities, strict=True)}
    for clip, own in zip(saved.clips, saved.probabilities, strict=True):
        np.testing.assert_allclose(own, by_clip[clip], rtol=1e-3)


def test_marked_clips_become_a_manifest(two_classes, open_page, spectrnn, source, tmp_path):
    page, messages = open_page(two_classes / "report.html")
    page.select_option("#show", "all")
    page.locator(".clip").nth(1).click(position={"x": 3, "y": 3})
    page.locator(".clip").first.focus()
    for key in ("x", "j", "2", "j", "x", "x"):
        page.keyboard.press(key)
    page.locator(".clip").nth(3).locator(".flag").click()
    page.locator(".clip").nth(3).locator(".marking input").fill('new, "class"')
    assert page.inner_text("#marks-count") == "3 clips marked as mislabelled."
    assert page.locator(".flag[aria-pressed=true]").count() == 3
    page.wait_for_timeout(500)  # the browser writes its storage asynchronously
    page.reload()
    assert page.inner_text("#marks-count") == "3 clips marked as mislabelled."
    page.select_option("#show", "marked")
    assert page.inner_text("#count") == "3 of 24 clips"
    with page.expect_download() as download:
        page.click("#save-marks")
    assert download.value.suggested_filename == "corrected.csv"
    download.value.save_as(tmp_path / "elsewhere" / "corrected.csv")

    written = read_predictions(two_classes / "predictions.csv")
    labels = {(clip.path, clip.start): clip.label for clip in written.clips}
    clips = source("manifest", path=tmp_path / "elsewhere" / "corrected.csv").clips()
    assert [clip.end - clip.start for clip in clips] == [5] * 3
    assert {clip.group for clip in clips} <= {"site 0", "site 1"}
    new = [clip.label for clip in clips]
    assert 'new, "class"' in new
    others = [clip for clip in clips if clip.label != 'new, "class"']
    assert labels[others[0].path, others[0].start] != others[0].label  # the prediction or the next probable class
    assert {clip.label for clip in others} <= {*written.labels}

    page.on("dialog", lambda dialog: None)  # dismissed by the fixture
    page.click("#clear-marks")
    assert page.inner_text("#marks-count") == "3 clips marked as mislabelled."
    assert [line for line in messages if not line.startswith(("blob:", "file:", "dialog"))] == []


def test_marks_work_without_storage(two_classes, browser):
    page = browser.new_page()
    page.add_init_script("Object.defineProperty(window, 'localStorage', { get() { throw new Error('denied'); } })")
    page.goto((two_classes / "report.html").as_uri())
    page.select_option("#show", "all")
    page.locator(".flag").first.click()
    assert page.inner_text("#marks-count").startswith("1 clip marked as mislabelled. The browser does not keep marks")
    page.close()


def test_threshold_of_two_classes_decides_on_the_clips(two_classes, open_page):
    page, messages = open_page(two_classes / "report.html")
    written = read_predictions(two_classes / "predictions.csv")
    is_positive = written.targets == 1
    scores = written.probabilities[:, 1]
    assert page.input_value("#positive") == "1"
    assert page.inner_text("#threshold-value") == "0.500: the most probable class"
    slider = page.locator("#threshold")
    thresholds = sorted({*scores.tolist(), 0.5})
    assert len(thresholds) > 10
    for point in [at for at in (0, 5, 9, len(thresholds) - 1) if thresholds[at] != 0.5]:
        slider.fill(str(point))
        is_detected = scores >= np.float32(thresholds[point])
        wrong = (is_detected != is_positive).sum()
        rates = page.locator("#rates dd").all_inner_texts()
        assert rates[0].startswith(f"{100 * is_detected[is_positive].mean():.1f}\u00a0%")
        assert rates[2].startswith(f"{100 * is_detected[~is_positive].mean():.1f}\u00a0%")
        page.click("#wrong")
        assert page.inner_text("#count").startswith(f"{wrong} of 24 clips; predictions at the threshold ")
        assert page.locator(".clip.error").count() == wrong > 0
        assert f"threshold={point}" in page.url
    page.locator(".clip .play").first.click()
    assert page.locator(".clip audio").first.evaluate(PLAYED_SECONDS) > 0.05
    page.reload()
    assert slider.input_value() in page.url
    page.keyboard.press("Escape")
    assert page.inner_text("#threshold-value") == "0.500: the most probable class"
    page.select_option("#positive", "0")
    detected = (written.probabilities.argmax(1) == 0) & ~is_positive
    assert page.locator("#rates dd").first.inner_text().startswith(f"{100 * detected.sum() / 12:.1f}\u00a0%")
    assert [line for line in messages if not line.startswith("file:")] == []


def test_long_clip_can_be_enlarged_and_sought(two_classes, open_page):
    page, messages = open_page(two_classes / "report.html", viewport={"width": 390, "height": 844})
    page.select_option("#show", "all")
    card = page.locator(".clip").first
    card.focus()
    width = card.locator(".spectrogram").bounding_box()["width"]
    page.keyboard.press("+")
    page.keyboard.press("+")
    assert card.locator(".spectrogram").bounding_box()["width"] == pytest.approx(4 * width, abs=2)
    assert card.get_by_label("Zoom in").is_disabled()  # of 5 s, 1.25 are visible
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    card.locator(".spectrogram").evaluate("""picture => {
        const box = picture.getBoundingClientRect();
        picture.dispatchEvent(new MouseEvent("click", { bubbles: true, clientX: box.left + 0.6 * box.width }));
    }""")
    audio = card.locator("audio")
    audio.evaluate(PLAYED_SECONDS)
    assert 2.9 <= audio.evaluate("audio => { audio.pause(); return audio.currentTime; }") < 4.5
    at = audio.evaluate("audio => audio.currentTime")
    card.focus()
    page.keyboard.press("ArrowLeft")
    assert audio.evaluate("audio => audio.currentTime") == pytest.approx(at - 0.1, abs=0.02)
    box, view = card.locator(".playhead").bounding_box(), card.locator(".view").bounding_box()
    assert view["x"] <= box["x"] <= view["x"] + view["width"]
    assert messages == []


def test_groups_are_shown_only_if_the_dataset_has_them(
    spectrnn, trained_run, mislabelled, two_classes, open_page, tmp_path
):
    assert spectrnn("eval", f"run={trained_run}", f"data.root={mislabelled}", "split=all", f"out={tmp_path}").code == 0
    page, _ = open_page(tmp_path / "report.html")
    assert "Accuracy by group" not in page.inner_text("main")
    assert not page.is_visible("#operating")  # of two classes only
    page, _ = open_page(two_classes / "report.html")
    assert page.locator("#groups tbody th").all_inner_texts() in (["site 0", "site 1"], ["site 1", "site 0"])


def test_class_without_clips_is_not_tested(spectrnn, trained_run, mislabelled, open_page, tmp_path):
    root = shutil.copytree(mislabelled, tmp_path / "two")
    shutil.rmtree(root / "middle")
    assert spectrnn("eval", f"run={trained_run}", f"data.root={root}", "split=all", f"out={tmp_path}").code == 0
    page, _ = open_page(tmp_path / "report.html")
    assert page.locator("#classes tbody tr").last.inner_text().split("\t") == [
        "middle",
        *3 * ["\N{EN DASH}"],
        "not tested",
    ]
    assert "Not tested: 1 class without clips here." in page.inner_text("#classes-caption")
    assert re.search(r"^middle +- +- +- +0$", (tmp_path / "report.txt").read_text(), re.MULTILINE)


def test_many_classes_are_searched_and_sorted(spectrnn, tiny, tone, open_page, tmp_path):
    for number in range(45):
        for index in range(3):
            tone(tmp_path / "data" / f"species {number:02d}" / f"{index}.wav", 0.1, frequency=200 + 40 * number)
    run = tmp_path / "run"
    settings = (f"data.root={tmp_path / 'data'}", "data.test_fraction=0.34", "data.val_fraction=0", "trainer.epochs=1")
    assert spectrnn("train", *tiny, *settings, f"hydra.run.dir={run}").code == 0
    assert spectrnn("eval", f"run={run}", "split=all").code == 0
    page, messages = open_page(run / "eval" / "all" / "report.html", viewport={"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.locator(".matrix tbody tr").count() == 40
    page.get_by_label("all 45 classes").check()
    assert page.locator(".matrix tbody tr").count() == 45
    report = json.loads(page.locator("#report").inner_text())
    counts = np.array(report["matrix"][1])
    texts = page.locator(".matrix tbody td").all_inner_texts()
    assert [int(text or 0) for text in texts] == counts.ravel().tolist()
    page.get_by_label("Search the confusion matrix").fill("species 07")
    near = np.flatnonzero(counts[7] + counts[:, 7])
    names = [f"species {label:02d}" for label in {7, *near.tolist()}]
    assert sorted(page.locator(".matrix tbody th").all_inner_texts()) == sorted(names)
    page.get_by_label("Search the confusion matrix").fill("")
    page.locator(".matrix tbody th", has_text="species 07").click()
    assert page.locator(".matrix tbody th").first.inner_text() == "species 07"
    confused = counts[7] + counts[:, 7]
    confused[7] = -1
    second = int(page.locator(".matrix tbody th").nth(1).inner_text().split()[1])
    assert confused[second] == confused.max()

    table = page.locator("#classes")
    table.get_by_role("button", name="recall").click()
    recalls = [float(text.split("\t")[2].split("\u00a0")[0]) for text in table.locator("tbody tr").all_inner_texts()]
    assert recalls == sorted(recalls)
    table.get_by_role("button", name="recall").click()
    recalls = [float(text.split("\t")[2].split("\u00a0")[0]) for text in table.locator("tbody tr").all_inner_texts()]
    assert recalls == sorted(recalls, reverse=True)
    page.get_by_label("Search the table of classes").fill("ES 44")
    assert table.locator("tbody th").all_inner_texts() == ["species 44"]
    row = page.locator("#confusions tbody tr").first
    true, predicted, count, _ = row.inner_text().split("\t")
    assert int(count) == (counts - np.diag(counts.diagonal())).max()
    row.locator("button").click()
    assert page.inner_text("#count").startswith(f"{count} of ")
    assert {*page.locator(".clip h3 > span").all_inner_texts()} == {f"{true} classified as {predicted}"}
    assert messages == []


def test_report_is_optional_and_its_size_is_validated(spectrnn, trained_run, tmp_path):
    assert spectrnn("eval", f"run={trained_run}", "report=false", f"out={tmp_path}").code == 0
    assert not (tmp_path / "report.html").exists()
    assert not (trained_run / "report.html").exists()  # trained with trainer.report=false
    error = spectrnn("eval", f"run={trained_run}", "report_max_mb=0.5").error()
    assert error == "spectrnn: report_max_mb=0.5: should be greater than or equal to 1"
