"""gpurent.sandbox"""
