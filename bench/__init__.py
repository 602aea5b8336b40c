"""Benchmarks: each prints a ratio against a named baseline measured in the same run."""

import os

# Asking whether there is a GPU must not start CUDA: bench.gpu forks after its imports.
os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
