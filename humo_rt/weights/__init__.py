"""Checkpoints: finding the files (layout, hub), reading them (readers), naming (names), loading (load, components)."""
