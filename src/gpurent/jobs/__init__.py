"""gpurent.jobs"""
