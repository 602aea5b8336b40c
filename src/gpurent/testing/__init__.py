"""gpurent.testing"""
