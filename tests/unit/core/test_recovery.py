"""A crash between a permit and its commit: the last writer is shut out of the table before the log is believed."""

from __future__ import annotations

from executor_world import Made, World, spec

from sluicegate.core.ports import Writer

A = "bronze.a"


def crashed(made: Made) -> tuple[World, str]:
    """The task had a permit when its executor died; the next one has asked for the log, and waits for an answer."""
    world = made(spec(A))
    job_id = world.run()
    world.ask_permit(A)
    world.boot(recover=False)
    world.aside.held = True
    world.executor._agenda.post(world.executor._lease.scan)
    world.settle()
    return world, job_id


def go_on(world: World, *, once: bool = False) -> None:
    """What was read aside is told, and acted on."""
    world.aside.held = once
    world.aside.release()
    world.settle()


def test_the_last_writer_is_shut_out_durably_before_the_table_is(made: Made) -> None:
    """It may only be out of reach: were the table asked first, a crash would leave an epoch that nobody knows of."""
    world, job_id = crashed(made)
    assert world.tables.fences == {}
    go_on(world, once=True)
    [writer] = world.store.held_writers()
    assert (writer.epoch, world.task(job_id, A).epoch) == (2, 2)
    assert world.tables.fences == {}
    go_on(world)
    assert world.tables.fences == {A: 2}
    assert (world.live(A).epoch, world.live(A).attempt) == (3, 2)


def test_a_table_whose_epoch_was_raised_meanwhile_is_read_again_and_then_shut(made: Made) -> None:
    """A restored store learns the epochs from the lake; to go on with the old one would shut out nobody."""
    world, _ = crashed(made)
    world.store.raise_epochs({A: 7})
    go_on(world)
    assert world.tables.fences == {A: 8}
    assert (world.live(A).epoch, world.live(A).attempt) == (9, 2)


def test_who_loses_the_job_while_it_shuts_a_writer_out_leaves_the_table_alone(made: Made) -> None:
    """Another executor has the job and its table by the time that the decision is heard of."""
    world, job_id = crashed(made)
    world.ledger.held = True
    go_on(world)
    asked = list(world.tables.asked)
    world.executor.wake(job_id)
    world.ledger.held = False
    world.ledger.release()
    world.steal(job_id)
    world.settle()
    assert job_id not in world.executor._held
    assert world.tables.asked == asked
    assert world.tables.fences == {}


def test_who_has_lost_the_job_before_shuts_nobody_out(made: Made) -> None:
    """The log was slow, and the lease is another's: the table is that one's to take."""
    world, job_id = crashed(made)
    world.steal(job_id)
    go_on(world)
    [writer] = world.store.held_writers()
    assert (writer, world.tables.fences) == (
        Writer(A, 1, job_id, writer.task_id, revision=writer.revision),
        {},
    )
    assert job_id not in world.executor._held
