"""How fast a training step is on this machine: random weights at the real shapes, every level of the fast step.

``python -m gpurent_engine bench --family sdxl --batch 1,4 --levels plain,stacked+graph``: one JSON line a row.
Nothing is read from disk and nothing is learnt, so a row takes seconds.
"""
