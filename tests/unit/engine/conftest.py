"""Tests share two cores: one thread for torch."""

import torch

torch.set_num_threads(1)
