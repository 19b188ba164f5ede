"""Messages between processes: in pieces, with descriptors, and never waited for by who must not wait."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from sluicegate.workers.channel import Channel, ChannelClosedError

Ends = tuple[Channel, Channel]


@pytest.fixture
def ends() -> Iterator[Ends]:
    ours, theirs = socket.socketpair()
    for one in (ours, theirs):
        one.settimeout(None)
    channels = Channel(ours), Channel(theirs)
    yield channels
    for channel in channels:
        channel.close()


@pytest.mark.timeout(10)
def test_what_is_ready_is_returned_without_waiting(ends: Ends) -> None:
    """The socket of a worker that has died can be held open by what it started: nothing comes, and no end either."""
    ours, theirs = ends
    assert ours.receive_ready() == []
    theirs.send({"kind": "one"})
    theirs.send({"kind": "two", "text": "ü"})
    assert ours.receive_ready() == [{"kind": "one"}, {"kind": "two", "text": "ü"}]
    assert ours.receive_ready() == []
    theirs.close()
    with pytest.raises(ChannelClosedError, match="end of stream"):
        ours.receive_ready()


def test_half_a_message_waits_for_its_other_half(ends: Ends) -> None:
    """Whoever writes can be stopped in the middle of it."""
    ours, theirs = ends
    frame = b'\0\0\0\x10{"kind":"whole"}'
    theirs.sock.sendall(frame[:9])
    assert ours.receive_ready() == []
    theirs.sock.sendall(frame[9:])
    assert ours.receive_ready() == [{"kind": "whole"}]


def test_descriptors_come_with_their_message(ends: Ends) -> None:
    """In order, and each is another one than was sent."""
    ours, theirs = ends
    reader, writer = os.pipe()
    theirs.send({"kind": "spawn"}, fds=(reader, writer))
    assert ours.receive() == {"kind": "spawn"}
    read, write = ours.take_fds(2)
    os.write(write, b"x")
    assert os.read(read, 1) == b"x"
    assert ours.take_fds(1) == []
    for fd in (reader, writer, read, write):
        os.close(fd)


@pytest.mark.parametrize("frame", [b"\xff" * 8, b"\0\0\0\x02{]", b"\0\0\0\x01\xff"])
def test_what_is_no_message_closes_the_channel(ends: Ends, frame: bytes) -> None:
    """A task can write into any descriptor of its process."""
    ours, theirs = ends
    theirs.sock.sendall(frame)
    with pytest.raises(ChannelClosedError, match="not ours"):
        ours.receive_ready()
