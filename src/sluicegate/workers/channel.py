"""Messages between our processes: JSON objects in length-prefixed frames on a stream socket, and file descriptors.

A frame is 4 bytes of length, big-endian, and that many bytes of UTF-8 JSON. Reading never assumes that a frame
arrives whole: the other side may be stopped or killed in the middle of one.
"""

from __future__ import annotations

import array
import contextlib
import json
import socket
import struct
import threading
from typing import Any, Final

FRAME_BYTES_MAX: Final = 64 * 1024 * 1024
READ_BYTES: Final = 256 * 1024
FDS_MAX: Final = 32
_FD_BYTES: Final = array.array("i").itemsize
_RIGHTS_BYTES: Final = socket.CMSG_LEN(FDS_MAX * _FD_BYTES)

Message = dict[str, Any]

# One of each for all messages: `json.loads` also guesses the encoding, `json.dumps` with options makes a new encoder.
_ENCODER: Final = json.JSONEncoder(separators=(",", ":"), default=str, ensure_ascii=False)
_DECODER: Final = json.JSONDecoder()


class ChannelClosedError(Exception):
    """The other side is gone."""


class Channel:
    """One end. Sending is safe from any thread; receiving belongs to one."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._buffer = bytearray()
        self._fds: list[int] = []
        self._lock = threading.Lock()

    def fileno(self) -> int:
        """The descriptor, for selectors."""
        return self.sock.fileno()

    def send(self, message: Message, fds: tuple[int, ...] = ()) -> None:
        """Send a message, with descriptors. Raises: `ChannelClosedError`."""
        # Half a surrogate pair could not be stored.
        body = _ENCODER.encode(message).encode(errors="replace")
        frame = struct.pack(">I", len(body)) + body
        try:
            with self._lock:
                if fds:
                    sent = self._send_fds(frame, fds)
                    frame = frame[sent:]
                self.sock.sendall(frame)
        except OSError as error:
            raise ChannelClosedError(str(error)) from error

    def _send_fds(self, frame: bytes, fds: tuple[int, ...]) -> int:
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))
        return self.sock.sendmsg([frame], [rights])

    def receive(self) -> Message:
        """Wait for one message. Raises: `ChannelClosedError`."""
        while (message := self._next()) is None:
            self._fill()
        return message

    def receive_ready(self) -> list[Message]:
        """Return what has arrived, without waiting. Raises: `ChannelClosedError` when nothing can arrive any more."""
        self._fill(socket.MSG_DONTWAIT)
        messages = []
        while (message := self._next()) is not None:
            messages.append(message)
        return messages

    def take_fds(self, count: int) -> list[int]:
        """Return the next `count` descriptors that arrived, in order."""
        taken, self._fds = self._fds[:count], self._fds[count:]
        return taken

    def close(self) -> None:
        """Close this end."""
        with contextlib.suppress(OSError):
            self.sock.close()

    def _fill(self, flags: int = 0) -> None:
        try:
            # `socket.recv_fds` takes flags and forgets them, in Python 3.11.
            data, rights, _, _ = self.sock.recvmsg(READ_BYTES, _RIGHTS_BYTES, flags)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            raise ChannelClosedError(str(error)) from error
        for level, kind, numbers in rights:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                whole = len(numbers) - len(numbers) % _FD_BYTES
                self._fds += array.array("i", numbers[:whole])
        if not data:
            raise ChannelClosedError("end of stream")
        self._buffer += data

    def _next(self) -> Message | None:
        if len(self._buffer) < 4:
            return None
        (length,) = struct.unpack_from(">I", self._buffer)
        if length > FRAME_BYTES_MAX:
            raise ChannelClosedError(f"a frame of {length} bytes is not ours")
        if len(self._buffer) < 4 + length:
            return None
        body = bytes(self._buffer[4 : 4 + length])
        del self._buffer[: 4 + length]
        try:
            message: Message = _DECODER.decode(body.decode())
        except ValueError as error:
            raise ChannelClosedError("a frame is not ours") from error
        return message
