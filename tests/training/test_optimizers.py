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
weight = torch.ones(2, requires_grad=True)
optimizer = {optimizer}
calls = []
optimizer.register_step_post_hook(lambda *_: calls.append(torch.is_grad_enabled()))
weight.backward(torch.tensor([0.5, -2.0]))
optimizer.step()
optimizer.load_state_dict(optimizer.state_dict())
optimizer.zero_grad()
assert calls == [True] and weight.grad is None and torch.is_grad_enabled()
assert "torch._dynamo" not in sys.modules
print(*(weight.detach() - 1).tolist())
"""


@pytest.mark.parametrize("optimizer", _STEPS)
def test_first_step_is_correct_and_imports_no_compiler(optimizer):
    code = _RUN.format(optimizer=optimizer.replace("(x", "([weight]"))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [float(value) for value in done.stdout.split()] == pytest.approx(_STEPS[optimizer], abs=1e-5)
