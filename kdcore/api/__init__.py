"""Models and data at hand: a training, and a comparison, in one call each."""
