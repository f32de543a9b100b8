"""Help, overrides, invalid arguments, --cfg and shell completion."""

import os
import re
import subprocess
import sys

import pytest
import yaml

from spectrnn.cli.help import group_defaults
from spectrnn.cli.main import COMMANDS
from spectrnn.config.paths import CONFIG_DIR

ALL_COMMANDS = {*COMMANDS, "explain"}


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",), ("help",)], ids=" ".join)
def test_overview_lists_every_command(spectrnn, arguments):
    outcome = spectrnn(*arguments)
    assert (outcome.code, outcome.err) == (0, "")
    assert {*re.findall(r"^  spectrnn ([\w-]+)  ", outcome.out, re.MULTILINE)} == ALL_COMMANDS


def test_version(spectrnn):
    assert re.fullmatch(r"spectrnn \d+\.\d+\.\d+\S*\n", spectrnn("--version").out)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_describes_every_group_option_and_key(spectrnn, command):
    lines = spectrnn(command, "--help").out.splitlines()
    text = (CONFIG_DIR / f"{command}.yaml").read_text()
    for group in group_defaults(text):
        for file in (CONFIG_DIR / group).glob("[!_]*.yaml"):
            line = next(line for line in lines if line.split()[:1] == [file.stem])
            assert len(line.replace("*", "").split()) > 2, line
    for key in yaml.safe_load(text).keys() - {"defaults", "hydra", "head", "limits"}:
        line = next(line for line in lines if line.startswith(f"  {key}:"))
        assert len(line.partition("#")[2].split()) > 1, line
    assert ("  -m " in "\n".join(lines)) == (command == "train")


@pytest.mark.parametrize("command", COMMANDS)
def test_cfg_prints_the_config_and_runs_nothing(spectrnn, trained_run, tmp_path, command):
    run = [f"run={trained_run}"] if COMMANDS[command].uses_run_data else []
    outcome = spectrnn(command, *run, "--cfg", "job")
    assert outcome.code == 0, outcome.err
    expected = yaml.safe_load((CONFIG_DIR / f"{command}.yaml").read_text()).keys() - {"defaults", "hydra"}
    assert expected <= yaml.safe_load(outcome.out).keys()
    assert not list(tmp_path.iterdir())


