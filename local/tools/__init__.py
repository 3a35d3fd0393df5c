"""Tools of the stand: which, in which version, and how this machine comes by them."""
