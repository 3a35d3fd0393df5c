"""The encrypted link between the two sites, from real parts.

The private gateway runs the very files that production renders (strongSwan, FRR, MSS clamp). The
cloud's end is played by two IKE daemons, each with its own address, and one BGP router, as a
Site-to-Site VPN of AWS has them. Each end has a supervisor that brings dead daemons back.
"""
