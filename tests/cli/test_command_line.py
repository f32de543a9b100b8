"""Help, overrides, typos, --cfg and completion."""

import os
import subprocess
import sys

import pytest
import yaml

from spectrnn.config.paths import CONFIG_DIR


def test_the_overview_names_every_command(spectrnn):
    for arguments in ((), ("--help",)):
        outcome = spectrnn(*arguments)
        assert outcome.code == 0
        assert all(f"spectrnn {command}" in outcome.out for command in ("train", "eval", "predict"))


@pytest.mark.parametrize("command", ["train", "eval", "predict"])
def test_help_lists_every_group_and_option_with_a_sentence(spectrnn, command):
    text = spectrnn(command, "--help").out
    for group in yaml.safe_load((CONFIG_DIR / f"{command}.yaml").read_text())["defaults"]:
        name = next(iter(group)).removeprefix("optional ") if isinstance(group, dict) else "_self_"
        for file in (CONFIG_DIR / name).glob("[!_]*.yaml") if "/" not in name else ():
            line = next(line for line in text.splitlines() if line.split()[:1] == [file.stem])
            assert len(line.replace("*", "").split()) > 2, line


def test_the_config_is_printed_and_nothing_runs(spectrnn, tmp_path):
    outcome = spectrnn("train", "model=lstm", "augment=[]", "trainer.epochs=7", "--cfg", "job")
    config = yaml.safe_load(outcome.out)
    assert (config["model"]["cell"], config["trainer"]["epochs"]) == ("lstm", 7)
    assert not config.get("augment")
    assert list(tmp_path.iterdir()) == []


def test_augmentations_compose_as_a_list(spectrnn):
    config = yaml.safe_load(spectrnn("train", "augment=[mixup,noise]", "augment.noise.color=white", "--cfg", "job").out)
    assert list(config["augment"]) == ["mixup", "noise"]
    assert config["augment"]["noise"]["color"] == "white"


@pytest.mark.parametrize(
    ("argument", "told"),
    [
        ("trainer.epoch=3", "trainer.epoch: no such key; did you mean trainer.epochs?"),
        ("trainer.lr=1", "trainer.lr: no such key; did you mean optimizer.lr?"),
        ("modle=lstm", "modle: no such key; did you mean model?"),
        ("+modle=lstm", "modle: no such key; did you mean model?"),
        ("+model.hiden_size=3", "model.hiden_size: no such key; did you mean model.hidden_size?"),
        ("model=lsmt", "model=lsmt: no such option; did you mean model=lstm?"),
        ("augment=[noise,shfit]", "augment=shfit: no such option; did you mean augment=shift?"),
        ("experiment=esc5", "experiment=esc5: no such option; did you mean experiment=esc50?"),
        ("sweep=seds", "sweep=seds: no such option; did you mean sweep=seeds?"),
        ("data.split_seed=(", "data.split_seed=(: cannot be read; quote"),
        ("model.hidden_size=abc", "model.hidden_size=abc: should be a valid integer"),
        ("model.hidden_size=0", "model.hidden_size=0: should be greater than 0"),
        ("model.dropout=1.5", "model.dropout=1.5: should be less than 1"),
        ("trainer.metric=acuracy", "trainer.metric=acuracy: should be 'accuracy'"),
        (
            "features.hop_ms=30",
            "features.hop_ms=30: longer than features.window_ms=25",
        ),
        ("features.n_mels=500", "of the mel bands hold no bin of the 256-point FFT"),
        ("features.fmax=9000", "features.fmax=9000: above half of features.sample_rate=8000; at most 4000 Hz, or null"),
        ("pooling.num_heads=3", "pooling.num_heads=3: does not divide the encoder's 256 outputs; 1, 2, 4, 8, 16 do"),
        ("model._target_=spectrnn.model.rnn.Recurent", "did you mean spectrnn.model.rnn.RNNEncoder?"),
        ("model=gru,lstm", "model=gru,lstm: several values need -m"),
        ("trainer.epochs", "trainer.epochs: expected key=value"),
        ("~model", "model: missing"),
        ("trainer.precision=fp16", "trainer.precision=fp16: needs a GPU"),
        ("data.storage=gpu", "data.storage=gpu: the run has no GPU"),
        ("trainer.device=cuda:7", "trainer.device=cuda:7: not to be had"),
    ],
)
def test_a_typo_ends_in_one_sentence_with_the_full_key(spectrnn, tones, tmp_path, argument, told):
    run = tmp_path / "run"
    folder = ("data=folder", f"data.root={tones}", "data.sample_rate=8000")
    assert told in spectrnn("train", *folder, f"hydra.run.dir={run}", argument).mistake()
    assert not run.exists()


