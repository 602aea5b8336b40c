"""gpurent.dataset"""
