"""For authors of provider adapters: the suite that every adapter passes, and the back door it needs."""
