"""The study of configurations, scripts/study.py: its variants, its jobs, and its table from made-up results."""

import json
from itertools import product, zip_longest

import numpy as np
import pytest
import study
import yaml
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException

from spectrnn.config.paths import CONFIG_DIR
from spectrnn.data.clips import Clip
from spectrnn.errors import UserError
from spectrnn.evaluation.predictions import Predictions, write_predictions
from spectrnn.training.preflight import preflight


@pytest.fixture(scope="module")
def protocols(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    (root / "esc10.csv").touch()
    return study.protocols(root / "fsdd", root / "esc10.csv")


@pytest.fixture
def job(tmp_path, protocols):
    """Writes a finished job: `job(variant, seed, {fold: numbers of correct clips of 10}, seconds, protocol)`."""

    def write(variant, seed, correct, seconds=1.0, protocol="digits"):
        overrides = [*protocols[protocol].overrides, f"seed={seed}"]
        own = study.Job(protocols[protocol], variant, seed, tmp_path / variant / str(seed), overrides)
        own.results.mkdir(parents=True)
        clips = [Clip(f"{fold}/{n}.wav", "a", "test", fold) for fold, n in product(correct, range(10))]
        right = [n < right for right in correct.values() for n in range(10)]
        probabilities = np.array([[r, not r] for r in right], dtype=np.float32)
        predictions = Predictions(clips, probabilities, probabilities.argmax(1), ["a", "b"])
        write_predictions(predictions, own.results / "predictions.csv")
        results = {"all" if own.protocol.test else "pooled": {"accuracy": float(np.mean(right))}}
        (own.results / "metrics.json").write_text(json.dumps(results))
        (own.folder / "metrics.json").write_text(json.dumps({"train": {"seconds": seconds}, **results}))
        (own.folder / ".hydra").mkdir()
        (own.folder / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump(overrides))
        return own

    return write


@pytest.mark.parametrize("protocol", ["synthetic", "environment"])
def test_variants_are_valid(protocols, tmp_path, protocol):
    base = protocols[protocol].overrides
    jobs = study.list_jobs(protocols[protocol], tmp_path, [*study.VARIANTS], [0])
    own = {job.variant: job.overrides[len(base) :] for job in jobs}
    assert own.pop(study.DEFAULT) == ["seed=0"]
    # Groups that set different keys are composed together, the first variant of each, then the second of each.
    alone = {name: [name] for group in ("augmentation", "encoder", "convolutions") for name in study.VARIANTS[group]}
    others = [[name for name in names if name in own and name not in alone] for names in study.VARIANTS.values()]
    together = [[*filter(None, names)] for names in zip_longest(*others)]
    composed = [names for names in [*alone.values(), *together] if {*names} <= {*own}]
    assert {name for names in composed for name in names} == {*own}
    invalid = {}
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        for names in composed:
            try:
                preflight(compose("train", [*base, *(override for name in names for override in own[name])]))
            except (HydraException, UserError) as error:
                invalid[", ".join(names)] = str(error)
    assert invalid == {}


def test_variants_that_change_nothing_are_not_trained(protocols, tmp_path):
    names = [job.variant for job in study.list_jobs(protocols["synthetic"], tmp_path, ["normalization"], [0, 1])]
    assert names[:4] == ["default", "default", "normalize-global", "normalize-global"]
    assert "normalize-relaxed" not in names
    # Both presets have mixup; that for environmental sounds has no noise.
    options = {
        name: {job.variant for job in study.list_jobs(protocols[name], tmp_path, ["augmentation"], [0])}
        for name in ("digits", "environment")
    }
    assert {"shift", "no-mixup", "no-noise", "no-augmentation"} <= options["digits"]
    assert "no-mixup" in options["environment"]
    assert not {"mixup", "shift", "no-noise"} & options["environment"]
    assert "mixup" not in options["digits"]


def test_quick_studies_have_one_epoch_and_two_folds(protocols, tmp_path):
    quick = study.protocols(tmp_path / "fsdd", None, is_quick=True)
    assert [*quick] == ["digits", "synthetic"]
    assert {"trainer.epochs=1", "folds=2"} <= {*quick["digits"].overrides}
    assert "folds=all" in protocols["digits"].overrides


def test_comparison_is_paired_by_seed_and_fold(job):
    jobs = [
        job("default", 0, {"x": 9, "y": 5}, seconds=10.0),
        job("default", 1, {"x": 7, "y": 3}, seconds=20.0),
        job("normalize-none", 0, {"x": 10, "y": 6}),
        job("normalize-none", 2, {"x": 0, "y": 0}),  # a seed that the default lacks
    ]
    default, variant = study.compare(jobs)
    assert default[:5] == ("", "default", 2, pytest.approx(0.6), pytest.approx(0.1 * 2**0.5))
    assert default.lowest == pytest.approx(0.4)
    assert (default.difference, default.interval, default.seconds) == (None, None, 15.0)
    assert variant[:3] == ("normalization", "normalize-none", 2)
    assert variant.mean == pytest.approx(0.4)
    assert variant.lowest == pytest.approx(0.3)
    # Both folds are better by one clip of ten with seed 0, so that every resampling of them is, too.
    assert variant.difference == pytest.approx(0.1)
    assert variant.interval == pytest.approx([0.1, 0.1])


def test_intervals_contain_the_spread_of_folds_and_seeds(job):
    jobs = [job("default", seed, {"x": 5, "y": 5}) for seed in (0, 1)]
    jobs += [job("mixup", 0, {"x": 9, "y": 5}), job("mixup", 1, {"x": 5, "y": 5})]
    row = study.compare(jobs)[1]
    assert row.difference == pytest.approx(0.1)
    # The best one of four, resampled: at least one of the four draws in more than 2.5 % of the cases, at most three.
    assert row.interval == pytest.approx([0.0, 0.3])


def test_table_of_models_of_synthetic_speech_is_that_of_real_clips(job):
    rows = study.compare([job("default", 0, {"x": 9, "y": 5}, seconds=75.0, protocol="synthetic")])
    assert study.format_rows(rows).splitlines()[2:] == ["|  | default | 70.00 |  | 50.00 |  | 1 min 15 s | 1 |"]


def test_table_gives_differences_in_points(job):
    jobs = [job("default", 0, {"x": 9, "y": 5}), job("dropout-0", 0, {"x": 8, "y": 4})]
    line = study.format_rows(study.compare(jobs)).splitlines()[3]
    assert line == "| dropout | dropout-0 | 60.00 |  | 40.00 | -10.00 (-10.00 to -10.00) | 1 s | 1 |"


def test_runs_with_other_overrides_are_not_reused(job):
    finished = job("default", 0, {"x": 9})
    assert finished.is_finished()
    assert study.run_jobs([finished], 1) == {}
    changed = finished._replace(overrides=[*finished.overrides, "model=gru"])
    assert study.compare([changed]) == []
    [(folder, reason)] = study.run_jobs([changed], 1).items()
    assert folder == finished.folder
    assert reason.startswith("contains a run with other overrides")


@pytest.mark.slow
def test_failed_jobs_are_reported_and_interrupted_ones_continued(tmp_path, tones):
    common = ["data=folder", f"data.root={tones}", "data.sample_rate=8000", "folds=2", "trainer.epochs=1"]
    small = ["trainer.report=false", "logger=[]", "model.hidden_size=4", "features.n_mels=8"]
    protocol = study.Protocol("tones", [*common, *small], [])
    names = {"default": [], "wrong": ["model.hidden_size=0"]}
    jobs = [
        study.Job(protocol, name, 0, tmp_path / name / "0", [*protocol.overrides, *own, "seed=0"])
        for name, own in names.items()
    ]
    failures = study.run_jobs(jobs, 2)
    assert [*failures] == [tmp_path / "wrong" / "0"]
    assert "model.hidden_size" in failures[tmp_path / "wrong" / "0"]
    assert jobs[0].is_finished()
    # As an interruption in the second fold leaves it.
    model = jobs[0].folder / "fold-1" / "model.safetensors"
    before = (jobs[0].folder / "predictions.csv").read_bytes(), model.stat().st_mtime_ns
    for folder in (jobs[0].folder, jobs[0].folder / "fold-2"):
        (folder / "metrics.json").unlink()
    assert not jobs[0].is_finished()
    assert study.run_jobs(jobs[:1], 2) == {}  # with as many threads
    assert jobs[0].is_finished()
    assert before == ((jobs[0].folder / "predictions.csv").read_bytes(), model.stat().st_mtime_ns)
