"""A reader for tcpdump's files: frames of an Ethernet device."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

LITTLE = b"\xd4\xc3\xb2\xa1"


@dataclass(frozen=True)
class Frame:
    data: bytes

    @property
    def ethertype(self) -> int:
        return int.from_bytes(self.data[12:14], "big")

    @property
    def addresses(self) -> tuple[IPv4Address, IPv4Address]:
        return IPv4Address(self.data[26:30]), IPv4Address(self.data[30:34])

    @property
    def protocol(self) -> int:
        return self.data[23]

    @property
    def fragment_offset(self) -> int:
        return int.from_bytes(self.data[20:22], "big") & 0x1FFF

    @property
    def ports(self) -> tuple[int, int]:
        start = 14 + 4 * (self.data[14] & 15)
        return struct.unpack("!HH", self.data[start : start + 4])

    def reports_a_closed_port(self, ports: set[int]) -> bool:
        """Whether this is an ICMP "port unreachable" about a UDP packet to one of `ports`."""
        start = 14 + 4 * (self.data[14] & 15)
        if self.protocol != 1 or self.data[start : start + 2] != b"\x03\x03":
            return False
        quoted = self.data[start + 8 :]
        udp = 4 * (quoted[0] & 15)
        return quoted[9] == 17 and struct.unpack("!H", quoted[udp + 2 : udp + 4])[0] in ports


def frames(path: Path) -> Iterator[Frame]:
    raw = path.read_bytes()
    assert raw[:4] == LITTLE, f"not a pcap file of this machine: {raw[:4]!r}"
    at = 24
    while at + 16 <= len(raw):
        kept, length = struct.unpack("<II", raw[at + 8 : at + 16])
        assert kept == length, "a frame was cut short"
        yield Frame(raw[at + 16 : at + 16 + kept])
        at += 16 + kept
