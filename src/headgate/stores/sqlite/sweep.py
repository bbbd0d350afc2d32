"""Removes what nobody reads any more, inside the transaction that the caller has begun."""

from __future__ import annotations

import sqlite3

import msgspec

from headgate.model.entity import Entity
from headgate.model.position import Progress
from headgate.model.row import Row
from headgate.stores._catalog import Pointer, Space, is_dead, kept_builds, retired
from headgate.stores._delta import removal_of
from headgate.stores._index import Indexes
from headgate.stores.sqlite.rows import store
from headgate.stores.sqlite.tables import ROW, current_of, pointer_of, progress_of


def sweep(connection: sqlite3.Connection, entity: Entity, own: str, limit: int) -> int:
    """Removes up to `limit` rows and index entries; answers how many. `own` is the caller's build."""
    pointer = pointer_of(connection, entity.name)
    kept = kept_builds(pointer, current_of(connection, entity.name), own)
    removed = 0
    for number, space in _spaces(connection, entity.name):
        left = limit - removed
        if left <= 0:
            break
        removed += _sweep_space(connection, entity, pointer, (number, space), kept, left)
    return removed


def _spaces(connection: sqlite3.Connection, entity: str) -> list[tuple[int, Space]]:
    found = connection.execute(
        "select id, build, generation from spaces where entity = ? order by generation, build", [entity]
    )
    return [(number, Space(build, generation)) for number, build, generation in found.fetchall()]


def _sweep_space(
    connection: sqlite3.Connection,
    entity: Entity,
    pointer: Pointer | None,
    place: tuple[int, Space],
    kept: set[str],
    limit: int,
) -> int:
    number, space = place
    progress = progress_of(connection, entity.name, space.build)
    if space.build not in kept:
        _retire(connection, entity.name, space.build, progress)
        return _remove_space(connection, entity.name, place, limit)
    if is_dead(space, pointer, progress.values()):
        return _remove_space(connection, entity.name, place, limit)
    return _remove_old_epochs(connection, number, _indexes(connection, entity, space.build), progress, limit)


def _retire(connection: sqlite3.Connection, entity: str, build: str, progress: dict[int, Progress]) -> None:
    """Turns away whoever still writes to the build, and lets nobody take it for whole."""
    connection.executemany(
        "update progress set packed = ? where entity = ? and build = ? and partition = ?",
        [
            (msgspec.json.encode(retired(one)), entity, build, partition)
            for partition, one in progress.items()
            if one != Progress(fence=one.fence)
        ],
    )


def _remove_space(connection: sqlite3.Connection, entity: str, place: tuple[int, Space], limit: int) -> int:
    number, space = place
    removed = connection.execute(
        "delete from entries where space = ?1 and (field, value, key) in"
        " (select field, value, key from entries where space = ?1 limit ?2)",
        [number, limit],
    ).rowcount
    removed += connection.execute(
        "delete from rows where space = ?1 and key in (select key from rows where space = ?1 limit ?2)",
        [number, limit - removed],
    ).rowcount
    if removed < limit:
        connection.execute("delete from counts where space = ?", [number])
        connection.execute("delete from spaces where id = ?", [number])
        _forget_definition(connection, entity, space.build)
    return removed


def _forget_definition(connection: sqlite3.Connection, entity: str, build: str) -> None:
    """Removes the definition of a build that has no space left and that is not the newest."""
    connection.execute(
        "delete from definitions where entity = ?1 and build = ?2"
        " and not exists (select 1 from spaces where entity = ?1 and build = ?2)"
        " and not exists (select 1 from current where entity = ?1 and build = ?2)"
        " and not exists (select 1 from pointers where entity = ?1 and pointer like ?2 || '/%')",
        [entity, build],
    )


def _remove_old_epochs(
    connection: sqlite3.Connection, space: int, indexes: Indexes | None, progress: dict[int, Progress], limit: int
) -> int:
    removed = 0
    counts = connection.execute("select partition, epoch from counts where space = ? and rows > 0", [space])
    for partition, epoch in counts.fetchall():
        if indexes is None or removed >= limit or epoch >= progress.get(partition, Progress()).epoch:
            continue
        found = connection.execute(
            f"select {ROW} from rows where space = ? and partition = ? and epoch = ? limit ?",
            [space, partition, epoch, limit - removed],
        )
        rows = [Row(*columns) for columns in found.fetchall()]
        store(connection, space, removal_of(indexes, rows))
        removed += len(rows)
    return removed


def _indexes(connection: sqlite3.Connection, entity: Entity, build: str) -> Indexes | None:
    if build == entity.build:
        return Indexes(entity)
    found = connection.execute(
        "select packed from definitions where entity = ? and build = ?", [entity.name, build]
    ).fetchone()
    return Indexes(msgspec.json.decode(found[0], type=Entity)) if found else None
