"""Scripts that run a peer in an environment of its own; nothing of ours imports them."""
