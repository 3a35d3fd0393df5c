"""The stand: both sites on one machine, made of real parts."""
