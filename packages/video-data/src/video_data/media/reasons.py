"""Why a file is no video that can be read, in words that say what can be done about it."""

import struct
from typing import BinaryIO

import numpy as np

ENCRYPTED = "encrypted: it plays with a key alone"
_HEAD = 1 << 16
_MOST_HEADER = 1 << 26  # bytes of a header that are searched
_MOST_BOXES = 10_000
_STARTS = {
    b"version https://git-lfs": "a pointer of Git LFS, not the file itself: fetch it with git lfs pull",
    b"#EXTM3U": "a playlist, which names other files: give the videos themselves",
    b"ffconcat": "a playlist, which names other files: give the videos themselves",
    b"\x89PNG": "a picture, not a video",
    b"\xff\xd8\xff": "a picture, not a video",
    b"ID3": "sound without pictures",
    b"fLaC": "sound without pictures",
    b"PK\x03\x04": "a zip archive, not a video: unpack it",
    b"\x1f\x8b": "a gzip archive, not a video: unpack it",
    b"\x1f\x43\xb6\x75": "a segment of a stream without its header: join it with its initialization segment",
}
_BOXES = frozenset(
    (b"ftyp", b"styp", b"moov", b"moof", b"mdat", b"sidx", b"free", b"skip", b"wide", b"uuid", b"pdin")
)
_EBML = b"\x1a\x45\xdf\xa3"  # what Matroska begins with
_ENCRYPTED_TRACK = b"\x50\x33\x81\x01"  # a ContentEncodingType of 1
_TS_PACKET, _TS_SYNC = 188, 0x47
_TS_PACKETS = 256  # that are read at a time
UNKNOWN = "no video in a known container, or damaged at its start"


def unreadable_reason(file: BinaryIO) -> str | None:
    """Return why a file cannot be opened or holds no frames, from its first bytes and the boxes of an mp4."""
    file.seek(0)
    head = file.read(_HEAD)
    if not head:
        return "empty file"
    if not any(head):
        return "nothing but zeros: it was not copied or downloaded to its end"
    for start, reason in _STARTS.items():
        if head.startswith(start):
            return reason
    text = head[:512].lstrip().lower()
    if text.startswith((b"<!doctype html", b"<html")):
        return "a web page, not a video"
    if b"<mpd" in text or text.startswith(b"<asx"):
        return "a playlist, which names other files: give the videos themselves"
    if (head.startswith(_EBML) and _ENCRYPTED_TRACK in head) or scrambled_share(file) > 0.5:
        return ENCRYPTED
    if head[4:8] in _BOXES:
        return _reason_of_boxes(file)
    return None


def scrambled_share(file: BinaryIO) -> float:
    """Return the share of the packets of a transport stream that are marked as encrypted; 0 of all other files.

    FFmpeg passes over such packets without a word. Parts of a file in which packets do not follow each other do not
    count.
    """
    file.seek(0)
    marked = total = 0
    while content := file.read(_TS_PACKETS * _TS_PACKET):
        packets = np.frombuffer(content[: len(content) // _TS_PACKET * _TS_PACKET], np.uint8).reshape(
            -1, _TS_PACKET
        )
        if (packets[:, 0] == _TS_SYNC).all():
            marked += int((packets[:, 3] >> 7).sum())
            total += len(packets)
        elif not total:
            return 0.0
    return marked / total if total else 0.0


def _reason_of_boxes(file: BinaryIO) -> str | None:
    boxes, is_cut = _boxes(file)
    kinds = boxes.keys()
    if b"moov" in boxes:
        file.seek(boxes[b"moov"][0])
        header = file.read(min(boxes[b"moov"][1], _MOST_HEADER))
        if b"encv" in header or b"drmi" in header:
            return ENCRYPTED
        if kinds & {b"mdat", b"moof"}:
            return None
        if b"mvex" in header:
            return "the header of a stream alone (initialization segment): join it with its segments"
        return "cut off behind its header: copy or download it again"
    if kinds & {b"moof", b"styp", b"sidx"}:
        return "a segment of a stream without its header: join it with its initialization segment"
    if is_cut:
        return "cut off: it ends before its header (moov), so copy or download it again"
    return "without a header (moov): writing it was not finished"


def _boxes(file: BinaryIO) -> tuple[dict[bytes, tuple[int, int]], bool]:
    """Return place and size of the outermost boxes of an mp4, and whether the file ends within one."""
    end = file.seek(0, 2)
    boxes: dict[bytes, tuple[int, int]] = {}
    place = 0
    for _ in range(_MOST_BOXES):
        file.seek(place)
        header = file.read(16)
        if len(header) < 8:
            return boxes, len(header) > 0
        size, kind = struct.unpack(">I4s", header[:8])
        if size == 1 and len(header) == 16:
            size = struct.unpack(">Q", header[8:])[0]
        elif size == 0:
            size = end - place
        if size < 8:
            return boxes, False
        boxes[kind] = place, size
        place += size
        if place > end:
            return boxes, True
    return boxes, False
