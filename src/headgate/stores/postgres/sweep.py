"""Removes what nobody reads any more. All of it runs in the transaction that the writer has begun, alone."""

from __future__ import annotations

import msgspec

from headgate.model.entity import Entity
from headgate.model.position import Progress
from headgate.model.row import Row
from headgate.stores._catalog import Pointer, Space, decode_progress, is_dead, kept_builds, retired
from headgate.stores._delta import removal_of
from headgate.stores._index import Indexes
from headgate.stores.postgres.rows import ROW, place_of, store
from headgate.stores.postgres.steps import Step

_TABLES = ("entries", "leads", "rows")


def pointer_of(step: Step, entity: str) -> Pointer | None:
    """The entity's pointer, if readers see anything yet."""
    found = step.ask("select pointer from pointers where entity = %(entity)s", entity=entity)
    return Pointer.parse(found[0][0]) if found else None


def current_of(step: Step, entity: str) -> str | None:
    """The build that was defined last."""
    found = step.ask("select build from current where entity = %(entity)s", entity=entity)
    return found[0][0] if found else None


def progress_of(step: Step, entity: str, build: str) -> dict[int, Progress]:
    """The progress of every partition of a build that was ever claimed."""
    text = "select partition, packed from progress where entity = %(entity)s and build = %(build)s"
    return {partition: decode_progress(packed) for partition, packed in step.ask(text, entity=entity, build=build)}


def sweep(step: Step, entity: Entity, own: str, limit: int) -> int:
    """Removes up to `limit` rows and index entries; answers how many. `own` is the caller's build."""
    pointer = pointer_of(step, entity.name)
    kept = kept_builds(pointer, current_of(step, entity.name), own)
    removed = 0
    for number, space in _spaces(step, entity.name):
        left = limit - removed
        if left <= 0:
            break
        removed += _sweep_space(step, entity, pointer, (number, space), kept, left)
    return removed


def _spaces(step: Step, entity: str) -> list[tuple[int, Space]]:
    text = "select id, build, generation from spaces where entity = %(entity)s order by generation, build"
    return [(number, Space(build, generation)) for number, build, generation in step.ask(text, entity=entity)]


def _sweep_space(
    step: Step, entity: Entity, pointer: Pointer | None, place: tuple[int, Space], kept: set[str], limit: int
) -> int:
    _, space = place
    progress = progress_of(step, entity.name, space.build)
    if space.build not in kept:
        _retire(step, entity.name, space.build, progress)
        return _remove_space(step, entity.name, place, limit)
    if is_dead(space, pointer, progress.values()):
        return _remove_space(step, entity.name, place, limit)
    return _remove_old_epochs(step, entity, place, progress, limit)


def _retire(step: Step, entity: str, build: str, progress: dict[int, Progress]) -> None:
    """Turns away whoever still writes to the build, and lets nobody take it for whole."""
    for partition, one in progress.items():
        if one != Progress(fence=one.fence):
            step.do(
                "update progress set packed = %(packed)b, epoch = 0"
                " where entity = %(entity)s and build = %(build)s and partition = %(partition)s",
                packed=msgspec.json.encode(retired(one)),
                entity=entity,
                build=build,
                partition=partition,
            )


def _remove_space(step: Step, entity: str, place: tuple[int, Space], limit: int) -> int:
    number, space = place
    removed = 0
    for table in _TABLES:
        chosen = f"select ctid from {table} where space = %(space)s limit %(limit)s"
        text = f"delete from {table} where ctid = any(array({chosen}))"
        removed += step.do(text, space=number, limit=limit - removed)
    if removed < limit:
        step.do("delete from counts where space = %(space)s", space=number)
        step.do("delete from spaces where id = %(space)s", space=number)
        _forget_definition(step, entity, space.build)
    return removed


def _forget_definition(step: Step, entity: str, build: str) -> None:
    """Removes the definition of a build that has no space left and that is not the newest."""
    same = "entity = %(entity)s and build = %(build)s"
    step.do(
        f"delete from definitions where {same} and not exists (select 1 from spaces where {same})"
        f" and not exists (select 1 from current where {same}) and not exists"
        " (select 1 from pointers where entity = %(entity)s and split_part(pointer, '/', 1) = %(build)s)",
        entity=entity,
        build=build,
    )


def _remove_old_epochs(
    step: Step, entity: Entity, place: tuple[int, Space], progress: dict[int, Progress], limit: int
) -> int:
    number, space = place
    removed = 0
    indexes = _indexes(step, entity, space.build)
    counts = step.ask("select partition, epoch from counts where space = %(space)s and rows > 0", space=number)
    for partition, epoch in counts:
        if indexes is None or removed >= limit or epoch >= progress.get(partition, Progress()).epoch:
            continue
        found = step.ask(
            f"select {ROW} from rows where space = %(space)s and partition = %(partition)s and epoch = %(epoch)s"
            " limit %(limit)s",
            space=number,
            partition=partition,
            epoch=epoch,
            limit=limit - removed,
        )
        rows = [Row(*columns) for columns in found]
        step.send(store(place_of(entity.name, space), removal_of(indexes, rows)))
        removed += len(rows)
    return removed


def _indexes(step: Step, entity: Entity, build: str) -> Indexes | None:
    if build == entity.build:
        return Indexes(entity)
    text = "select packed from definitions where entity = %(entity)s and build = %(build)s"
    found = step.ask(text, entity=entity.name, build=build)
    return Indexes(msgspec.json.decode(found[0][0], type=Entity)) if found else None
