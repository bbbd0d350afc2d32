"""What the replication library does not read of MySQL's binary log, or reads otherwise than we need it.

It makes its packets and columns itself, so that ours are put in their place.
"""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any, Final

import msgspec
from pymysqlreplication import binlogstream, row_event
from pymysqlreplication.column import Column
from pymysqlreplication.constants import CHARSET
from pymysqlreplication.event import BinLogEvent
from pymysqlreplication.packet import BinLogPacketWrapper
from pymysqlreplication.row_event import MetadataFieldType, RowsEvent, TableMapEvent

from headgate.sources.mysql.documents import text_of
from headgate.sources.mysql.gtids import GtidSet

_INCIDENT, _COMPRESSED, _TAGGED_GTID = 26, 40, 42
_VECTOR, _BLOB = 242, 252
_GEOMETRY_TYPES, _DIMENSIONS = 7, 13
_UUID_BYTES: Final = 16
_UCA_1400: Final = ("utf8mb3", "utf8mb4", "ucs2", "utf16", "utf32")
_FIRST_UCA_1400, _OF_EACH_CHARSET = 2048, 256
"""MariaDB's numbers of collations by UCA 14.0.0 (10.10 and newer; from 11.5 on the usual ones), by character set."""
_WIDE: Final = {"utf16": "utf-16-be", "ucs2": "utf-16-be", "utf16le": "utf-16-le", "utf32": "utf-32-be"}


class TaggedGtidEvent(BinLogEvent):  # type: ignore[misc]  # it has no types
    """Begins a transaction whose GTID has a tag (MySQL 8.3 and newer)."""

    def __init__(self, packet: Any, event_size: int, *arguments: Any, **named: Any) -> None:
        super().__init__(packet, event_size, *arguments, **named)
        self.gtid = tagged_gtid(packet.read(event_size))


class UnreadableEvent(BinLogEvent):  # type: ignore[misc]  # it has no types
    """Changes that can't be told: compressed ones, and those that the server itself has lost."""

    def __init__(self, packet: Any, event_size: int, *arguments: Any, **named: Any) -> None:
        super().__init__(packet, event_size, *arguments, **named)
        self.why = _REASONS[packet.event_type]


_REASONS: Final = {
    _INCIDENT: "the server says that changes are missing in its binary log",
    _COMPRESSED: "a session has binlog_transaction_compression = ON: set it to OFF, there and globally",
}


class Difference(msgspec.Struct, frozen=True):
    """What changed in a JSON document, in place of the document; empty where nothing did."""

    raw: bytes


class Packet(BinLogPacketWrapper):  # type: ignore[misc]  # it has no types
    """The library's, with the events above, and with JSON as the server's own text."""

    _BinLogPacketWrapper__event_map: Final = {
        **BinLogPacketWrapper._BinLogPacketWrapper__event_map,
        **dict.fromkeys(_REASONS, UnreadableEvent),
        _TAGGED_GTID: TaggedGtidEvent,
    }

    def read_binary_json(self, size: int, is_partial: bool) -> str | Difference | None:
        """A document's text; None where there is none."""
        length = self.read_uint_by_size(size)
        raw = self.read(length) if length else b""
        if is_partial:
            return Difference(raw)
        return text_of(raw) if raw else None


class _Column(Column):  # type: ignore[misc]  # it has no types
    """A vector is laid out as a blob is: bytes, with their length before them."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        kind, *rest = arguments or (None,)
        super().__init__(*((_BLOB, *rest) if kind == _VECTOR else arguments), **named)


def tagged_gtid(body: bytes) -> str:
    """`UUID:TAG:NUMBER` of https://dev.mysql.com/doc/dev/mysql-server/latest/PageLibsMysqlSerialization.html.

    After version, size and the last field that must be known come the fields, each with its number before it: flags,
    the bytes of the UUID, the number of the transaction, the tag.
    """
    numbers = _Numbers(body)
    for _ in range(3 + 2 + 1):  # up to the UUID's own number: the flags are one byte
        numbers.take()
    uuid = bytes(numbers.take() for _ in range(_UUID_BYTES)).hex()
    numbers.take()
    doubled = numbers.take()  # the sign is its lowest bit
    numbers.take()
    tag = numbers.text()
    sid = f"{uuid[:8]}-{uuid[8:12]}-{uuid[12:16]}-{uuid[16:20]}-{uuid[20:]}"
    return f"{sid}:{tag}:{doubled >> 1}"


class _Numbers:
    """Numbers of variable length: as many ones as its first byte ends in, so many bytes follow."""

    def __init__(self, body: bytes) -> None:
        self._body, self._at = body, 0

    def take(self) -> int:
        first = self._body[self._at]
        more = (~first & (first + 1)).bit_length() - 1
        raw = self._body[self._at : self._at + 1 + more]
        self._at += 1 + more
        return int.from_bytes(raw, "little") >> (more + 1) if more < 8 else int.from_bytes(raw[1:], "little")

    def text(self) -> str:
        length = self.take()
        self._at += length
        return self._body[self._at - length : self._at].decode()


def _field_of(number: int) -> Any:
    """What the server says of a table's columns. Dimensions of vectors are numbers, as types of geometries are."""
    return MetadataFieldType(_GEOMETRY_TYPES if number == _DIMENSIONS else number)


