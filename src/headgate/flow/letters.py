"""What is asked of dead letters, done by the process whose partitions they are from, a little at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain

import msgspec

from headgate.flow.copying import Copies
from headgate.flow.fitting import Fitting
from headgate.flow.lanes import Lane, Lanes
from headgate.flow.materializing import Materializing
from headgate.flow.retrying import Retrying
from headgate.flow.standing import Standing
from headgate.model.pipeline import DeadLetter, LetterRequest, lane_of_letters, letter_requests
from headgate.state.base import State
from headgate.stores.base import Write, Writer
from headgate.telemetry import is_due

_AT_ONCE = 100
_PAGE = 500
_LOOK_EVERY_MS = 10_000
_decode = msgspec.json.Decoder(LetterRequest).decode


def requests_of(state: State, pipeline: str) -> dict[str, LetterRequest]:
    """What is asked of a pipeline's letters, by the requests' keys, in the order in which it was asked."""
    entries = state.scan(letter_requests(pipeline)).items()
    found = {key: _decode(entry.value) for key, entry in entries}
    return dict(sorted(found.items(), key=lambda each: each[1].asked_ms))


def passed_over(requests: Mapping[str, LetterRequest]) -> frozenset[str]:
    """The changes before which no entity is to stand still any more."""
    return frozenset(id_ for request in requests.values() if request.action == "drop" for id_ in request.ids)


class Letters:
    """One run's dead letters. One thread uses it.

    A request is looked at once for each lane, also for one that comes later, so that it reaches every letter
    whoever holds its partition. What it wants is done once the letters are copied: none is lost by dropping it.
    """

    def __init__(
        self,
        rooms: Materializing,
        writer: Writer,
        lanes: Lanes,
        standing: Standing,
        fittings: Callable[[str], Fitting],
        apply: Callable[[Sequence[Write]], None],
    ) -> None:
        self._rooms = rooms
        self._writer = writer
        self._lanes = lanes
        self._standing = standing
        self._fittings = fittings
        self._apply = apply
        self._copies = Copies(rooms, writer)
        self._looked_ms = 0
        self._uncopied: set[str] = set()
        self._seen: set[tuple[str, str]] = set()
        self._retries: deque[tuple[Lane, list[str]]] = deque()
        self._drops: deque[tuple[str, LetterRequest]] = deque()
        self.has_word = False
        """Whether someone has asked for a change before which an entity stands still: the next run goes on."""

    def take(self, requests: Mapping[str, LetterRequest]) -> None:
        """Takes what is asked by now. To be followed by `tend`."""
        for key, request in requests.items():
            self._take(key, request)
            if self._standing.is_news(key, request):
                self.has_word = True

    def tend(self, *, idle: bool) -> None:
        """Copies what is new. For each second; while records wait, it only looks where there may be something.

        That are letters of ours, and those that a request is for. What another process has left uncopied can wait.
        """
        now_ms = self._rooms.clock()
        has_cause = self._lanes.take_has_letters() or self._uncopied or self._drops or self._retries
        if not (idle or has_cause or is_due(now_ms, self._looked_ms, _LOOK_EVERY_MS)):
            return
        self._looked_ms = now_ms
        mine = {lane_of_letters(lane.entity.name, *lane.partition) for lane in self._lanes.all()}
        self._uncopied = self._copies.copy(lambda letter: letter.id.rpartition("/")[0] + "/" in mine)

    def work(self) -> None:
        """Does a part of what was asked. For each round; nothing to do costs nothing."""
        if self._drops:
            self._drop(*self._drops.popleft())
        if self._retries:
            self._retry()

    def close(self) -> None:
        """Lets go. Never raises."""
        self._copies.close()

    def _take(self, key: str, request: LetterRequest) -> None:
        if request.action == "drop":
            if (key, "") not in self._seen:
                self._seen.add((key, ""))
                self._drops.append((key, request))
            return
        fresh = {
            prefix: lane
            for lane in self._lanes.all()
            if (key, prefix := lane_of_letters(lane.entity.name, *lane.partition)) not in self._seen
        }
        if fresh:
            self._seen.update((key, prefix) for prefix in fresh)
            self._enqueue(request, fresh)

    # --- drop ------------------------------------------------------------------------------------

    def _drop(self, key: str, request: LetterRequest) -> None:
        """Removes letters. Their rows stay as they are, flawed: nothing has made them true."""
        every = self._writer.dead_letter_ids(self._rooms.pipeline) if request.every else ()
        for letters in self._pages([*request.ids, *every]):
            there = [letter.id for letter in letters if _is_meant(request, letter)]
            self._writer.drop_dead_letters(self._rooms.pipeline, [id_ for id_ in there if id_ not in self._uncopied])
            if not self._uncopied.isdisjoint(there):
                self._seen.discard((key, ""))  # taken again in a second

    def _pages(self, ids: Sequence[str]) -> Iterator[Sequence[DeadLetter]]:
        for start in range(0, len(ids), _PAGE):
            yield self._writer.dead_letters(self._rooms.pipeline, ids[start : start + _PAGE])

    # --- retry -----------------------------------------------------------------------------------

    def _enqueue(self, request: LetterRequest, lanes: Mapping[str, Lane]) -> None:
        """Groups the letters of these lanes by row; a group is tried as a whole when any of it is meant."""
        ids = [id_ for id_ in self._writer.dead_letter_ids(self._rooms.pipeline) if _lane_of(id_) in lanes]
        groups: dict[tuple[str, str], list[str]] = {}
        wanted: set[tuple[str, str]] = set()
        for letter in chain.from_iterable(self._pages(ids)):
            place = (_lane_of(letter.id), letter.id if letter.row is None else "row " + letter.row)
            groups.setdefault(place, []).append(letter.id)
            if _is_meant(request, letter) and letter.tried_ms < request.asked_ms:
                wanted.add(place)
        for place in groups:
            if place in wanted:
                self._retries.append((lanes[place[0]], sorted(groups[place], key=_offset_of)))

    def _retry(self) -> None:
        """A hundred groups of one lane, in one step."""
        lane = self._retries[0][0]
        groups: list[list[str]] = []
        while self._retries and self._retries[0][0] is lane and len(groups) < _AT_ONCE:
            groups.append(self._retries.popleft()[1])
        if not any(lane is mine for mine in self._lanes.all()) or lane.start.awaiting:
            return  # whoever has it now takes the request too; a lost log is read anew first
        ready = [group for group in groups if self._uncopied.isdisjoint(group)]
        self._retries.extend((lane, group) for group in groups if not self._uncopied.isdisjoint(group))
        if not ready:
            return
        retrying = Retrying(self._rooms, self._writer, self._fittings(lane.entity.name))
        verdicts = retrying.judge(lane, ready)
        self._apply([verdicts.write(lane)])
        self._retries.extendleft((lane, group) for group in verdicts.left)


def _is_meant(request: LetterRequest, letter: DeadLetter) -> bool:
    return letter.id in request.ids or (request.every and letter.time_ms <= request.asked_ms)


def _lane_of(id_: str) -> str:
    return id_.rpartition("/")[0] + "/"


def _offset_of(id_: str) -> int:
    return int(id_.rpartition("/")[2])
