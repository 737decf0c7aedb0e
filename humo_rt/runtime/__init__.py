"""How a generation runs, never what it computes."""
