"""Run a command with the network cut off: a network namespace of its own that holds nothing but loopback.

    python tests/offline.py COMMAND [ARG …]

Needs Linux and either root or unprivileged user namespaces. Where neither is allowed the command runs with the
network as it is, and says so: the suite must not depend on luck, but a laptop should still be able to run it.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
import sys

CLONE_NEWNET = 0x40000000
CLONE_NEWUSER = 0x10000000
SIOCSIFFLAGS = 0x8914
IFF_UP_RUNNING = 0x1 | 0x40


def enter_loopback_only_namespace() -> bool:
    """Move this process into a fresh network namespace with loopback up. False where the kernel refuses."""
    if sys.platform != "linux":
        return False
    flags = CLONE_NEWNET if os.geteuid() == 0 else CLONE_NEWNET | CLONE_NEWUSER
    if ctypes.CDLL(None, use_errno=True).unshare(flags) != 0:
        return False
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", IFF_UP_RUNNING))
    return True


if __name__ == "__main__":
    if not enter_loopback_only_namespace():
        print(
            "offline.py: no network namespace allowed here; the tests run with the network as it is.", file=sys.stderr
        )
    os.execvp(sys.argv[1], sys.argv[1:])
