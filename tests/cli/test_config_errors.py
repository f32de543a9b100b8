"""Bad input: one sentence that names the file or key, a non-zero exit code, no traceback, and nothing half-written."""

import shutil

import numpy as np
import pytest
import soundfile


@pytest.fixture
def dataset(tones, tmp_path):
    """A copy of the tones, to be spoiled."""
    return shutil.copytree(tones, tmp_path / "dataset")


@pytest.fixture
def refused(spectrnn, tiny, tmp_path, cache):
    """`refused("data.root=...")`: trains, is refused, leaves nothing behind, and returns the sentence."""

    def run(*arguments):
        def stores():
            return set((cache / "stores").glob("*")) | set((cache / "stores").glob(".*"))

        before = stores()
        told = spectrnn("train", *tiny, f"hydra.run.dir={tmp_path / 'run'}", *arguments).mistake()
        assert not (tmp_path / "run").exists()
        assert stores() == before
        return told

    return run


def test_a_missing_root(refused):
    assert refused("data.root=/none/such") == "spectrnn: data.root=/none/such: no such folder"


def test_no_root(refused):
    assert "data.root: missing" in refused()


def test_an_empty_class_folder(refused, dataset):
    (dataset / "empty").mkdir()
    assert f"{dataset / 'empty'}: holds no audio files" in refused(f"data.root={dataset}")


def test_a_single_class(refused, dataset):
    shutil.rmtree(dataset / "high")
    shutil.rmtree(dataset / "middle")
    assert "a single class ('low')" in refused(f"data.root={dataset}")


def test_a_label_with_one_clip(refused, dataset, tone):
    tone(dataset / "rare" / "only.wav")
    assert "label 'rare': has one clip only" in refused(f"data.root={dataset}")


def test_a_truncated_file(refused, dataset):
    path = dataset / "low" / "00.wav"
    path.write_bytes(path.read_bytes()[:900])
    assert f"{path}: is truncated" in refused(f"data.root={dataset}")


def test_a_zero_byte_file(refused, dataset):
    (dataset / "low" / "00.wav").write_bytes(b"")
    assert f"{dataset / 'low' / '00.wav'}: is empty (0 bytes)" in refused(f"data.root={dataset}")


def test_a_text_file_named_wav(refused, dataset):
    (dataset / "low" / "00.wav").write_text("this is not a sound")
    assert f"{dataset / 'low' / '00.wav'}: cannot be read as audio" in refused(f"data.root={dataset}")


def test_samples_that_are_not_finite(refused, dataset):
    soundfile.write(dataset / "low" / "00.wav", np.array([0.1, np.nan] * 900), 8000, subtype="FLOAT")
    assert f"{dataset / 'low' / '00.wav'}: holds values that are not finite" in refused(f"data.root={dataset}")


def test_a_manifest_without_the_columns(refused, tmp_path):
    (tmp_path / "clips.csv").write_text("file,class\na.wav,x\n")
    told = refused("data=manifest", f"data.path={tmp_path / 'clips.csv'}")
    assert "clips.csv: no column path and no column label (found: file, class)" in told


MANY = {
    "features.hop_ms=30": "features.hop_ms=30: longer than features.window_ms=25, so samples would be lost; at most 25",
    "features.n_fft=7": "features.n_fft=7: does not hold the 200 samples of features.window_ms=25; at least that",
    "features.fmax=9000": "features.fmax=9000: above half of features.sample_rate=8000; at most 4000 Hz, or null",
    "augment.noise.min_snr_db=60": "augment.noise.max_snr_db=40: is below augment.noise.min_snr_db=60; at least that",
    "normalize.epsilon=0": "normalize.epsilon=0: should be greater than 0",
    "model.hidden_size=10": "pooling.num_heads=3: does not divide the encoder's 20 outputs; 1, 2, 4, 5, 10 do",
    "pooling.num_heads=3": "pooling.num_heads=3: does not divide",
    "head.dropout=2": "head.dropout=2: should be less than 1",
    "optimizer.lr=-1": "optimizer.lr=-1.0: AdamW refuses it (Invalid learning rate: -1.0)",
    "scheduler.warmup_fraction=2": "scheduler.warmup_fraction=2: should be less than 1",
    "trainer.precision=fp16": "trainer.precision=fp16: needs a GPU, and this run is on cpu; fp32 or auto",
    "trainer.patience=0": "trainer.patience=0: should be greater than 0, or null",
    "data.storage=gpu": "data.storage=gpu: the run has no GPU; use auto, ram or disk",
    "data.group='('": "data.group=(: is no regular expression",
    "seed=-1": "seed=-1: should be greater than or equal to 0",
}


