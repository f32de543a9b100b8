"""Composition of configs."""

import pytest
from hydra._internal.hydra import Hydra

from spectrnn.config.compose import composed_once


@pytest.mark.parametrize(
    ("arguments", "is_spared"),
    [(["model=gru", "--multirun"], True), (["hydra.mode=MULTIRUN"], False), (["--config-dir", "own"], False)],
)
def test_hydra_reads_its_mode_where_the_user_may_set_it(arguments, is_spared):
    original = Hydra.get_mode
    with composed_once(arguments):
        assert (Hydra.get_mode is not original) == is_spared
    assert Hydra.get_mode is original
