"""gpurent.budget"""
