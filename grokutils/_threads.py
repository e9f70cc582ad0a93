"""How many threads torch may use inside its operators."""

from __future__ import annotations

import contextlib

import torch


@contextlib.contextmanager
def one_thread(device: torch.device):
    """One thread inside torch's operators on the CPU: on operators of this size two lose to their barriers."""
    before = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
