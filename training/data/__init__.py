"""Data sets: where the clips of the trainer come from."""
