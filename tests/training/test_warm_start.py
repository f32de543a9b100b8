"""Warm start: which weights are taken over, what is frozen, and at which rates the rest is trained."""

from pathlib import Path

import pytest
import torch

from spectrnn.data.dataset import open_dataset
from spectrnn.errors import UserError
from spectrnn.model.serialization import save
from spectrnn.progress import Stopwatch
from spectrnn.training.logger import NullLogger
from spectrnn.training.train import build_trainer
from spectrnn.training.warm_start import load_initial_weights

SETTINGS = ["model=crnn", "model.channels=[4]", "model.time_strides=[1]", "model.frequency_strides=[2]"]
SETTINGS += ["model.hidden_size=4", "trainer.device=cpu", "trainer.batch_size=8"]


@pytest.fixture(scope="module")
def model(make_trainer, tmp_path_factory) -> Path:
    """Model file of an untrained classifier with distinct statistics, of low and middle."""
    trainer = make_trainer(*SETTINGS, "data.labels={high: null}", "seed=1")
    with torch.no_grad():
        for tensor in trainer.classifier.state_dict().values():
            if tensor.is_floating_point() and tensor.ndim:
                tensor.add_(0.25)
    path = tmp_path_factory.mktemp("initial") / "model.safetensors"
    save(trainer.classifier, {}, path)
    return path


def stages(classifier):
    names = "features", "normalization", "encoder", "pooling"
    return {name: value for name, value in classifier.state_dict().items() if name.startswith(names)}


def test_stages_and_the_rows_of_known_labels_are_copied(make_trainer, model):
    before = make_trainer(*SETTINGS, "data.labels={high: null}").classifier
    load_initial_weights(before, model)
    trainer = make_trainer(*SETTINGS, f"init={model}", "data.labels={low: alpha}")
    after = trainer.classifier
    assert after.labels == ["alpha", "high", "middle"]
    for name, value in stages(before).items():
        torch.testing.assert_close(stages(after)[name], value, atol=0, rtol=0, msg=name)
    assert before.labels == ["low", "middle"]
    for known, own in zip(before.head[1].parameters(), after.head[1].parameters(), strict=True):
        assert torch.equal(own[2], known[1])
        assert not torch.isclose(own[:2], known[0]).any()
    assert int(after.max_train_samples) == int(trainer.train.lengths.max())


def test_what_does_not_fit_is_reported_and_new(make_trainer, model, caplog):
    with caplog.at_level("INFO"):
        trainer = make_trainer(*SETTINGS, f"init={model}", "model.hidden_size=6")
    fresh = make_trainer(*SETTINGS, "model.hidden_size=6")
    loaded, new = trainer.classifier.state_dict(), fresh.classifier.state_dict()
    gru = next(name for name in loaded if "weight_hh" in name)
    assert torch.equal(loaded[gru], new[gru])
    convolution = next(name for name in loaded if name.startswith("encoder") and loaded[name].ndim == 4)
    assert not torch.equal(loaded[convolution], new[convolution])
    assert f"init={model}: other shapes or names, so not taken over: " in caplog.text
    assert "started with its weights; 3 new (high, low, middle)" in caplog.text


def test_a_model_of_other_stages_is_rejected(make_trainer, model):
    with pytest.raises(UserError, match="none of its weights fits the stages of this run"):
        make_trainer("model=gru", "pooling=mean", "normalize=cmvn", f"init={model}", "features=mfcc")


def test_normalization_that_is_not_taken_over_is_fitted(make_trainer, model):
    fitted = make_trainer(*SETTINGS, "features.n_mels=30").classifier.normalization
    warm = make_trainer(*SETTINGS, "features.n_mels=30", f"init={model}").classifier.normalization
    for name, value in fitted.state_dict().items():
        assert torch.equal(warm.state_dict()[name], value)


@pytest.mark.parametrize(("epochs", "frozen"), [(1, [True, False]), (None, [True, True])])
def test_frozen_stages_do_not_change(make_trainer, train_epoch, model, epochs, frozen):
    setting = "null" if epochs is None else epochs
    settings = (*SETTINGS, "optimizer=sgd", "freeze=[model,normalize]", f"freeze_epochs={setting}")
    trainer = make_trainer(*settings, f"init={model}")
    for epoch, is_frozen in enumerate(frozen):
        before = {name: value.clone() for name, value in trainer.classifier.state_dict().items()}
        trainer.freezing.start_epoch(trainer.classifier, epoch)
        list(train_epoch(trainer, epoch))
        after = trainer.classifier.state_dict()
        encoder = [name for name in before if name.startswith("encoder") and before[name].is_floating_point()]
        assert all(torch.equal(before[name], after[name]) for name in encoder) == is_frozen
        assert not torch.equal(before["head.1.weight"], after["head.1.weight"])


def test_average_of_weights_has_the_statistics_of_frozen_stages(make_trainer, model):
    settings = ("freeze=[model]", "trainer.average_last=2", "trainer.epochs=2")
    trainer = make_trainer(*SETTINGS, *settings, f"init={model}")
    assert trainer.average is not None
    before = {name: value.clone() for name, value in trainer.eval_model.encoder.state_dict().items()}
    trainer.fit(NullLogger(), lambda _: None)
    after = trainer.eval_model.encoder.state_dict()
    assert any(name.endswith("variance") for name in after)
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_weights_taken_over_have_a_rate_of_their_own(make_trainer, model):
    trainer = make_trainer(*SETTINGS, f"init={model}", "init_lr_factor=0.25", "optimizer.lr=0.01")
    head = {id(parameter) for parameter in trainer.classifier.head.parameters()}
    for group in trainer.optimizer.param_groups:
        is_head = {id(parameter) in head for parameter in group["params"]}
        assert len(is_head) <= 1
        assert group["initial_lr"] == pytest.approx(0.01 if True in is_head else 0.0025)
    parameters = [parameter for group in trainer.optimizer.param_groups for parameter in group["params"]]
    assert sorted(map(id, parameters)) == sorted(map(id, trainer.classifier.parameters()))


def test_a_warm_start_takes_fewer_epochs(make_trainer, model):
    cold, warm = make_trainer(*SETTINGS), make_trainer(*SETTINGS, f"init={model}")
    assert warm.plan.epochs == round(0.25 * cold.plan.epochs)


def test_a_resumed_run_does_not_need_the_model(components, model, tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(model.read_bytes())
    run = components(*SETTINGS, f"init={path}")
    trainer = build_trainer(run, open_dataset(run.source, run.device), Stopwatch(), is_new=True)
    path.unlink()
    resumed = build_trainer(run, open_dataset(run.source, run.device), Stopwatch(), is_new=False)
    resumed.load_state_dict(trainer.state_dict())
    for name, value in trainer.classifier.state_dict().items():
        assert torch.equal(resumed.classifier.state_dict()[name], value)


def test_a_frozen_stage_needs_a_model(components):
    with pytest.raises(UserError, match=r"^freeze=\[model\]: needs init, without which the weights are random$"):
        components("freeze=[model]")
