"""The fast training step: one graph over fused kernels, with every part a switch that changes nothing but speed."""
