"""gpurent: rent the right GPU, train a LoRA on it, bring the file home, destroy the rental, inside a hard budget."""
