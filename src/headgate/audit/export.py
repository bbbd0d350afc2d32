"""An export of the record: JSON Lines that carry each event with its links, and last a signed line that counts them.

Each line is one entry, or the end. Lines are bytes of one form: what is read is held against what would be written.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator
from hashlib import sha256
from typing import BinaryIO

import msgspec

from headgate.audit.signing import PublicKeys, Signer, signature_of
from headgate.audit.trail import Foreign, Progress, Taken, event_id_in, nobody
from headgate.audit.verify import Entry

_EVERY = 2_000
_LONGEST_LINE = 64 * 1024 * 1024


class Line(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One entry. `event` is the CloudEvent as it was made; what is no JSON stands in `bytes`, in base64."""

    writer: str
    seq: int
    previous: str
    link: str
    event: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    bytes: str | msgspec.UnsetType = msgspec.UNSET


class End(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The last line: how many lines came before, and the SHA-256 of all their bytes, signed."""

    lines: int
    sha256: str
    key: str
    signature: str


_encode = msgspec.json.Encoder().encode
_decode_line = msgspec.json.Decoder(Line).decode
_decode_end = msgspec.json.Decoder(End).decode
_decode_any = msgspec.json.Decoder().decode


def write_export(trail: Iterable[Taken], file: BinaryIO, signer: Signer) -> int:
    """Writes a trail, and answers how many events it has. What is no entry is left out: verify the trail itself.

    ConfigError when the key can't be used.
    """
    count, digest = 0, sha256()
    for taken in trail:
        if isinstance(taken, Foreign):
            continue
        line = _encode(_line(taken)) + b"\n"
        digest.update(line)
        file.write(line)
        count += 1
    said = _signed_bytes(count, digest.hexdigest())
    end = End(
        lines=count,
        sha256=digest.hexdigest(),
        key=signer.key_id,
        signature=base64.b64encode(signer.sign(said)).decode(),
    )
    file.write(_encode(end) + b"\n")
    return count


def export_trail(file: BinaryIO, size: int, keys: PublicKeys, *, progress: Progress = nobody) -> Iterator[Taken]:
    """The entries of an export of that many bytes; what its form or its end show to be wrong is something foreign."""
    count, done, digest = 0, 0, sha256()
    end: bytes | None = None
    while raw := file.readline(_LONGEST_LINE):
        done += len(raw)
        if end is not None:
            yield Foreign(f"line {count + 1} comes after the end of the export")
            return
        if _is_end(raw):
            end = raw
            continue
        digest.update(raw)
        count += 1
        yield _read(raw, count)
        if count % _EVERY == 0:
            progress(done, size)
    wrong = (
        "the export is cut off: its last line is missing"
        if end is None
        else _wrong_end(end, count, digest.hexdigest(), keys)
    )
    if wrong:
        yield Foreign(wrong)


def _line(entry: Entry) -> Line:
    event: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    if _is_plain(entry.body):
        event = msgspec.Raw(entry.body)
    return Line(
        writer=entry.writer,
        seq=entry.seq,
        previous=entry.previous.hex(),
        link=entry.link.hex(),
        event=event,
        bytes=msgspec.UNSET if event is not msgspec.UNSET else base64.b64encode(entry.body).decode(),
    )


def _is_plain(body: bytes) -> bool:
    """Whether it can stand within a line as it is."""
    try:
        _decode_any(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False
    return b"\n" not in body and body[:1] == b"{" and body[-1:] == b"}"


def _read(raw: bytes, number: int) -> Taken:
    try:
        line = _decode_line(raw)
        if isinstance(line.event, msgspec.Raw):
            body = bytes(line.event)
        elif isinstance(line.bytes, str):
            body = base64.b64decode(line.bytes, validate=True)
        else:
            raise ValueError("a line without an event")
        previous, link = bytes.fromhex(line.previous), bytes.fromhex(line.link)
        entry = Entry(line.writer, line.seq, event_id_in(body), previous, link, body)
        if _encode(_line(entry)) + b"\n" == raw:
            return entry
    except (ValueError, UnicodeDecodeError):
        pass  # msgspec's own errors are ValueErrors
    return Foreign(f"line {number} of the export is none as it is written")


def _is_end(raw: bytes) -> bool:
    return raw.startswith(b'{"lines":')


def _wrong_end(raw: bytes, count: int, digest: str, keys: PublicKeys) -> str:
    try:
        end = _decode_end(raw)
        signature = signature_of(end.signature)
    except (ValueError, UnicodeDecodeError):
        return "the last line of the export is none as it is written"
    if _encode(end) + b"\n" != raw:
        return "the last line of the export is none as it is written"
    if not keys.knows(end.key):
        return f"the export is signed by the key {end.key[:32]!r}, which is none of the trusted ones"
    if not keys.holds(end.key, signature, _signed_bytes(end.lines, end.sha256)):
        return "the signature of the export's last line does not hold"
    if (end.lines, end.sha256) != (count, digest):
        return f"the export had {end.lines} lines of other bytes: lines were changed, taken out or added"
    return ""


def _signed_bytes(lines: int, digest: str) -> bytes:
    return f"headgate-export-v1\n{lines}\n{digest}".encode()
