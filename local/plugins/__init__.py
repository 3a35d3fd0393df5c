"""Engine plugins for machines that cannot reach the official ones."""
