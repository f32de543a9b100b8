"""PyTorch's optimizers, used without its compiler."""

import subprocess
import sys

import pytest

# The first step of each optimizer for the gradients 0.5 and -2, by its definition.
_STEPS = {
    "SGD(x, lr=0.1, momentum=0.9)": [-0.05, 0.2],
    "SGD(x, lr=0.1, weight_decay=0.5)": [-0.1, 0.15],  # of the weight 1
    "Adam(x, lr=0.1)": [-0.1, 0.1],
    "AdamW(x, lr=0.1, weight_decay=0.5)": [-0.15, 0.05],
    "RMSprop(x, lr=0.1, alpha=0.75)": [-0.2, 0.2],
}
_RUN = """
import sys, torch
from torch.optim import *
from spectrnn.training.optimizers import avoid_compiler_import
avoid_compiler_import()
for text in sys.argv[1:]:
    x = torch.ones(2, requires_grad=True)
    optimizer = eval(text.replace("(x", "([x]"))
    calls = []
    optimizer.register_step_post_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    x.backward(torch.tensor([0.5, -2.0]))
    optimizer.step()
    optimizer.load_state_dict(optimizer.state_dict())
    optimizer.zero_grad()
    assert calls == [True] and x.grad is None and torch.is_grad_enabled()
    assert "torch._dynamo" not in sys.modules, text
    print(*(x.detach() - 1).tolist())
"""


def test_first_step_is_correct_and_imports_no_compiler():
    done = subprocess.run([sys.executable, "-c", _RUN, *_STEPS], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    steps = [[float(value) for value in line.split()] for line in done.stdout.splitlines()]
    assert steps == [pytest.approx(step, abs=1e-5) for step in _STEPS.values()]
