"""Kernels in Triton, each beside the same formula in torch."""