def _time(event: Any, column: Any) -> timedelta:
    """A TIME with its fraction, which are one number: one below zero is not its parts, each below zero.

    https://dev.mysql.com/doc/dev/mysql-server/latest/field__types_8h.html, from hours to microseconds in 3 to 6 bytes.
    """
    size = (column.fsp + 1) // 2
    number: int = event.packet.read_int_be_by_size(3) & 0xFFFFFF
    for _ in range(size):
        number = (number << 8) + event.packet.read_uint8()
    number -= 0x800000 << 8 * size
    clock, fraction = divmod(abs(number), 1 << 8 * size)
    time = timedelta(
        hours=clock >> 12, minutes=clock >> 6 & 0x3F, seconds=clock & 0x3F, microseconds=fraction * 100 ** (3 - size)
    )
    return -time if number < 0 else time


def _encoding_of(charset: str) -> str:
    """Python's name of the server's character set. Of wide ones the library says the wrong order of bytes, or none."""
    return _WIDE.get(charset) or _encoding_by_library(charset)


def _date(event: Any) -> date | None:
    """A DATE; None for one that no calendar has."""
    number = event.packet.read_uint24()
    try:
        return date(number >> 9, number >> 5 & 0xF, number & 0x1F)
    except ValueError:
        return None


def _members(event: Any, length: int) -> list[list[bytes]]:
    """Of each ENUM or SET, in the column's character set, which is not known yet."""
    packet, found = event.packet, []
    end = packet.read_bytes + length
    while packet.read_bytes < end:
        found.append([packet.read_variable_length_string() for _ in range(packet.read_length_coded_binary())])
    return found


def _complete(event: Any) -> None:
    """The library's step that tells columns what the metadata say, and then their members as text."""
    _complete_by_library(event)
    for column in event.columns:
        for name in ("enum_values", "set_values"):
            members = getattr(column, name)
            if members:
                setattr(column, name, [_decoded(member, column.character_set_name) for member in members])


def _decoded(member: str | bytes, charset: str | None) -> str:
    if isinstance(member, str):
        return member
    try:
        return member.decode(RowsEvent.charset_to_encoding(charset or "utf8"))
    except (LookupError, UnicodeDecodeError):
        return member.decode("utf-8", "backslashreplace")


def _teach_collations() -> None:
    """Those of which the library does not know the character set."""
    for number in range(_OF_EACH_CHARSET * len(_UCA_1400)):
        name = _UCA_1400[number // _OF_EACH_CHARSET]
        CHARSET.charsets.add(CHARSET.Charset(_FIRST_UCA_1400 + number, name, f"{name}_uca1400", dbms="mariadb"))


_teach_collations()
_encoding_by_library = RowsEvent.charset_to_encoding
_complete_by_library = TableMapEvent._sync_column_info
TableMapEvent._sync_column_info = _complete
TableMapEvent._read_type_values = _members
RowsEvent.charset_to_encoding = staticmethod(_encoding_of)
RowsEvent._RowsEvent__read_date = _date
RowsEvent._RowsEvent__read_time2 = _time
MetadataFieldType.by_index = staticmethod(_field_of)
binlogstream.BinLogPacketWrapper = Packet
row_event.Column = _Column
binlogstream.GtidSet = GtidSet  # the library's knows no tags
