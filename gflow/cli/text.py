"""Text files of a user: what is no UTF-8 is refused with what it seems to be, and what to do."""

from __future__ import annotations

from pathlib import Path

MAGIC = {
    b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16", b"PK\x03\x04": "a zip archive, perhaps a spreadsheet",
    b"\x1f\x8b": "compressed by gzip", b"\x93NUMPY": "an array of NumPy", b"\xd0\xcf\x11\xe0": "an old spreadsheet",
}  # fmt: skip
"""What files begin with that are no text in UTF-8."""


def read_text(path: Path, kind: str) -> str:
    """The text of a file in UTF-8, with or without a mark at its beginning; `kind`: what it should be.

    Raises ValueError for a file that cannot be read and for another encoding, with the command that changes it.
    """
    try:
        held = path.read_bytes()
    except (OSError, ValueError) as error:  # a name with a null byte is a ValueError
        raise ValueError(f"cannot read {path}: {error}") from None
    magic = next((what for start, what in MAGIC.items() if held.startswith(start)), None)
    if magic is not None and magic != "UTF-16":
        raise ValueError(f"{path} is {magic}, and no text: save it as {kind} in UTF-8")
    if magic is None and b"\0" not in held:
        try:
            return held.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            where, byte, known = held.count(b"\n", 0, error.start) + 1, held[error.start], "LATIN1"
            what = f"byte 0x{byte:02x} in line {where} is no UTF-8, perhaps Latin-1 or Windows-1252"
    elif magic is None and not _utf16(held):
        raise ValueError(f"{path} holds null bytes: it is no text; save it as {kind} in UTF-8")
    else:
        what, known = "it is in UTF-16", "UTF-16"
    raise ValueError(f"{path}: {what}; save it as UTF-8, for instance by: iconv -f {known} -t UTF-8 OLD > NEW")


def _utf16(held: bytes) -> bool:
    """Whether every other byte is null, as in UTF-16 of letters and digits."""
    even, odd = held[::2], held[1::2]
    return max(even.count(0), odd.count(0)) > 0.8 * len(odd)
