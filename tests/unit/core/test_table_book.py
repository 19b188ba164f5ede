"""What one executor knows of the writers of tables, and who waits for which."""

from __future__ import annotations

from fakes import T0, MemoryStore

from sluicegate.core.job import Job, JobStatus, TaskRecord, TaskStatus
from sluicegate.core.ports import Change, Writer
from sluicegate.core.table_book import TableBook

A, B = "bronze.a", "bronze.b"


def book_of(*writers: Writer) -> TableBook:
    """A book that has read the two tables of a store with these writers."""
    store = MemoryStore()
    store.commit([Change(Job("j", "j", JobStatus.RUNNING, T0, 1), made_from=0, writers=writers)])
    book = TableBook(store)
    book.read([A, B])
    return book


def test_the_holder_of_a_table_is_told_from_what_is_known() -> None:
    """Nothing is read for it: who decides by it must not wait for the store."""
    book = book_of(Writer(A, 1, "j", "t"))
    assert (book.holder(A), book.holder(B)) == ("j", None)
    book.take(TaskRecord("u", "k", B, TaskStatus.RUNNING, epoch=1))
    assert book.holder(B) == "k"
    book.forget(A)
    assert book.holder(A) is None


def test_a_line_has_its_turn_while_nobody_is_known_to_hold_its_table() -> None:
    """Otherwise the end of whoever holds it will call the next one."""
    book = book_of(Writer(A, 1, "j", "t"))
    assert not book.has_turn(B), "nobody waits"
    for table in (A, B):
        book.wait("k", table)
    assert (book.has_turn(A), book.has_turn(B)) == (False, True)
    book.forget(A)
    assert book.has_turn(A), "who holds it is not known: somebody has to ask"
    assert book.next_in_line(A) == "k"
    assert not book.has_turn(A)
