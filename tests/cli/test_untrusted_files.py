"""Model files and runs of others: no command executes code from them, or writes to paths that they name."""

import copy
import json
import pickle
import random
import shutil
import sys
from pathlib import Path

import pytest
import torch
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from spectrnn.cli.overrides import data_overrides
from spectrnn.config.compose import compose, quote_override
from spectrnn.config.instantiate import as_mapping, to_container
from spectrnn.config.paths import CONFIG_DIR
from spectrnn.data import remote
from spectrnn.errors import UserError


class TouchWhenUnpickled:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.fixture
def executed(tmp_path, monkeypatch):
    """File that exists after untrusted code was executed: module `untrusted` was imported, or a pickle loaded."""
    path = tmp_path / "executed"
    (tmp_path / "untrusted.py").write_text(
        f"import pathlib\npathlib.Path({str(path)!r}).touch()\n"
        "def run(sample_rate=0, root='', command=''):\n    raise SystemExit(3)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield path
    sys.modules.pop("untrusted", None)


@pytest.fixture
def write_model(trained_run, tmp_path):
    """Writes the trained model with another header: `write_model(change)` -> path; `change` edits its config."""

    def write(change):
        path = trained_run / "model.safetensors"
        with safe_open(path, "np") as file:
            header = copy.deepcopy(json.loads(file.metadata()["spectrnn"]))
        change(header["config"])
        save_file(load_file(path), tmp_path / "untrusted.safetensors", metadata={"spectrnn": json.dumps(header)})
        return tmp_path / "untrusted.safetensors"

    return write


@pytest.fixture
def write_data(write_model):
    """Writes the trained model with other settings of its data: `write_data(root="x")` -> path."""
    return lambda **settings: write_model(lambda config: config["data"].update(settings))


def add_overrides(run, *overrides):
    """Adds overrides to those that a run was started with."""
    path = run / ".hydra" / "overrides.yaml"
    path.write_text(yaml.safe_dump([*yaml.safe_load(path.read_text()), *overrides]))


STAGES = ["features", "normalize", "model", "pooling", "head", "task"]
UNTRUSTED = {"_target_": "untrusted.run", "sample_rate": 8000, "root": "x"}


@pytest.mark.parametrize("group", [*STAGES, "data", "augment", "metrics", "optimizer", "scheduler", "trainer", "hydra"])
def test_targets_in_a_header_are_not_executed(spectrnn, write_model, tones, executed, tmp_path, group):
    node = {"noise": UNTRUSTED} if group in ("augment", "metrics") else UNTRUSTED
    model = write_model(lambda config: config.update({group: node}))
    trust = "if you trust this file and that package, add trust=[untrusted]"
    for command in (("eval", f"out={tmp_path / 'out'}"), ("predict", tones / "low" / "00.wav")):
        outcome = spectrnn(*command, f"run={model}")
        assert not executed.exists()
        assert "Traceback" not in outcome.err
        if group in STAGES:
            problem = f"{group}._target_='untrusted.run' is not a built-in stage"
            assert outcome.error() == f"spectrnn: {model}: {problem}; {trust}"
        elif (group, command[0]) == ("data", "eval"):
            problem = "its data is 'untrusted.run', which is not a built-in source"
            remedy = "or name a dataset, as in data=folder data.root=..."
            assert outcome.error() == f"spectrnn: {model}: {problem}; {trust}; {remedy}"
        else:
            assert outcome.code == 0, outcome.err


@pytest.mark.parametrize("group", ["pooling", "data"])
def test_trust_names_packages_whose_code_is_executed(spectrnn, write_model, executed, group):
    model = write_model(lambda config: config.update({group: UNTRUSTED}))
    assert f"is not a built-in {'source' if group == 'data' else 'stage'}" in (
        spectrnn("eval", f"run={model}", "trust=[untrust]").error()
    )
    assert not executed.exists()
    assert spectrnn("eval", f"run={model}", "trust=[untrusted]").code == 3
    assert executed.exists()


@pytest.mark.parametrize(
    ("target", "package"),
    [
        ("os.system", "os"),
        ("subprocess.run", "subprocess"),
        ("spectrnn.data.sources.tables.require_columns", None),
        ("spectrnn.data.clips.DataSource", None),
        (None, None),
        (5, None),
    ],
)
def test_data_of_a_header_must_be_a_builtin_source(spectrnn, write_data, target, package):
    model = write_data(_target_=target)
    trust = f"if you trust this file and that package, add trust=[{package}]; or " if package else ""
    assert spectrnn("eval", f"run={model}").error() == (
        f"spectrnn: {model}: its data is {target!r}, which is not a built-in source; "
        f"{trust}name a dataset, as in data=folder data.root=..."
    )


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("root", "${oc.env:HOME}"),
        ("root", ["${oc.env:HOME}"]),
        ("root", {"a": 1}),
        ("group", [[["x"]]]),
        ("more", 1),
        ("x:1},hydra={", 1),
        ("_target_.x", 1),
        ("root=1 hydra.run.dir", "x"),
        ("sample_rate", "${now:%Y}"),
    ],
)
def test_values_that_hydra_would_interpret_are_rejected(spectrnn, write_data, key, value):
    error = spectrnn("eval", f"run={write_data(**{key: value})}").error()
    assert f"its data.{key} is not a key of its source, or not a plain value; name a dataset" in error


