"""Frames between gateway and worker: cut anywhere, joined again, and refused when they lie."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ninestory.core.errors import Damaged
from ninestory.serving.frames import MAX_FRAME, FrameKind, FrameProtocol, encode

FRAMES = st.lists(st.tuples(st.integers(0, 2**32 - 1), st.sampled_from(FrameKind), st.binary(max_size=40)), max_size=6)


@given(FRAMES, st.integers(1, 17))
def test_frames_arrive_whole_however_the_socket_cuts_them(
    frames: list[tuple[int, FrameKind, bytes]], step: int
) -> None:
    seen: list[tuple[int, FrameKind, bytes]] = []
    protocol = FrameProtocol(lambda *frame: seen.append(frame), lambda: None)
    wire = b"".join(encode(*frame) for frame in frames)
    for at in range(0, len(wire), step):
        protocol.data_received(wire[at : at + step])
    assert seen == frames


@pytest.mark.parametrize("length", [0, 4, MAX_FRAME + 1, 2**32 - 1])
def test_a_frame_with_an_impossible_length_is_refused_before_it_is_buffered(length: int) -> None:
    protocol = FrameProtocol(lambda *_: pytest.fail("no frame was sent"), lambda: None)
    with pytest.raises(Damaged, match=str(length)):
        protocol.data_received(struct.pack("<IIB", length, 1, FrameKind.CHUNK))
