"""The two-stage trainer: one generic loop, several tasks, recipes that say what to train.

Imports humo_rt, never the reverse.
"""
