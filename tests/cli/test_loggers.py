"""Loggers of `spectrnn train`: what they log, and that a run which was killed and resumed logs nothing twice."""

import csv
import json
import sys
from importlib import metadata

import numpy as np
import pytest
import soundfile
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from tensorboard.plugins.hparams.api_pb2 import ListSessionGroupsRequest
from tensorboard.plugins.hparams.backend_context import Context
from tensorboard.plugins.hparams.list_session_groups import Handler as ListSessionGroups
from tensorboard.util.tensor_util import make_ndarray

from spectrnn.evaluation.predictions import read_predictions
from spectrnn.training.trainer import Trainer

SPEED = "train/clips_per_second"


@pytest.fixture(autouse=True)
def contained(monkeypatch, tmp_path):
    """Keeps packages from writing elsewhere and from contacting their vendors."""
    for name in ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "wandb"))
    for name, value in {"WANDB_ERROR_REPORTING": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}.items():
        monkeypatch.setenv(name, value)
    for name in ("WANDB_MODE", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def train(spectrnn, tones, tiny_logged, tmp_path):
    """`train("run", "logger=[csv]")`: trains for two epochs of 27 clips, in batches of at most 8, in a folder."""

    def run(name, *arguments, code=0):
        outcome = spectrnn("train", *tiny_logged, f"data.root={tones}", f"hydra.run.dir={tmp_path / name}", *arguments)
        assert outcome.code == code, outcome.err
        return tmp_path / name

    return run


@pytest.fixture
def killed(train, monkeypatch):
    """`killed("logger=[csv]")`: a run that is killed after the steps of its second epoch."""

    def run(*arguments):
        original = Trainer._validate

        def validate(self):
            if self.epoch == 1:
                raise KeyboardInterrupt
            return original(self)

        with monkeypatch.context() as patch:
            patch.setattr(Trainer, "_validate", validate)
            return train("run", "trainer.log_every_n_steps=1", *arguments, code=130)

    return run


def table(folder):
    """Values of metrics.csv, by step and metric."""
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    return {int(row.pop("step")): {name: float(value) for name, value in row.items() if value} for row in rows}


def without_speed(rows):
    return {step: {name: value for name, value in row.items() if name != SPEED} for step, row in rows.items()}


def test_csv_has_a_row_per_step(train):
    folder = train("run", "logger=[tensorboard,csv]", "trainer.log_every_n_steps=1")
    events = EventAccumulator(str(folder)).Reload()
    expected = {}
    for name in events.Tags()["scalars"]:
        for event in events.Scalars(name):
            expected.setdefault(event.step, {})[name] = pytest.approx(event.value, rel=1e-6)
    assert table(folder) == expected
    final = table(folder)[55]
    assert final["test/accuracy"] == json.loads((folder / "metrics.json").read_text())["test"]["accuracy"]


def test_csv_of_a_resumed_run_is_that_of_an_uninterrupted_one(train, killed, spectrnn):
    resumed = killed("logger=[csv]")
    assert spectrnn("train", f"resume={resumed}").code == 0
    whole = train("whole", "logger=[csv]", "trainer.log_every_n_steps=1")
    assert without_speed(table(resumed)) == without_speed(table(whole))
    assert len((resumed / "metrics.csv").read_text().splitlines()) == len(table(whole)) + 1
    assert not list(resumed.glob("events.*"))


@pytest.mark.slow
def test_mlflow(killed, spectrnn, tmp_path):
    from mlflow import MlflowClient
    from mlflow.artifacts import download_artifacts

    folder = killed("logger=[mlflow,csv]", "logger.mlflow.files=[config.yaml,none.txt]")
    client = MlflowClient("sqlite:///outputs/mlflow.db")
    assert client.get_run((folder / "mlflow_run_id.txt").read_text()).info.status == "KILLED"
    assert spectrnn("train", f"resume={folder}", "trainer.epochs=2").code == 0
    (run,) = client.search_runs([client.get_experiment_by_name("spectrnn").experiment_id])
    assert run.info.status == "FINISHED"
    assert run.info.run_name == f"{tmp_path.name}/run"
    assert (run.data.params["model"], run.data.params["model.hidden_size"]) == ("bigru", "12")
    rows = {}
    for name in run.data.metrics:
        for point in client.get_metric_history(run.info.run_id, name):
            assert name not in rows.setdefault(point.step, {}), "logged twice"
            rows[point.step][name] = point.value
    assert without_speed(rows) == without_speed(table(folder))

    uri = run.info.artifact_uri
    assert uri.startswith((tmp_path / "outputs" / "mlflow-artifacts").as_uri())
    artifacts = {item.path for item in client.list_artifacts(run.info.run_id)}
    assert artifacts == {"config.yaml", "test", "train_clips", "val"}
    clips = [item.path for item in client.list_artifacts(run.info.run_id, "train_clips/audio")]
    assert len(clips) == 4
    path = download_artifacts(artifact_uri=f"{uri}/{clips[0]}", dst_path=str(tmp_path / "clip"))
    assert soundfile.info(path).samplerate == 8000
    assert not (tmp_path / "mlruns").exists()


def test_mlflow_without_a_server_is_reported_before_training(spectrnn, tones, tiny_logged, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "none://server")
    message = spectrnn("train", *tiny_logged, f"data.root={tones}", "logger=[mlflow]").error()
    assert message.startswith("spectrnn: logger.mlflow: ")
    assert "none://server" in message
    assert not list(tmp_path.glob("outputs/*/*"))


def wandb_records(path):
    """Records of an offline run of Weights & Biases, whose file has the format of LevelDB's log."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, position, record = path.read_bytes(), 7, b""
    while position < len(data):
        if 32768 - position % 32768 < 7:  # too little of the block for the header of a part
            position += 32768 - position % 32768
            continue
        length, kind = int.from_bytes(data[position + 4 : position + 6], "little"), data[position + 6]
        record += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # the only part, or the last one
            yield Record.FromString(record)
            record = b""


@pytest.mark.slow
def test_wandb_offline(killed, spectrnn, tmp_path):
    folder = killed("logger=[wandb,csv]", "logger.wandb.mode=offline")
    assert spectrnn("train", f"resume={folder}").code == 0
    parts = sorted(folder.glob("wandb/offline-run-*/run-*.wandb"))
    assert len(parts) == 2
    assert parts[0].name == parts[1].name == f"run-{(folder / 'wandb_run_id.txt').read_text()}.wandb"
    config, rows, media = {}, {}, {}
    for part in parts:
        steps = []
        for record in wandb_records(part):
            if record.run.run_id:
                assert record.run.display_name == f"{tmp_path.name}/run"
                config |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
            if record.history.item:
                row = {
                    tuple(item.nested_key) or (item.key,): json.loads(item.value_json) for item in record.history.item
                }
                steps.append(row["_step",])
                media |= {name: value for (name, *rest), value in row.items() if rest == ["_type"]}
                # The second part repeats the steps after the checkpoint, with equal values.
                rows[steps[-1]] = {name[0]: value for name, value in row.items() if len(name) == 1 and "/" in name[0]}
        assert steps == sorted(set(steps))
    assert (config["model"], config["model.hidden_size"]) == ("bigru", 12)
    assert without_speed(rows) == without_speed(table(folder))
    assert media["test/confusion"] == "image-file"
    assert [*media.values()].count("audio-file") == 8
    saved = next(parts[1].parent.glob("files/metrics.json"))
    assert saved.read_bytes() == (folder / "metrics.json").read_bytes()
    assert not saved.is_symlink()


def test_wandb_without_a_key_is_reported_before_training(spectrnn, tones, tiny_logged, tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # where no server is
    message = spectrnn("train", *tiny_logged, f"data.root={tones}", "logger=[wandb]").error()
    assert message.startswith("spectrnn: logger.wandb: ")
    assert message.endswith("; logger.wandb.mode=offline needs no access")
    assert not list(tmp_path.glob("outputs/*/*"))


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_missing_package_is_reported_before_training(spectrnn, tiny_logged, tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    message = spectrnn("train", *tiny_logged, "data.root=/none", f"logger=[{name}]").err
    assert f"logger.{name}: needs {name}; pip install 'spectrnn[{name}]'\n" in message
    assert not list(tmp_path.glob("outputs/*/*"))


def test_logger_of_the_user(train, tmp_path):
    (tmp_path / "my_loggers.py").write_text(
        "import json\n"
        "from spectrnn.training.loggers.base import Logger\n"
        "class Lines(Logger):\n"
        "    def __init__(self, name: str) -> None:\n"
        "        self.name = name\n"
        "    def start(self, folder, hyperparameters, resumed_at):\n"
        "        self.file = (folder / self.name).open('w')\n"
        "        print(json.dumps([hyperparameters['optimizer.lr'], resumed_at]), file=self.file)\n"
        "    def log_metrics(self, metrics, step):\n"
        "        print(json.dumps([step, sorted(metrics)]), file=self.file)\n"
        "    def close(self, error):\n"
        "        print(json.dumps(str(error)), file=self.file)\n"
        "        self.file.close()\n"
    )
    (tmp_path / "conf" / "logger").mkdir(parents=True)
    (tmp_path / "conf" / "logger" / "lines.yaml").write_text(
        "lines:\n  _target_: my_loggers.Lines\n  name: lines.txt\n"
    )
    folder = train("run", f"--config-dir={tmp_path / 'conf'}", "logger=[lines]", "trainer.epochs=1")
    lines = [json.loads(line) for line in (folder / "lines.txt").read_text().splitlines()]
    assert lines[0] == [0.02, None]
    assert lines[1] == [27, ["step/accuracy", "step/gradient_norm", "step/learning_rate", "step/loss"]]
    assert lines[2][0] == 27
    assert {"train/loss", "val/accuracy"} <= {*lines[2][1]}
    assert lines[3][0] == 28
    assert {"best_model/val_accuracy", "test/accuracy"} <= {*lines[3][1]}
    assert lines[4:] == ["None"]


def test_a_run_without_loggers(train):
    folder = train("run", "logger=[]", "trainer.epochs=1")
    assert not list(folder.glob("events.*"))
    assert (folder / "metrics.json").exists()


def test_loggers_may_change_when_a_run_is_resumed(train, spectrnn):
    folder = train("run", "logger=[]", "trainer.epochs=1")
    outcome = spectrnn("train", f"resume={folder}", "logger=[csv]", "trainer.epochs=2")
    assert outcome.code == 0, outcome.err
    assert [*table(folder)] == [54, 55]


def test_tensorboard_describes_a_run(train):
    folder = train("run", "trainer.epochs=1", "seed=3")
    events = EventAccumulator(str(folder)).Reload()

    def content(tag):
        return events.Tensors(tag)[0].tensor_proto.string_val[0]

    assert content("config/text_summary").decode() == f"```yaml\n{(folder / 'config.yaml').read_text()}```"
    assert "    seed=3" in content("overrides/text_summary").decode().splitlines()
    environment = content("environment/text_summary").decode()
    assert f"| torch | {metadata.version('torch')} |" in environment
    assert "| device | cpu (" in environment
    (category,) = Layout.FromString(content("custom_scalars__config__")).category
    charts = {chart.title: [*chart.multiline.tag] for chart in category.chart}
    assert charts == {name: [f"^train/{name}$", f"^val/{name}$"] for name in ("loss", "accuracy")}
    metrics = json.loads((folder / "metrics.json").read_text())
    for tag, value in {"best_model/val_loss": metrics["val"]["loss"], "test/loss": metrics["test"]["loss"]}.items():
        assert [event.value for event in events.Scalars(tag)] == pytest.approx([value])


def test_tensorboard_has_a_precision_recall_curve_per_class(train):
    folder = train("run", "trainer.epochs=1")
    events = EventAccumulator(str(folder)).Reload()
    predictions = read_predictions(folder / "predictions.csv").of_split("test")
    for index, label in enumerate(predictions.labels):
        (event,) = events.Tensors(f"test_pr_curve/{label}")
        *_, precision, recall = make_ndarray(event.tensor_proto)
        is_positive, values = predictions.targets == index, predictions.probabilities[:, index]
        thresholds = np.arange(len(recall)) / (len(recall) - 1)
        is_detected = values[:, None] * 1.000001 >= thresholds
        hits = (is_detected & is_positive[:, None]).sum(0)
        assert recall == pytest.approx(hits / is_positive.sum(), abs=1e-5)
        has_any = is_detected.any(0)
        assert precision[has_any] == pytest.approx(hits[has_any] / is_detected.sum(0)[has_any], abs=1e-5)


def test_tensorboard_lists_swept_keys_first_and_trials_by_their_overrides(spectrnn, tones, tiny_logged, tmp_path):
    sweep = ("pooling.hidden_size=4,8", "trainer.epochs=1", "augment=[gain]", "-m")
    assert spectrnn("train", *tiny_logged, f"data.root={tones}", *sweep).code == 0
    outcome = spectrnn("train", *tiny_logged, f"data.root={tones}", "trainer.epochs=1", "hydra.run.dir=outputs/own")
    assert outcome.code == 0, outcome.err
    runs = EventMultiplexer().AddRunsFromDirectory(str(tmp_path / "outputs")).Reload()
    # The part of TensorBoard that makes the tables of HPARAMS.
    context = Context(TBContext(data_provider=MultiplexerDataProvider(runs, "outputs")))
    arguments = (RequestContext(), "", True, context.hparams_metadata(RequestContext(), ""), [])
    experiment = context.experiment_from_metadata(*arguments)
    first, *others = experiment.hparam_infos
    assert (first.name, first.differs) == ("augment", True)
    assert others[0].name == "pooling.hidden_size"
    assert [info.name for info in others if info.differs] == ["pooling.hidden_size"]
    metrics = [info.name.tag for info in experiment.metric_infos]
    assert {tag.partition("/")[0] for tag in metrics[:5]} == {"best_model"}
    request = ListSessionGroupsRequest(allowed_statuses=[0, 1, 2, 3], slice_size=10)
    groups = ListSessionGroups(RequestContext(), context, "", request).run().session_groups
    sweep_name = next(tmp_path.glob("outputs/sweeps/*/*")).name
    names = sorted(group.name for group in groups)
    assert names[1:] == [f"hidden_size=4 ({sweep_name}/0)", f"hidden_size=8 ({sweep_name}/1)"]
    assert names[0].startswith("data=folder, n_mels=20, ")
    assert names[0].endswith(" (outputs/own)")
    values = {group.name: group.hparams["pooling.hidden_size"].number_value for group in groups}
    assert [values[name] for name in names[1:]] == [4, 8]