def test_an_unknown_command_names_the_nearest(spectrnn):
    assert "trian: no such command; did you mean train?" in spectrnn("trian").mistake()


def test_a_broken_yaml_file_is_named(spectrnn, tmp_path):
    (tmp_path / "conf" / "model").mkdir(parents=True)
    (tmp_path / "conf" / "model" / "mine.yaml").write_text("_target_: spectrnn.model.rnn.RNNEncoder\n cell: [gru\n")
    assert "mine.yaml" in spectrnn("train", "--config-dir", tmp_path / "conf", "model=mine").mistake()


def test_a_typo_in_a_yaml_file_names_the_key(spectrnn, tmp_path):
    (tmp_path / "conf" / "pooling").mkdir(parents=True)
    (tmp_path / "conf" / "pooling" / "mine.yaml").write_text(
        "_target_: spectrnn.model.pooling.StatsPooling\nepsilom: 1e-5\n"
    )
    outcome = spectrnn("train", "--config-dir", tmp_path / "conf", "pooling=mine")
    assert outcome.code == 1
    assert "pooling.epsilom: no such key; did you mean pooling.epsilon?" in outcome.err
    assert "pooling.epsilon: missing" in outcome.err


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("spectrnn ", {"check", "train", "eval", "predict", "stream", "demo", "export", "explain"}),
        ("spectrnn ev", {"eval"}),
        ("spectrnn train model=bi", {"model=bigru", "model=bilstm"}),
        ("spectrnn train trainer.ep", {"trainer.epochs="}),
        ("spectrnn train pooling=attention sche", {"scheduler=", "scheduler."}),
        ("spectrnn eval sp", {"split="}),
        ("spectrnn explain trainer.ep", {"trainer.epochs="}),
    ],
)
def test_the_shell_is_offered_commands_options_and_keys(spectrnn, monkeypatch, line, offered):
    monkeypatch.setenv("COMP_LINE", line)
    monkeypatch.setenv("COMP_POINT", str(len(line)))
    assert set(spectrnn("-sc", "query=bash").out.split()) == offered


def test_help_and_completion_do_without_torch():
    for arguments in (["--help"], ["train", "--help"]):
        code = f"import sys; sys.argv = ['spectrnn', *{arguments}]; from spectrnn.cli.main import main; main()"
        check = "; assert not {'torch', 'torchaudio', 'matplotlib', 'omegaconf', 'sklearn'} & set(sys.modules)"
        subprocess.run([sys.executable, "-c", code + check], check=True, capture_output=True)


def test_a_torchaudio_that_does_not_fit_is_told_with_the_pair_that_does(tmp_path, tones):
    (tmp_path / "torchaudio").mkdir()
    (tmp_path / "torchaudio" / "__init__.py").write_text(
        "raise OSError('libc10_cuda.so: cannot open shared object file')"
    )
    command = [sys.executable, "-m", "spectrnn", "train", "data=folder", f"data.root={tones}"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "torchaudio does not load beside torch" in done.stderr
    assert "pip install 'torch>=2.11,<2.15' 'torchaudio>=2.11,<2.12'" in done.stderr


def test_a_reader_that_leaves_early_sees_no_traceback():
    command = f"{sys.executable} -m spectrnn train --help | head -1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.stdout.startswith("spectrnn train")
    assert done.stderr == ""


def test_a_reader_that_leaves_before_the_end_ends_the_command_quietly(trained, tones):
    command = f"{sys.executable} -m spectrnn predict {tones} run={trained} | true"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("", "")
