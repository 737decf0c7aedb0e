"""What can be trained: one module per task, each fulfilling ``training.task.Task``."""
