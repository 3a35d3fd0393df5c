"""Side-by-side measurements, each a command anyone can rerun."""