def test_mistakes_of_all_groups_are_told_at_once_before_any_audio_is_read(spectrnn, tiny, dataset, tmp_path):
    for path in dataset.rglob("*.wav"):
        path.write_text("this is not a sound")
    outcome = spectrnn(
        "train", *tiny, f"data.root={dataset}", f"hydra.run.dir={tmp_path / 'run'}", "trainer.device=cpu", *MANY
    )
    assert outcome.code == 1
    lines = outcome.err.splitlines()
    assert lines[0] == "spectrnn: several mistakes"
    assert len(lines) == len(MANY)  # with the headline, and two overrides that make one mistake
    for sentence in MANY.values():
        assert any(line.startswith(f"  {sentence}") for line in lines), sentence
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["optimizer.betas=[0.9,2]"], "optimizer.betas=[0.9, 2.0]: AdamW refuses it"),
        (["optimizer=sgd", "optimizer.momentum=0"], "optimizer.nesterov=true: SGD refuses it (Nesterov momentum"),
        (
            ["data.max_seconds=0.03"],
            "data.max_seconds=0.03: holds one frame of features.window_ms, and recurrent "
            "layers need several; at least 0.035 s",
        ),
        (
            ["model=crnn", "model.time_strides=[8,8]", "data.max_seconds=0.3"],
            "model.time_strides=[8, 8]: leaves one of the 28 frames of data.max_seconds=0.3, and recurrent layers need",
        ),
        (["data.sample_rate=many"], "data.sample_rate=many: should be a valid integer"),
        (
            ["pooling._target_=spectrnn.model.rnn.RNNEncoder"],
            "is of another kind; a class derived from spectrnn.model.pooling.Pooling is needed",
        ),
        (["augment.noise._target_=torch.nn.Linear"], "augment.noise._target_=torch.nn.Linear: is of another kind"),
        (["model=null"], "model=null: a stage of that kind is needed"),
        (["features.n_mels=${nowhere}"], "features.n_mels: Interpolation key 'nowhere' not found"),
        (["augment=[background_noise]"], "augment.background_noise.path: missing; it has no default"),
        (["sweep=seeds"], "sweep=seeds: needs -m"),
        (["model.hidden_size=10000000"], "model.hidden_size=10000000: should be less than or equal to 65536"),
        (["augment.noise=null"], "augment.noise: expected a mapping with a _target_, got null"),
        (["pooling=stats", "pooling.epsilon=1e-5"], "pooling.num_heads: no such key; known here: epsilon"),
    ],
)
def test_one_mistake_is_told_without_what_follows_from_it(refused, dataset, arguments, told):
    assert told in refused(f"data.root={dataset}", *arguments)


def test_strides_that_leave_two_frames_are_taken(spectrnn, tiny, tones, tmp_path):
    outcome = spectrnn(
        "train",
        *tiny,
        f"data.root={tones}",
        f"hydra.run.dir={tmp_path / 'run'}",
        "trainer.epochs=1",
        "model=crnn",
        "model.channels=[2,2]",
        "model.time_strides=[3,9]",
        "data.max_seconds=0.3",
    )
    assert outcome.code == 0, outcome.err


