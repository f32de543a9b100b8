"""report.html through the command line, opened in a headless Chromium."""

import json
import shutil

import pytest

# The page's policy forbids what playwright waits with, which is eval.
HEARD = """audio => new Promise(done => {
    const look = () => audio.currentTime > 0.05 ? done(audio.currentTime) : setTimeout(look, 20);
    look();
})"""
REFUSED = """new Promise(done => {
    document.addEventListener('securitypolicyviolation', event => done(event.blockedURI));
    fetch('http://127.0.0.1:9/').then(() => done('answered'), () => 0);
})"""


@pytest.fixture(scope="module")
def misplaced(tones, tmp_path_factory):
    """The tones, of which four high ones are called low: errors that a model makes that has learnt the tones."""
    root = shutil.copytree(tones, tmp_path_factory.mktemp("dataset") / "tones")
    for number in range(4):
        shutil.copy(tones / "high" / f"{number:02d}.wav", root / "low" / f"high{number}.wav")
    return root


@pytest.fixture
def opened(browser):
    """`opened(path, **of the page)` -> a page, and what it asked for and complained of."""
    pages, told = [], []

    def open_page(path, **settings):
        page = browser.new_page(**settings)
        pages.append(page)
        page.on("request", lambda request: told.append(request.url) if not request.url.startswith("data:") else None)
        page.on("console", lambda message: told.append(message.text))
        page.on("pageerror", lambda error: told.append(str(error)))
        page.on("dialog", lambda dialog: (told.append("dialog"), dialog.dismiss()))
        page.goto(path.as_uri())
        assert told.pop(0) == path.as_uri()
        return page, told

    yield open_page
    for page in pages:
        page.close()


def test_a_report_opens_filters_and_plays(spectrnn, trained, misplaced, opened, tmp_path):
    report = tmp_path / "out" / "report.html"
    outcome = spectrnn("eval", f"run={trained}", f"data.root={misplaced}", "split=all", f"out={report.parent}")
    assert outcome.code == 0, outcome.err
    figures = json.loads((report.parent / "metrics.json").read_text())["all"]
    right = round(figures["accuracy"] * 40)
    assert right < 40
    page, told = opened(report)
    assert page.inner_text("h1") == f"{figures['accuracy']:.1%}".replace("%", "\u00a0%") + " of 40 clips right"
    assert page.locator(".clip").count() == page.locator(".clip.error").count() == min(24, 40 - right)

    page.select_option("#show", "all")
    assert page.inner_text("#count") == "40 of 40 clips"
    page.click("#more")
    assert page.locator(".clip").count() == 40
    assert not page.is_visible("#more")
    page.fill("#search", "HIGH/0")
    assert page.locator(".clip").count() == 10
    page.keyboard.press("Escape")
    labels = figures["confusion"]["labels"]
    counts = figures["confusion"]["counts"][labels.index("low")][labels.index("high")]
    assert counts >= 4
    cell = page.locator(f".matrix td[data-true='{labels.index('low')}'][data-predicted='{labels.index('high')}']")
    assert cell.inner_text() == str(counts)
    cell.click()
    assert page.locator(".clip").count() == counts
    assert set(page.locator(".clip h3 > span").all_inner_texts()) == {"low taken for high"}
    assert "true=low&predicted=high" in page.url

    audio = page.locator(".clip audio").first
    page.locator(".clip .play").first.click()
    assert audio.evaluate(HEARD) > 0.05
    seconds = audio.evaluate("audio => audio.duration")
    assert f"{seconds:.2f}\u00a0s" in page.locator(".clip .about").first.inner_text()
    sight = page.locator(".sight img").first
    assert sight.evaluate("image => image.complete && image.naturalWidth") > 10
    assert page.locator(".clip").first.locator("polyline:not(.halo)").count() == 2  # heads
    assert told == []


def test_a_report_works_with_the_keyboard_alone(spectrnn, trained, misplaced, opened, tmp_path):
    assert spectrnn("eval", f"run={trained}", f"data.root={misplaced}", "split=all", f"out={tmp_path}").code == 0
    page, told = opened(tmp_path / "report.html", viewport={"width": 390, "height": 844}, color_scheme="dark")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    press = page.keyboard.press
    press("m")
    for key in ("ArrowRight", "ArrowDown", "ArrowUp", "ArrowLeft", "ArrowLeft"):
        press(key)
    assert page.evaluate("document.activeElement.dataset.true + document.activeElement.dataset.predicted") == "00"
    press("Enter")
    assert page.locator(".clip").count() == page.locator(".clip.right").count() == 12  # that are high
    press("j")
    press(" ")
    assert page.evaluate("document.activeElement.parentNode.children[1] === document.activeElement")
    assert page.locator(".clip audio").nth(1).evaluate(HEARD) > 0.05
    press("k")
    assert page.evaluate("document.activeElement === document.querySelector('.clip')")
    press("e")
    assert page.inner_text("#count").startswith("None")
    press("/")
    assert page.evaluate("document.activeElement.id") == "search"
    press("Escape")
    assert page.locator(".clip.error").count() >= 4
    press("j")
    assert page.evaluate("document.activeElement === document.querySelector('.clip')")
    assert told == []


def test_a_training_ends_with_a_report_that_no_label_takes_over(spectrnn, tiny, tone, opened, tmp_path):
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
    page, told = opened(run / "report.html")
    page.select_option("#show", "all")
    names = page.locator("#classes tbody th").all_inner_texts()
    assert sorted(names) == labels
    assert page.locator(".clip").count() == json.loads(page.locator("#report").inner_text())["count"] > 0
    assert page.locator("#classes img, .clip b, #groups b").count() == 0
    assert page.evaluate(REFUSED) == "http://127.0.0.1:9/"
    assert all("Content Security Policy" in line for line in told)


def test_without_a_report_none_is_written_and_its_size_is_checked(spectrnn, trained, tmp_path):
    assert spectrnn("eval", f"run={trained}", "report=false", f"out={tmp_path}").code == 0
    assert not (tmp_path / "report.html").exists()
    assert not (trained / "report.html").exists()  # trained with trainer.report=false
    told = spectrnn("eval", f"run={trained}", "report_max_mb=0.5").mistake()
    assert "report_max_mb=0.5: should be greater than or equal to 1" in told
