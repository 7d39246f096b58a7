"""Another host, with a firewall between: network namespaces behind a router."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING

from tests.support.requirements import skip_or_fail

if TYPE_CHECKING:
    from collections.abc import Iterator


class Network:
    """This host (the head), a router with the firewall, and a node behind it."""

    def __init__(self) -> None:
        number = os.getpid() % 40_000
        self._router, self._node = f"hpct-r{number}", f"hpct-n{number}"
        net = f"10.{200 + number // 8000}.{number % 250}"
        self.head = f"{net}.1"
        self._links = f"hr{number}"
        try:
            self._ip("netns", "add", self._router)
            self._ip("netns", "add", self._node)
            self._link(None, self._links, f"{net}.1/30", self._router, f"rh{number}", f"{net}.2/30")
            self._link(self._router, f"rn{number}", f"{net}.5/30", self._node, f"nr{number}", f"{net}.6/30")
            self._ip("route", "add", f"{net}.4/30", "via", f"{net}.2")
            self._ip("-n", self._node, "route", "add", "default", "via", f"{net}.5")
            self._ip("-n", self._router, "route", "add", "default", "via", f"{net}.1")
            self._inside(self._router, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
        except subprocess.CalledProcessError as error:
            self.close()
            skip_or_fail(f"no network namespaces here: {error.cmd}: {error.stderr}")

    def _ip(self, *words: str) -> None:
        subprocess.run(["ip", *words], check=True, capture_output=True, text=True)

    def _link(self, space: str | None, name: str, address: str, other: str, peer: str, opposite: str) -> None:
        here = ["-n", space] if space else []
        self._ip(*here, "link", "add", name, "type", "veth", "peer", "name", peer, "netns", other)
        for where, link, own in ((here, name, address), (["-n", other], peer, opposite)):
            self._ip(*where, "address", "add", own, "dev", link)
            self._ip(*where, "link", "set", link, "up")

    def _inside(self, space: str, *words: str) -> None:
        subprocess.run(["ip", "netns", "exec", space, *words], check=True, capture_output=True, text=True)

    def on_node(self, *words: str) -> list[str]:
        """Return the command that runs another one on the node."""
        return ["ip", "netns", "exec", self._node, *words]

    def second_address(self) -> str:
        """Give the node another address, and return it."""
        address = f"{self.head.rpartition('.')[0]}.9"
        self._ip("-n", self._node, "address", "add", f"{address}/32", "dev", "lo")
        self._ip("-n", self._router, "route", "add", address, "via", f"{self.head.rpartition('.')[0]}.6")
        self._ip("route", "add", address, "via", f"{self.head.rpartition('.')[0]}.2")
        return address

    def drop(self, *, begin: bool, protocol: str = "udp") -> None:
        """Have the firewall drop all UDP, or TCP, without a word, or no longer."""
        rule = "FORWARD", "-p", protocol, "-j", "DROP"
        self._inside(self._router, "iptables", "-A" if begin else "-D", *rule)

    def lose(self, share: float) -> None:
        """Have the network lose a share of all UDP from now on, in each direction."""
        chance = ["-m", "statistic", "--mode", "random", "--probability", str(share)]
        self._inside(self._router, "iptables", "-A", "FORWARD", "-p", "udp", *chance, "-j", "DROP")

    def close(self) -> None:
        subprocess.run(["ip", "link", "del", self._links], check=False, capture_output=True)
        for space in (self._node, self._router):
            subprocess.run(["ip", "netns", "del", space], check=False, capture_output=True)


def network_of_two() -> Iterator[Network]:
    """Yield a network, or skip the test where none can be made."""
    if os.geteuid() or not shutil.which("ip") or not shutil.which("iptables"):
        skip_or_fail("network namespaces take root, iproute2 and iptables")
    network = Network()
    try:
        yield network
    finally:
        network.close()
