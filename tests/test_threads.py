"""Threads: the policy of waiting and the number of threads, with and without settings of the user."""

import os
import subprocess
import sys

import pytest

SHOW = "import os, sys; import spectrnn; print(os.environ.get('GOMP_SPINCOUNT'), 'torch' in sys.modules)"
THREADS = "from spectrnn.threads import configure_cpu; import torch; configure_cpu(); print(torch.get_num_threads())"
# Each setting in a process of its own, after PyTorch was imported once.
FORKS = """
import os, torch
from spectrnn.threads import configure_cpu
for setting in {settings}:
    if not os.fork():
        exec(setting)
        configure_cpu()
        os.write(1, b"%d " % torch.get_num_threads())
        os._exit(0)
    os.wait()
"""
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
def test_number_of_threads_of_the_user_counts():
    assert run(THREADS, OMP_NUM_THREADS="1") == ["1"]


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs CPU affinity")
def test_number_of_threads_is_that_of_the_available_cores():
    pin = "os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])"
    settings = [f"os.environ[{name!r}] = '1'" for name in ("LOKY_MAX_CPU_COUNT", "SLURM_CPUS_PER_TASK")]
    assert run(FORKS.format(settings=[*settings, pin])) == ["1", "1", "1"]
