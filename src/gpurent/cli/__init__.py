"""gpurent.cli"""
