"""Threads: the policy of waiting and the number of threads, with and without settings of the user."""

import os
import subprocess
import sys

import pytest

SHOW = "import os, sys; import spectrnn; print(os.environ.get('GOMP_SPINCOUNT'), 'torch' in sys.modules)"
THREADS = "from spectrnn.threads import configure_cpu; import torch; configure_cpu(); print(torch.get_num_threads())"
UNSET = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OMP_WAIT_POLICY",
    "GOMP_SPINCOUNT",
    "KMP_BLOCKTIME",
    "SLURM_CPUS_PER_TASK",
)


def run(code, **environment):
    inherited = {name: value for name, value in os.environ.items() if name not in UNSET}
    command = [sys.executable, "-c", code]
    return subprocess.run(
        command, env=inherited | environment, capture_output=True, text=True, check=True
    ).stdout.split()


@pytest.mark.parametrize(
    ("environment", "expected"),
    [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, "None")],
)
def test_wait_policy_is_set_before_torch_is_imported_unless_the_user_did(environment, expected):
    assert run(SHOW, **environment) == [expected, "False"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("environment", "expected"),
    [({"OMP_NUM_THREADS": "1"}, "1"), ({"LOKY_MAX_CPU_COUNT": "1"}, "1"), ({"SLURM_CPUS_PER_TASK": "1"}, "1")],
    ids=["user", "limit", "slurm"],
)
def test_number_of_threads_is_that_of_the_user_or_of_the_available_cores(environment, expected):
    assert run(THREADS, **environment) == [expected]


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs CPU affinity")
def test_number_of_threads_follows_the_affinity():
    pin = "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))]); "
    assert run(pin + THREADS) == ["1"]
