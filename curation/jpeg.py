"""Take private metadata out of a JPEG, or put a colour profile into it, without touching its pixels."""

EOI, SOS, COM, APP0, APP2, APP14 = 0xD9, 0xDA, 0xFE, 0xE0, 0xE2, 0xEE
FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
STANDALONE = {0x01, *range(0xD0, 0xD8)}
ICC_TAG, ICC_BYTES = b"ICC_PROFILE\0", 65_519  # of a profile in one segment (ICC.1, annex B.4)


def strip_metadata(data: bytes) -> bytes:
    """Drop EXIF (GPS, serial numbers, thumbnail), XMP, IPTC, comments, maker data and all that follows the picture.

    Kept are the segments that decide what the pixels look like: JFIF (APP0), the ICC profile (APP2) and Adobe's colour
    transform (APP14, mended where it is none). What follows the end marker goes too: phones put second pictures and
    videos there.
    Raises ValueError where the bytes are not a whole JPEG.
    """
    if data[:2] != b"\xff\xd8":
        raise ValueError("no JPEG: it does not start with FF D8")
    parts = [data[:2]]
    at, components, adobe = 2, 0, 0
    while True:
        marker, at = _next_marker(data, at)
        if marker == EOI:
            if components == 3 and adobe and parts[adobe][-1] > 1:  # no such code; decoders take it for 1, or refuse it
                parts[adobe] = parts[adobe][:-1] + b"\x01"
            parts.append(b"\xff\xd9")
            return b"".join(parts)
        if marker in STANDALONE:
            parts.append(bytes([0xFF, marker]))
            continue
        length = int.from_bytes(data[at : at + 2], "big")
        segment, end = data[at : at + length], at + length
        if length < 2 or end > len(data):
            raise ValueError(f"the JPEG breaks off in segment FF {marker:02X}")
        if marker in FRAMES and length >= 8:
            components = segment[7]
        if _keep(marker, segment[2:]):
            adobe = len(parts) if marker == APP14 else adobe
            parts.append(bytes([0xFF, marker]) + _bare(marker, segment))
        at = end
        if marker == SOS:
            end = _end_of_scan(data, at)
            parts.append(data[at:end])
            at = end


def with_profile(data: bytes, profile: bytes) -> bytes:
    """The JPEG with an ICC profile, which must be of RGB; at most 255 segments of 65,519 bytes, else ValueError."""
    parts = [profile[at : at + ICC_BYTES] for at in range(0, len(profile), ICC_BYTES)]
    if len(parts) > 255:
        raise ValueError(f"a colour profile of {len(profile)} bytes does not fit into a JPEG")
    bodies = [ICC_TAG + bytes([number, len(parts)]) + part for number, part in enumerate(parts, 1)]
    segments = [b"\xff\xe2" + (len(body) + 2).to_bytes(2, "big") + body for body in bodies]
    start = 4 + int.from_bytes(data[4:6], "big") if data[2:4] == b"\xff\xe0" else 2  # JFIF comes first
    return data[:start] + b"".join(segments) + data[start:]


def _bare(marker: int, segment: bytes) -> bytes:
    """JFIF's segment without its thumbnail, which may show what was cut off; Adobe's without what follows it."""
    if marker == APP0:
        body = segment[2:14] + b"\0\0"
    elif marker == APP14:
        body = segment[2:14]
    else:
        return segment
    return (len(body) + 2).to_bytes(2, "big") + body


def _keep(marker: int, body: bytes) -> bool:
    if APP0 <= marker <= 0xEF:
        return (
            (marker == APP0 and body.startswith(b"JFIF\0") and len(body) >= 14)
            or (marker == APP2 and body.startswith(ICC_TAG))
            or (marker == APP14 and body.startswith(b"Adobe") and len(body) >= 12)
        )
    return marker != COM


def _next_marker(data: bytes, at: int) -> tuple[int, int]:
    """The marker at or after `at` (fill bytes skipped) and the position behind it."""
    at = data.find(b"\xff", at)
    while 0 <= at < len(data) - 1 and data[at + 1] == 0xFF:
        at += 1
    if at < 0 or at >= len(data) - 1:
        raise ValueError("the JPEG breaks off before its end marker")
    return data[at + 1], at + 2


def _end_of_scan(data: bytes, at: int) -> int:
    """Entropy-coded data ends at the first marker that is neither a stuffed zero nor a restart."""
    while True:
        at = data.find(b"\xff", at)
        if at < 0 or at >= len(data) - 1:
            raise ValueError("the JPEG breaks off inside its picture data")
        following = data[at + 1]
        if following not in {0x00, 0xFF} and not 0xD0 <= following <= 0xD7:
            return at
        at += 1 if following == 0xFF else 2
