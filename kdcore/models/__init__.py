"""Models by name, and the tutorial's two."""