def test_overrides_change_the_config(spectrnn):
    arguments = ("model=lstm", "augment=[mixup,noise]", "augment.noise.color=white", "trainer.epochs=7")
    config = yaml.safe_load(spectrnn("train", *arguments, "--cfg", "job").out)
    assert (config["model"]["cell"], config["trainer"]["epochs"]) == ("lstm", 7)
    assert list(config["augment"]) == ["mixup", "noise"]
    assert config["augment"]["noise"]["color"] == "white"
    assert not yaml.safe_load(spectrnn("train", "augment=[]", "--cfg", "job").out).get("augment")


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("trainer.epoch=3", "trainer.epoch: no such key; did you mean trainer.epochs?"),
        ("trainer.lr=1", "trainer.lr: no such key; did you mean optimizer.lr?"),
        ("modle=lstm", "modle: no such key; did you mean model?"),
        ("+modle=lstm", "modle: no such key; did you mean model?"),
        ("+model.hiden_size=3", "model.hiden_size: no such key; did you mean model.hidden_size?"),
        ("model=lsmt", "model=lsmt: no such option; did you mean model=lstm?"),
        ("augment=[noise,shfit]", "augment=shfit: no such option; did you mean augment=shift?"),
        ("experiment=keyword", "experiment=keyword: no such option; did you mean experiment=keywords?"),
        ("sweep=seds", "sweep=seds: no such option; did you mean sweep=seeds?"),
        (
            "data.split_seed=(",
            "data.split_seed=(: cannot be parsed; quote a value with special characters twice, \"key='value'\"",
        ),
        ("model.hidden_size=abc", "model.hidden_size=abc: should be a valid integer"),
        ("model.hidden_size=0", "model.hidden_size=0: should be greater than 0"),
        ("model.dropout=1.5", "model.dropout=1.5: should be less than 1"),
        ("trainer.metric=acuracy", "trainer.metric=acuracy: no such metric; did you mean accuracy?"),
        (
            "features.hop_ms=30",
            "features.hop_ms=30: longer than features.window_ms=25, which skips samples; at most 25 ms",
        ),
        (
            "features.n_mels=500",
            "features.n_mels=500: 247 of the mel bands contain no bin of the 256-point FFT at 8000 Hz; use fewer "
            "bands, or features.n_fft=512",
        ),
        ("features.fmax=9000", "features.fmax=9000: above half of features.sample_rate=8000; at most 4000 Hz, or null"),
        ("pooling.num_heads=3", "pooling.num_heads=3: does not divide the encoder's 256 outputs; 1, 2, 4, 8, 16 do"),
        (
            "model._target_=spectrnn.model.rnn.RNEncoder",
            "model._target_=spectrnn.model.rnn.RNEncoder: no such class; did you mean spectrnn.model.rnn.RNNEncoder?",
        ),
        ("model=gru,lstm", "model=gru,lstm: several values need -m (multirun), or quotes"),
        ("trainer.epochs", "trainer.epochs: expected key=value; spectrnn train --help lists the keys"),
        ("~model", "model: missing"),
        ("model=null", "model=null: an option is needed"),
        ("trainer.precision=fp16", "trainer.precision=fp16: needs a GPU, but this run is on the CPU; use fp32 or auto"),
        ("data.storage=gpu", "data.storage=gpu: the run has no GPU; use auto, ram or disk"),
        ("trainer.device=cuda:7", "trainer.device=cuda:7: not available on this machine"),
    ],
)
def test_invalid_argument_is_reported_with_its_full_key(spectrnn, tones, tmp_path, monkeypatch, argument, message):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    run = tmp_path / "run"
    folder = ("data=folder", f"data.root={tones}", "data.sample_rate=8000")
    assert spectrnn("train", *folder, f"hydra.run.dir={run}", argument).error().startswith(f"spectrnn: {message}")
    assert not run.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "trian: no such command; did you mean train?"),
        (["tune_thresholds"], "tune_thresholds: no such command; did you mean tune-thresholds?"),
        (["predict", "-m", "a.wav"], "-m: predict cannot sweep; only train can"),
        (["tune", "-m"], "-m: tune cannot sweep; only train can"),
        (
            ["tune", "resume=run"],
            "resume=run: the same command, with the search's hydra.run.dir, continues it",
        ),
        (["check", "--multirun"], "-m: check cannot sweep; only train can"),
        (["predict", "a.wav", "--cgf=job"], "--cgf: not an option of spectrnn predict; --help lists them"),
        (["predict", "a.wav", "hydra.run.dir=x"], "hydra.run.dir=x: predict has no settings of Hydra; only train has"),
        (["check", "+hydra.job.name=x"], "+hydra.job.name=x: check has no settings of Hydra; only train has"),
        (["train", "--bogus"], "--bogus: not an option of spectrnn train; --help lists them"),
        (["train", "--multirun=3"], "--multirun=3: --multirun takes no value"),
        (["explain", "window", "-x"], "-x: not an option of spectrnn explain; --help lists them"),
        (["train", "--cfg"], "--cfg: expects job, hydra or all"),
        (["train", "-c", "jobs"], "-c jobs: expects job, hydra or all"),
        (["train", "--config-dir"], "--config-dir: expects DIR"),
        (["train", "--resolve"], "--resolve: belongs to --cfg job"),
        (["train", "--cfg=job", "--info=all"], "--cfg and --info: one at a time"),
        (
            ["train", "-m", "--cfg", "job", "seed=0,1"],
            "--cfg: a sweep has many configs; leave out -m, and name one value per key",
        ),
        (
            ["train", "-sc"],
            "-sc: expects install=bash, install=zsh or install=fish, or uninstall= in place of install=",
        ),
        (["verify", "a.onnx", "b.onnx"], "b.onnx: verify takes one FILE"),
        (["verify"], "file: missing; it has no default"),
        (["verify", "none.onnx"], "none.onnx: no such file"),
        (["eval", "a.wav"], "a.wav: expected key=value; spectrnn eval --help lists the keys"),
        (["train", "--config-dir", "none"], "{cwd}/none: no such folder, named by --config-dir or hydra.searchpath"),
        (["predict", "hydra.searchpath=[/no]"], "/no: no such folder, named by --config-dir or hydra.searchpath"),
    ],
)
def test_invalid_command_is_reported(spectrnn, tmp_path, arguments, message):
    assert spectrnn(*arguments).error() == f"spectrnn: {message.format(cwd=tmp_path)}"
    assert not list(tmp_path.iterdir())


def test_invalid_yaml_file_is_reported(spectrnn, tmp_path):
    (tmp_path / "conf" / "model").mkdir(parents=True)
    (tmp_path / "conf" / "model" / "mine.yaml").write_text("_target_: spectrnn.model.rnn.RNNEncoder\n cell: [gru\n")
    assert "mine.yaml" in spectrnn("train", "--config-dir", tmp_path / "conf", "model=mine").error()


