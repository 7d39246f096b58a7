"""Many datagrams in one system call: recvmmsg(2) and sendmmsg(2), which Python's socket module lacks.

The calls never wait, and keep the interpreter's lock: a thread that released it for each datagram would get
it back only after a thread that computes, milliseconds later each time.
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
import socket
import struct
import threading
from typing import TYPE_CHECKING, TypeAlias

from hpctrack.stream.wire.names import Address

if TYPE_CHECKING:
    from collections.abc import Sequence

    #: A datagram, and the socket address (struct sockaddr) of who sent it or gets it.
    Addressed: TypeAlias = tuple[bytes, bytes]

_BATCH = 128
_SLOT = 2048  # bytes for a datagram; what is longer is cut, and too long for us anyway
_NAME = 128  # struct sockaddr_storage
_CONTROL = 64
_SO_RXQ_OVFL = 40  # asm-generic/socket.h
_SO_RCVBUFFORCE = 33
_CMSG = struct.Struct("@QiiI")  # length, level, type, data
#: Errors of a sendmmsg that concern one datagram or one destination, as ICMP reports them.
_SKIPPED = frozenset(
    (errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EPERM, errno.EINVAL, errno.EMSGSIZE)
)


class _IoVec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("size", ctypes.c_size_t))


class _MsgHdr(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_size", ctypes.c_uint32),
        ("iov", ctypes.POINTER(_IoVec)),
        ("iov_size", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_size", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class _MMsgHdr(ctypes.Structure):
    _fields_ = (("header", _MsgHdr), ("size", ctypes.c_uint))


_libc = ctypes.PyDLL(None, use_errno=True)


class _Slots:
    """Memory for a batch: a slot for each datagram's bytes, address and control data."""

    def __init__(self) -> None:
        self.data = ctypes.create_string_buffer(_BATCH * _SLOT)
        self.names = ctypes.create_string_buffer(_BATCH * _NAME)
        self.control = ctypes.create_string_buffer(_BATCH * _CONTROL)
        self.vectors = (_IoVec * _BATCH)()
        self.headers = (_MMsgHdr * _BATCH)()
        for i in range(_BATCH):
            self.vectors[i] = _IoVec(ctypes.addressof(self.data) + i * _SLOT, _SLOT)
            header = self.headers[i].header
            header.name, header.name_size = ctypes.addressof(self.names) + i * _NAME, _NAME
            header.iov, header.iov_size = ctypes.pointer(self.vectors[i]), 1
            header.control, header.control_size = ctypes.addressof(self.control) + i * _CONTROL, _CONTROL


class BatchSocket:
    """The socket of an address: one thread receives, any may send."""

    def __init__(self, address: Address, *, buffer: int = 32 << 20) -> None:
        """Listen; ``buffer`` is how many bytes the kernel is asked to keep for us.

        Raises as `Address.listen` does.
        """
        self._socket = address.listen()
        try:
            self._enlarge(buffer)
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RXQ_OVFL, 1)
        except OSError:
            self._socket.close()
            raise
        self._wakeups = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)
        self._poll.register(self._wakeups, select.POLLIN)
        self._in = _Slots()
        # The kernel overwrites sizes: every call begins with a copy of how it was.
        self._pristine = bytes(self._in.headers)
        self._out = _Slots()
        self._sending = threading.Lock()
        #: Datagrams that the kernel dropped because nobody fetched them in time.
        self.dropped = 0

    def _enlarge(self, size: int) -> None:
        """Ask for more than ``net.core.rmem_max`` where we may."""
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, size)
        except PermissionError:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)

    @property
    def address(self) -> Address:
        """Where it listens."""
        return Address.of(self._socket)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
        os.close(self._wakeups)

    def wait(self, seconds: float) -> bool:
        """Wait until there is something to receive, for so long at most; returns whether there is."""
        ready = {descriptor for descriptor, _ in self._poll.poll(seconds * 1000)}
        if self._wakeups in ready:
            os.eventfd_read(self._wakeups)
        return self._socket.fileno() in ready

    def wake(self) -> None:
        """End the `wait` that goes on, or else the next. For any thread."""
        os.eventfd_write(self._wakeups, 1)

    def receive(self) -> list[Addressed]:
        """Return what has arrived, up to a batch; nothing if there is nothing. Raises OSError."""
        slots = self._in
        ctypes.memmove(slots.headers, self._pristine, len(self._pristine))
        count = _libc.recvmmsg(self._socket.fileno(), slots.headers, _BATCH, socket.MSG_DONTWAIT, None)
        if count < 0:
            code = ctypes.get_errno()
            # ICMP errors about answers that were sent come up here, too.
            if code in (errno.EAGAIN, errno.EINTR) or code in _SKIPPED:
                return []
            raise OSError(code, os.strerror(code))
        if count:
            self._note_drops(count - 1)
        data, names, received = memoryview(slots.data), memoryview(slots.names), []
        for i in range(count):
            message = slots.headers[i]
            start = i * _NAME
            received.append(
                (
                    bytes(data[i * _SLOT : i * _SLOT + message.size]),
                    bytes(names[start : start + message.header.name_size]),
                )
            )
        return received

    def _note_drops(self, index: int) -> None:
        """Read the kernel's count of drops, which comes with a datagram once there are any."""
        if self._in.headers[index].header.control_size >= _CMSG.size:
            _, level, kind, dropped = _CMSG.unpack_from(self._in.control, index * _CONTROL)
            if (level, kind) == (socket.SOL_SOCKET, _SO_RXQ_OVFL):
                self.dropped = dropped

    def send(self, datagrams: Sequence[Addressed]) -> int:
        """Send as many as the kernel takes now; returns how many. What is not sent is lost."""
        with self._sending:
            batches = (datagrams[begin : begin + _BATCH] for begin in range(0, len(datagrams), _BATCH))
            return sum(map(self._send_batch, batches))

    def _send_batch(self, datagrams: Sequence[Addressed]) -> int:
        slots = self._out
        bodies, names = memoryview(slots.data).cast("B"), memoryview(slots.names).cast("B")
        for i, (data, name) in enumerate(datagrams):
            bodies[i * _SLOT : i * _SLOT + len(data)] = data
            names[i * _NAME : i * _NAME + len(name)] = name
            slots.vectors[i].size = len(data)
            header = slots.headers[i].header
            header.name_size, header.control_size = len(name), 0
        position = sent = 0
        while position < len(datagrams):
            at = ctypes.byref(slots.headers, position * ctypes.sizeof(_MMsgHdr))
            rest = len(datagrams) - position
            count = _libc.sendmmsg(self._socket.fileno(), at, rest, socket.MSG_DONTWAIT)
            if count > 0:
                position += count
                sent += count
            elif ctypes.get_errno() in _SKIPPED:
                position += 1
            else:
                break
        return sent