@pytest.mark.parametrize("data", [None, "x", [], {}, {"sample_rate": 8000}])
def test_header_without_data_requires_a_dataset(spectrnn, write_model, tones, tmp_path, data):
    model = write_model(lambda config: config.update(data=data))
    assert "which is not a built-in source; name a dataset" in spectrnn("eval", f"run={model}").error()
    outcome = spectrnn("eval", f"run={model}", "data=folder", f"data.root={tones}", f"out={tmp_path / 'out'}")
    assert outcome.code == 0, outcome.err


@pytest.mark.parametrize("rate", [None, "8000,16000", True, 8000.5, "${oc.env:HOME}"])
def test_invalid_sample_rate_is_rejected(spectrnn, write_model, rate):
    model = write_model(lambda config: config["features"].update(sample_rate=rate))
    assert spectrnn("eval", f"run={model}").error() == (
        f"spectrnn: {model}: its features.sample_rate is {rate!r}, not a sample rate in Hz"
    )


def test_header_does_not_set_where_data_is_cached(spectrnn, write_data, tmp_path):
    model = write_data(cache=str(tmp_path / "elsewhere"))
    outcome = spectrnn("eval", f"run={model}", f"out={tmp_path / 'out'}")
    assert outcome.code == 0, outcome.err
    assert not (tmp_path / "elsewhere").exists()


def test_header_does_not_set_whether_data_is_downloaded(spectrnn, write_model, tmp_path):
    data = {"_target_": "spectrnn.data.sources.published.FSDD", "root": str(tmp_path / "fsdd"), "download": True}
    model = write_model(lambda config: config.update(data=data))
    text = spectrnn("eval", f"run={model}", "--cfg", "job").out
    assert f"root: {tmp_path / 'fsdd'}\n" in text
    assert "download: false\n" in text


@pytest.mark.parametrize("download", [True, False])
def test_header_does_not_set_whether_recordings_are_fetched(spectrnn, write_model, tmp_path, download, monkeypatch):
    monkeypatch.setattr(remote, "PAUSE", 0.001)
    table, address = tmp_path / "table.csv", "https://127.0.0.1:9/a.wav"
    table.write_text(f"path,label\n{address},low\n")
    target = "spectrnn.data.sources.local.ManifestDataset"
    data = {"_target_": target, "path": str(table), "download": download}
    model = write_model(lambda config: config.update(data=data))
    assert spectrnn("eval", f"run={model}", "split=all").error() == (
        f"spectrnn: {table}: 1 of its 1 remote recordings are not in the cache, such as {address}; "
        "data.download=true fetches them"
    )
    given = ("data.download=true", "split=all")
    assert f"data.path: {address} cannot be fetched" in spectrnn("eval", f"run={model}", *given).error()


