"""report.html as `spectrnn eval` and `spectrnn train` write it, opened in a headless Chromium."""

import json
import shutil

import pytest

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
    for key in ("ArrowRight", "ArrowDown", "ArrowUp", "ArrowLeft", "ArrowLeft"):
        press(key)
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


def test_report_is_optional_and_its_size_is_validated(spectrnn, trained_run, tmp_path):
    assert spectrnn("eval", f"run={trained_run}", "report=false", f"out={tmp_path}").code == 0
    assert not (tmp_path / "report.html").exists()
    assert not (trained_run / "report.html").exists()  # trained with trainer.report=false
    error = spectrnn("eval", f"run={trained_run}", "report_max_mb=0.5").error()
    assert error == "spectrnn: report_max_mb=0.5: should be greater than or equal to 1"
