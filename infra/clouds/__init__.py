"""One module per public cloud behind the burst interface."""