def test_all_typos_of_a_command_line_are_told_at_once(spectrnn):
    typos = ("trainer.epoch=3", "model=crn", "model.chanels=[8]", "augment=[noise,shfit]", "pooling.num_heads=3")
    assert spectrnn("train", *typos).err.splitlines() == [
        "spectrnn: several mistakes",
        "  model=crn: no such option; did you mean model=crnn?",
        "  augment=shfit: no such option; did you mean augment=shift?",
        "  trainer.epoch: no such key; did you mean trainer.epochs?",
        "  model.chanels: no such key; did you mean model.channels?",
        "  pooling.num_heads=3: does not divide the encoder's 256 outputs; 1, 2, 4, 8, 16 do",
    ]


def test_a_misspelt_key_is_not_told_as_missing_too(spectrnn):
    told = spectrnn("train", "data=folder", "data.rot=/none").mistake()
    assert told == "spectrnn: data.rot: no such key; did you mean data.root?"


def test_options_of_a_folder_of_one_s_own_are_offered(spectrnn, tmp_path):
    (tmp_path / "conf" / "pooling").mkdir(parents=True)
    (tmp_path / "conf" / "pooling" / "mine.yaml").write_text("defaults: [attention, _self_]\nheads: 8\n")
    told = spectrnn("train", "--config-dir", tmp_path / "conf", "pooling=mene").mistake()
    assert "pooling=mene: no such option; did you mean pooling=mine?" in told


def test_mistakes_of_an_evaluation_are_told_at_once(spectrnn, trained):
    err = spectrnn("eval", f"run={trained}", "split=tset", "batch_size=0", "device=cuda:7", "data.storage=x").err
    for told in (
        "split=tset: should be",
        "batch_size=0: should be greater than 0",
        "device=cuda:7: not to be had",
        "data.storage=x: should be 'auto'",
    ):
        assert f"\n  {told}" in err


def test_predict_takes_no_sweep(spectrnn, tmp_path):
    assert "-m: predict takes no sweeps" in spectrnn("predict", "-m", "a.wav").mistake()
    assert list(tmp_path.iterdir()) == []


def test_a_hop_longer_than_the_window(refused, dataset):
    assert "features.hop_ms=50: longer than" in refused(f"data.root={dataset}", "features.hop_ms=50")


def test_more_mel_bands_than_the_fft_resolves(refused, dataset):
    assert "features.n_mels" in refused(f"data.root={dataset}", "features.n_mels=200")


def test_a_run_folder_without_a_model(spectrnn, tmp_path):
    (tmp_path / "empty").mkdir()
    for command in (("eval",), ("predict", "a.wav")):
        told = spectrnn(*command, f"run={tmp_path / 'empty'}").mistake()
        assert f"run={tmp_path / 'empty'}: the folder holds no model.safetensors" in told


def test_no_run_at_all(spectrnn):
    assert "run=latest: no run below outputs/" in spectrnn("eval").mistake()


def test_a_model_file_that_is_no_safetensors(spectrnn, tmp_path):
    (tmp_path / "model.safetensors").write_text("hello")
    for command in (("eval",), ("predict", "a.wav")):
        assert "is no model file" in spectrnn(*command, f"run={tmp_path / 'model.safetensors'}").mistake()


def test_a_damaged_checkpoint(spectrnn, trained, tmp_path):
    copy = shutil.copytree(trained, tmp_path / "copy")
    (copy / "last.ckpt").write_bytes((copy / "last.ckpt").read_bytes()[:1000])
    model = (copy / "model.safetensors").read_bytes()
    assert "last.ckpt: cannot be read as a checkpoint" in spectrnn("train", f"resume={copy}").mistake()
    assert (copy / "model.safetensors").read_bytes() == model


def test_resume_without_a_run(spectrnn, tmp_path):
    assert "resume=/none: no such run folder" in spectrnn("train", "resume=/none").mistake()
