"""What workers write and everyone reads, across a fork."""

from __future__ import annotations

import os

from headgate.serving.board import Board, Standing


def test_what_a_child_writes_its_parent_reads() -> None:
    board = Board(3)
    assert board.counted() == (0, 3)
    child = os.fork()
    if child == 0:
        board.stand(1, Standing.ready)
        board.beat(1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert (board.standing(1), board.beats(1), board.beats(0)) == (Standing.ready, 1, 0)
    assert board.counted() == (1, 3)


def test_one_whose_loop_stands_still_or_that_ends_is_not_counted() -> None:
    board = Board(2)
    for number in range(2):
        board.stand(number, Standing.ready)
    assert board.counted() == (2, 2)
    board.mark(0, silent=True)
    assert board.counted() == (1, 2)
    board.mark(0, silent=False)
    board.stand(1, Standing.draining)
    assert board.counted() == (1, 2)
