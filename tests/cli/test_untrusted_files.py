"""Models and runs from strangers: `eval`, `predict` and `train resume=` execute nothing and write nowhere else."""

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

from spectrnn.runs import quote_override


class Trap:
    """Touches a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.fixture
def sprung(tmp_path, monkeypatch):
    """The file that a trap touches: when module `trap` is imported, its `run` called, or a pickle loaded."""
    path = tmp_path / "sprung"
    (tmp_path / "trap.py").write_text(
        f"import pathlib\npathlib.Path({str(path)!r}).touch()\n"
        "def run(sample_rate=0, root='', command=''):\n    raise SystemExit('sprung')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield path
    sys.modules.pop("trap", None)


@pytest.fixture
def strange(trained, tmp_path):
    """`strange(change)`: the path of the trained model with a header that `change` alters in place."""

    def write(change):
        path = trained / "model.safetensors"
        with safe_open(path, "np") as file:
            header = copy.deepcopy(json.loads(file.metadata()["spectrnn"]))
        change(header["config"])
        save_file(load_file(path), tmp_path / "strange.safetensors", metadata={"spectrnn": json.dumps(header)})
        return tmp_path / "strange.safetensors"

    return write


GROUPS = ["data", "augment", "features", "normalize", "model", "pooling", "head", "optimizer", "scheduler", "trainer"]


@pytest.mark.parametrize("group", [*GROUPS, "hydra"])
def test_no_group_of_a_header_names_what_is_run(spectrnn, strange, tones, sprung, tmp_path, group):
    node = {"_target_": "trap.run", "sample_rate": 8000, "root": "x"}
    model = strange(lambda config: config.update({group: {"noise": node} if group == "augment" else node}))
    for command in (("eval", f"out={tmp_path / 'out'}"), ("predict", tones / "low" / "00.wav")):
        outcome = spectrnn(*command, f"run={model}")
        assert not sprung.exists()
        assert "Traceback" not in outcome.err
        if group in ("features", "normalize", "model", "pooling", "head"):
            assert f"{model}: {group}._target_='trap.run' is no stage" in outcome.mistake()
        elif (group, command[0]) == ("data", "eval"):
            assert f"{model}: its data is 'trap.run', which is no source" in outcome.mistake()
        else:
            assert outcome.code == 0, outcome.err


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "subprocess.run",
        "spectrnn.data.sources.local.subfolders",
        "spectrnn.data.clips.DataSource",
        None,
        5,
    ],
)
def test_the_data_of_a_header_is_one_of_our_sources(spectrnn, strange, target):
    told = spectrnn("eval", f"run={strange(lambda config: config['data'].update(_target_=target))}").mistake()
    assert f"its data is {target!r}, which is no source of spectrnn; name a dataset" in told


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
def test_values_that_hydra_would_not_take_as_they_are(spectrnn, strange, key, value):
    told = spectrnn("eval", f"run={strange(lambda config: config['data'].update({key: value}))}").mistake()
    assert f"of its data, {key!r} is no key of data=folder, or no plain value" in told


@pytest.mark.parametrize("data", [None, "x", [], {}, {"sample_rate": 8000}])
def test_a_header_without_data(spectrnn, strange, tones, tmp_path, data):
    model = strange(lambda config: config.update(data=data))
    assert "which is no source of spectrnn" in spectrnn("eval", f"run={model}").mistake()
    outcome = spectrnn("eval", f"run={model}", "data=folder", f"data.root={tones}", f"out={tmp_path / 'out'}")
    assert outcome.code == 0, outcome.err


@pytest.mark.parametrize("rate", [None, "8000,16000", True, 8000.5, "${oc.env:HOME}"])
def test_a_rate_that_is_none(spectrnn, strange, rate):
    model = strange(lambda config: config["features"].update(sample_rate=rate))
    assert "its features.sample_rate is" in spectrnn("eval", f"run={model}").mistake()


def test_a_header_says_neither_where_to_write_nor_to_download(spectrnn, strange, tmp_path):
    def change(config):
        config["data"] |= {"cache": str(tmp_path / "elsewhere"), "download": True}

    outcome = spectrnn("eval", f"run={strange(change)}", f"out={tmp_path / 'out'}")
    assert outcome.code == 0, outcome.err
    assert not (tmp_path / "elsewhere").exists()


def test_a_header_cannot_have_a_billion_words_spoken(spectrnn, strange):
    data = {"_target_": "spectrnn.data.sources.synthetic_speech.SyntheticSpeech", "takes": 10**9}
    assert "data.takes=1000000000: " in spectrnn("eval", f"run={strange(lambda c: c.update(data=data))}").mistake()


@pytest.mark.parametrize("write", [torch.save, lambda thing, path: path.write_bytes(pickle.dumps(thing))])
def test_a_pickle_for_a_model_is_not_unpickled(spectrnn, sprung, tmp_path, write):
    write({"weights": Trap(sprung)}, tmp_path / "model.safetensors")
    for command in (("eval",), ("predict", "a.wav")):
        assert "is no model file" in spectrnn(*command, f"run={tmp_path / 'model.safetensors'}").mistake()
    assert not sprung.exists()


@pytest.mark.parametrize("write", [torch.save, lambda thing, path: path.write_bytes(pickle.dumps(thing))])
def test_a_pickle_for_a_checkpoint_is_not_unpickled(spectrnn, sprung, trained, tmp_path, write):
    run = shutil.copytree(trained, tmp_path / "run")
    write({"config": {}, "state": {"classifier": Trap(sprung)}}, run / "last.ckpt")
    assert "last.ckpt: cannot be read as a checkpoint" in spectrnn("train", f"resume={run}").mistake()
    assert not sprung.exists()


@pytest.mark.parametrize(
    "override",
    ["data._target_=trap.run", "+data={_target_:trap.run}", "++hydra.job_logging.x=1", "hydra/job_logging=x"],
)
def test_the_command_line_of_a_run_from_a_stranger_names_no_classes(spectrnn, sprung, trained, tmp_path, override):
    run = shutil.copytree(trained, tmp_path / "run")
    overrides = yaml.safe_load((run / ".hydra" / "overrides.yaml").read_text())
    (run / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump([*overrides, override]))
    assert f"was started with {override!r}; if you trust that, type it again" in (
        spectrnn("train", f"resume={run}").mistake()
    )
    assert not sprung.exists()


def test_a_class_of_ones_own_is_named_again_to_go_on_with(spectrnn, trained, tmp_path):
    run = shutil.copytree(trained, tmp_path / "run")
    overrides = yaml.safe_load((run / ".hydra" / "overrides.yaml").read_text())
    own = "data._target_=spectrnn.data.sources.local.FolderDataset"
    (run / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump([*overrides, own]))
    outcome = spectrnn("train", f"resume={run}", own)
    assert outcome.code == 0, outcome.err


def test_whatever_a_string_holds_hydra_reads_it_as_it_is():
    generator = random.Random(0)
    for _ in range(500):
        text = "".join(generator.choices("a'\"\\ ,:={}[]()$;#%~\n\tü", k=generator.randrange(8))).replace("${", "")
        override = OverridesParser.create().parse_override(f"data.root={quote_override(text)}")
        assert override.value() == text
        assert not override.is_sweep_override()
