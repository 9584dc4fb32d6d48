"""Tests press Ctrl-C, and draw numbers without naming a seed: both behave the same however and in whatever order the suite is started."""

import random
import signal

import numpy as np
import pytest
import torch

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a suite that is started in the background, and all that it starts, would ignore it
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def same_draws():
    """Every test begins with the same global generators."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002  # what libraries draw from
    torch.manual_seed(0)