def test_header_does_not_name_a_remote_table(spectrnn, write_model):
    target = "spectrnn.data.sources.local.ManifestDataset"
    data = {"_target_": target, "path": "https://127.0.0.1:9/table.csv"}
    error = spectrnn("eval", f"run={write_model(lambda config: config.update(data=data))}").error()
    assert error == (
        "spectrnn: data.path=https://127.0.0.1:9/table.csv: should be a local file; the paths in it may be addresses"
    )


def test_header_cannot_request_a_huge_synthetic_dataset(spectrnn, write_model):
    data = to_container(
        compose("train", ["data.takes=1000000000", "data.speakers=0"], [CONFIG_DIR]).config.data, "data"
    )
    error = spectrnn("eval", f"run={write_model(lambda config: config.update(data=data))}").error()
    assert error == (
        "spectrnn: data.takes=1000000000: more than 100,000 takes per voice for 10 words; use at most 10,000"
    )


def pickle_dump(content, path):
    path.write_bytes(pickle.dumps(content))


@pytest.mark.parametrize("write", [torch.save, pickle_dump])
def test_pickled_model_is_not_unpickled(spectrnn, executed, tmp_path, write):
    write({"weights": TouchWhenUnpickled(executed)}, tmp_path / "model.safetensors")
    for command in (("eval",), ("predict", "a.wav")):
        assert "is not a model file" in spectrnn(*command, f"run={tmp_path / 'model.safetensors'}").error()
    assert not executed.exists()


@pytest.mark.parametrize("write", [torch.save, pickle_dump])
def test_pickled_checkpoint_is_not_unpickled(spectrnn, executed, trained_run, tmp_path, write):
    run = shutil.copytree(trained_run, tmp_path / "run")
    write({"config": {}, "state": {"classifier": TouchWhenUnpickled(executed)}}, run / "last.ckpt")
    assert "last.ckpt: cannot be read as a checkpoint" in spectrnn("train", f"resume={run}").error()
    assert not executed.exists()


@pytest.mark.parametrize(
    "override",
    [
        "data._target_=untrusted.run",
        "+data={_target_:untrusted.run}",
        "++hydra.job_logging.x=1",
        "hydra/job_logging=x",
    ],
)
def test_overrides_of_a_run_cannot_import_code(spectrnn, executed, trained_run, tmp_path, override):
    run = shutil.copytree(trained_run, tmp_path / "run")
    add_overrides(run, override)
    assert spectrnn("train", f"resume={run}").error() == (
        f"spectrnn: resume={run}: the run was started with {override!r}; if you trust that, repeat it"
    )
    assert not executed.exists()


def test_repeated_override_of_a_class_is_accepted(spectrnn, trained_run, tmp_path):
    run = shutil.copytree(trained_run, tmp_path / "run")
    override = "data._target_=spectrnn.data.sources.local.FolderDataset"
    add_overrides(run, override)
    outcome = spectrnn("train", f"resume={run}", override)
    assert outcome.code == 0, outcome.err


def test_hydra_reads_quoted_strings_unchanged():
    generator = random.Random(0)
    for _ in range(500):
        text = "".join(generator.choices("a'\"\\ ,:={}[]()$;#%~\n\tü", k=generator.randrange(8))).replace("${", "")
        override = OverridesParser.create().parse_override(f"data.root={quote_override(text)}")
        assert override.value() == text
        assert not override.is_sweep_override()


@pytest.mark.parametrize("key", ["columns", "labels"])
def test_mappings_are_taken_from_a_header_as_plain_values(tmp_path, key):
    def overrides(mapping):
        target = "spectrnn.data.sources.local.ManifestDataset"
        return data_overrides({"_target_": target, "path": "/x.csv", "sample_rate": 8000, key: mapping}, tmp_path, [])

    mapping = {"path": "file, name", "it's {a}: \\": None, "звук": "", "1": "true"}
    assert as_mapping(compose("eval", overrides(mapping), [CONFIG_DIR]).config.data[key]) == mapping
    for other in ({"path": "${oc.env:HOME}"}, {"${oc.env:HOME}": "y"}, {"path": {"a": 1}}, [["x"]]):
        with pytest.raises(UserError, match=rf"^its data.{key} is not a key of its source, or not a plain value; "):
            overrides(other)
