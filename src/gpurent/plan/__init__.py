"""gpurent.plan"""
