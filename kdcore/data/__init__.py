"""Data sets: read, checked and split; nothing here knows a model or a method."""
