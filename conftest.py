"""One thread a test process: tensors are tiny here, and threads that wait for each other slow."""

import torch

torch.set_num_threads(1)
