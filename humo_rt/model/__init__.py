"""Networks: forward passes only. Nothing here reads files, environment variables or presets."""
