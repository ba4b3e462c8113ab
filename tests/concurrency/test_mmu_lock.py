"""mmu_lock on native threads: readers hold it through slots of their own, and a writer is alone all the same."""
import threading

import pytest

from tdpfast._testing.toys import LockTorture
from tdpfast.errors import UsageError

ROUNDS = 20_000


@pytest.mark.parametrize("readers, writers", [(1, 1), (3, 1), (1, 2), (2, 2)])
def test_writer_is_alone(readers, writers):
    lock = LockTorture(readers + writers)
    apart = []
    threads = [threading.Thread(target=lambda i=i: apart.append(lock.read(i, ROUNDS, nested=i % 2 == 1)))
               for i in range(readers)]
    threads += [threading.Thread(target=lock.write, args=(readers + i, ROUNDS)) for i in range(writers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert apart == [0] * readers
    assert lock.moved == (writers * ROUNDS,) * 2
    assert not lock.held


def test_writer_waits_for_every_reader():
    """Two hold it, one of them twice; the writer gets in when the last is gone, not before."""
    lock = LockTorture(3)
    for cpu in (0, 1, 1):
        lock.hold(cpu)
    writer = threading.Thread(target=lock.write, args=(2, 1))
    writer.start()
    for cpu in (1, 0, 1):
        writer.join(0.2)
        assert writer.is_alive() and lock.moved == (0, 0)
        lock.release(cpu)
    writer.join()
    assert lock.moved == (1, 1) and not lock.held


def test_lock_is_free_afterwards():
    """Nested or not, whoever read last leaves the lock to the next writer."""
    lock = LockTorture(2)
    assert lock.read(0, 1, nested=True) == 0
    assert not lock.held
    lock.write(1, 1)
    assert lock.read(0, 1) == 0
    assert lock.moved == (1, 1)


def test_bad_cpu():
    with pytest.raises(UsageError):
        LockTorture(0)
    with pytest.raises(UsageError):
        LockTorture(2).read(2, 1)
