"""What `kdcore bench` measures, and how; no other module of kdcore depends on it."""
