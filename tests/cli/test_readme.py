"""The README: each of its commands runs, or composes a valid config if it needs data that tests do not have."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from spectrnn.config.paths import CONFIG_DIR

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
RUN = "outputs/2026-11-22/10-15-00"  # the run that the README's examples name
# Commands that are not spectrnn's, or install it.
OTHERS = (
    "git clone",
    "pip install uv",
    "uv run tensorboard",
    "uv run scripts/",
    "files -> clips",
    "-> ",
)


def code_lines():
    """The lines of indented code blocks, without comments."""
    for line in re.sub(r"```.*?```", "", README, flags=re.DOTALL).splitlines():
        if line.startswith("    ") and line.strip():
            yield re.sub(r"\s{2,}#.*", "", line).strip()


def spectrnn_commands():
    """Arguments of each spectrnn command."""
    for line in code_lines():
        command = line.split(" && ")[-1].rsplit(" | ")[-1]
        match = re.match(r"uv run (?:--extra \w+ )?(?:torchrun --nproc-per-node \d+ -m )?spectrnn\b(.*)", command)
        if match:
            yield shlex.split(match[1])
        else:
            assert line.startswith(OTHERS), f"{line!r} is neither a command of spectrnn nor a known other one"


COMMANDS = sorted({tuple(command) for command in spectrnn_commands()})


@pytest.fixture(scope="module")
def workspace(tmp_path_factory, trained_run, tones):
    """A folder with the files that the README's examples name, and a run of a tiny classifier."""
    folder = tmp_path_factory.mktemp("readme")
    shutil.copytree(trained_run, folder / RUN)
    for name in ("recordings", "new", "new_word", "words", "evenings", "nights", "quiet_nights"):
        shutil.copytree(tones, folder / name)
    (folder / "more").mkdir()
    import soundfile

    samples, rate = soundfile.read(tones / "low" / "00.wav")
    for name in ("more/a.flac", "night.flac", "door.wav"):
        soundfile.write(folder / name, samples, rate)
    table = "\n".join(
        f"recordings/{path.relative_to(tones)},{path.parent.name}" for path in sorted(tones.rglob("*.wav"))
    )
    (folder / "labels").mkdir()
    (folder / "review").mkdir()
    (folder / "events.csv").write_text("path,start,end,label\nlow/00.wav,0,0.1,low\n")
    for name in ("clips.csv", "clean.csv"):
        (folder / name).write_text(f"path,label\n{table}\n")
    shutil.copy(folder / "clips.csv", folder / "review" / "labels.csv")
    return folder


def test_the_readme_has_commands_for_every_command():
    from spectrnn.cli.main import COMMANDS as TABLE

    assert {command[0] for command in COMMANDS if command} >= {*TABLE} - {"--version"}


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_config_of_a_command_is_valid(spectrnn, workspace, monkeypatch, arguments):
    spectrnn_in(spectrnn, monkeypatch, workspace)
    if not arguments or arguments[0] in ("--version", "explain") or "--help" in arguments:
        outcome = spectrnn(*arguments)
        assert outcome.code == 0, outcome.err
        return
    if arguments[0] == "train" and not any("resume" in a or a in ("-m", "--config-dir") for a in arguments):
        from spectrnn.config.compose import compose
        from spectrnn.study.job import preflight_job

        overrides = [argument for argument in arguments[1:] if argument not in ("--cfg", "job")]
        preflight_job(compose("train", overrides, [CONFIG_DIR]).config)
    flags = () if "--config-dir" in arguments else ("--cfg", "job")
    if flags and "--cfg" not in arguments:
        arguments = (*arguments, *flags)
    if "--config-dir" not in arguments and "-m" not in arguments:
        outcome = spectrnn(*arguments)
        assert outcome.code == 0, outcome.err
        assert OmegaConf.create(outcome.out)


def spectrnn_in(spectrnn, monkeypatch, folder):
    monkeypatch.chdir(folder)
    return spectrnn


# In the order of the README; each runs as written.
EXECUTED = [
    "check data=folder data.root=recordings out=clean.csv",
    "eval",
    f"eval run={RUN} split=val",
    "predict recordings/",
    "predict new/ 'more/*.flac' out=labels.csv",
    "embed recordings/",
    "search embeddings.npz like=door.wav n=20",
    "predict night.flac window=2 hop=0.5",
    "predict nights/ window=2 hop=0.5 format=audacity out=labels/",
    "tune-thresholds negatives=[quiet_nights/] max_false_alarms_per_hour=1 window=1 hop=0.25",
    "eval-events events.csv recordings=[nights]",
    "export",
    "demo window=0.8 out=page",
]


@pytest.mark.slow
def test_commands_run_as_written(spectrnn, workspace, monkeypatch):
    monkeypatch.chdir(workspace)
    for line in EXECUTED:
        arguments = tuple(shlex.split(line))
        assert arguments in COMMANDS, f"{line!r} is not in the README"
        outcome = spectrnn(*arguments)
        assert outcome.code == 0, (line, outcome.err)
    outcome = spectrnn("verify", f"{RUN}/export/model.onnx")
    assert outcome.code == 0, outcome.err


@pytest.mark.slow
def test_python_example_runs(workspace):
    code = next(block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "spectrnn.load" in block)
    tiny = '"trainer.epochs=1", "model=gru", "model.hidden_size=8", "trainer.report=false"'
    code = code.replace('"trainer.epochs=1"', tiny)
    done = subprocess.run([sys.executable, "-c", code], cwd=workspace, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1] in ("low", "middle", "high")


@pytest.mark.slow
def test_custom_pooling_of_the_readme_trains_and_evaluates(tones, tiny, tmp_path):
    code = next(block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "class LogSumExp" in block)
    config = re.search(r"```yaml\n(.*?)```", README, re.DOTALL)[1]
    (tmp_path / "my_pooling.py").write_text(code)
    (tmp_path / "my_configs" / "pooling").mkdir(parents=True)
    (tmp_path / "my_configs" / "pooling" / "logsumexp.yaml").write_text(config)
    for arguments in ("train pooling=logsumexp --config-dir my_configs", "eval trust=[my_pooling]"):
        assert tuple(arguments.split()) in COMMANDS

    def run(*arguments):
        command = [sys.executable, "-P", "-m", "spectrnn", *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    data = [setting for setting in tiny if not setting.startswith("pooling")]
    done = run("train", *data, f"data.root={tones}", "pooling=logsumexp", "--config-dir", "my_configs")
    assert done.returncode == 0, done.stderr
    done = run("eval", "trust=[my_pooling]")
    assert done.returncode == 0, done.stderr
    done = run("eval")
    assert done.returncode == 1
    assert "trust=[my_pooling]" in done.stderr
    assert "Traceback" not in done.stderr
