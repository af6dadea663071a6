"""How fast, and on what machine."""
