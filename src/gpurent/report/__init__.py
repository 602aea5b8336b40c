"""gpurent.report"""