def test_invalid_key_in_a_yaml_file_is_reported(spectrnn, tmp_path):
    (tmp_path / "conf" / "pooling").mkdir(parents=True)
    (tmp_path / "conf" / "pooling" / "mine.yaml").write_text(
        "_target_: spectrnn.model.pooling.StatsPooling\nepz: 1e-5\n"
    )
    outcome = spectrnn("train", "--config-dir", tmp_path / "conf", "pooling=mine")
    assert outcome.code == 1
    assert "pooling.epz: no such key; did you mean pooling.eps?" in outcome.err
    assert "pooling.eps: missing" in outcome.err


@pytest.mark.parametrize(
    ("line", "completions"),
    [
        ("spectrnn ", ALL_COMMANDS),
        ("spectrnn ev", {"eval", "eval-events"}),
        ("spectrnn train model=bi", {"model=bigru", "model=bilstm"}),
        ("spectrnn train trainer.ep", {"trainer.epochs="}),
        ("spectrnn train pooling=attention sche", {"scheduler=", "scheduler."}),
        ("spectrnn eval spl", {"split="}),
        ("spectrnn tune-thresholds max_f", {"max_false_alarms_per_hour="}),
        ("spectrnn tune space=s", {"space=small"}),
        ("spectrnn tune trial", {"trials="}),
        ("spectrnn explain trainer.ep", {"trainer.epochs="}),
    ],
)
def test_shell_completion(spectrnn, monkeypatch, line, completions):
    monkeypatch.setenv("COMP_LINE", line)
    monkeypatch.setenv("COMP_POINT", str(len(line)))
    assert set(spectrnn("-sc", "query=bash").out.split()) == completions


def test_shell_completion_of_paths(spectrnn, monkeypatch, tmp_path):
    for folder in ("outputs/a", "outputs/b", "other", ".hidden"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "out.csv").touch()

    def completed(line):
        monkeypatch.setenv("COMP_LINE", line)
        monkeypatch.setenv("COMP_POINT", str(len(line)))
        outcome = spectrnn("-sc", "query=bash")
        assert (outcome.code, outcome.err) == (0, "")
        return outcome.out.split()

    assert completed(f"spectrnn eval run={tmp_path}/outputs/") == [f"run={tmp_path}/outputs/{name}/" for name in "ab"]
    assert completed("spectrnn predict x.wav run=o") == ["run=other/", "run=out.csv", "run=outputs/"]
    assert completed("spectrnn train data=folder data.root=./oth") == ["data.root=./other/"]
    assert completed("spectrnn eval run=") == ["run=other/", "run=out.csv", "run=outputs/"]
    assert completed("spectrnn eval run=none/") == []
    assert completed(f"spectrnn predict {tmp_path}/out.csv run={tmp_path}/other top") == ["top_k="]
    assert completed("spectrnn train data=[ mod") == []  # an incomplete line


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"]], ids=" ".join)
def test_help_imports_no_large_packages(arguments):
    code = f"import sys; sys.argv = ['spectrnn', *{arguments}]; from spectrnn.cli.main import main; main()"
    check = "; assert not {'torch', 'torchaudio', 'matplotlib', 'omegaconf', 'sklearn'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code + check], check=True, capture_output=True)


def test_torchaudio_that_does_not_load_is_reported_with_a_matching_pair(tmp_path, tones):
    (tmp_path / "torchaudio").mkdir()
    (tmp_path / "torchaudio" / "__init__.py").write_text(
        "raise OSError('libc10_cuda.so: cannot open shared object file')"
    )
    command = [sys.executable, "-m", "spectrnn", "train", "data=folder", f"data.root={tones}"]
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "torchaudio does not load with torch" in done.stderr
    assert "(libc10_cuda.so: cannot open shared object file)" in done.stderr
    assert "pip install 'torch>=2.11,<2.15' 'torchaudio>=2.11,<2.12'" in done.stderr


def test_reader_that_closes_early_causes_no_traceback(trained_run, tones):
    def piped(command, reader):
        line = f"{sys.executable} -m spectrnn {command} | {reader}"
        return subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)

    done = piped("train --help", "head -1")
    assert done.stdout.startswith("spectrnn train")
    assert done.stderr == ""
    done = piped(f"predict {tones} run={trained_run}", "true")
    assert done.stdout == ""
    assert re.fullmatch(r"computing on .*\n", done.stderr)
