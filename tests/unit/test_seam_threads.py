"""The same code on native threads: BUSY comes from contention alone, and nothing is lost."""
import threading

from tdpfast._testing.seam_bench import run
from tdpfast.seam import LEAVES, TdxModule

BUSY = 0x80000200_00000000
N = 512


def in_threads(*bodies):
    threads = [threading.Thread(target=body) for body in bodies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def built(tables):
    module = TdxModule()
    td = module.build_td(vcpus=2)
    for level in (3, 2):
        assert module.mem_sept_add(td, 0, level, module.new_page()).ok
    for i in range(tables):
        assert module.mem_sept_add(td, i << 21, 1, module.new_page()).ok
    return module, td


def until_done(module, lp, leaf, n, step_rcx, rcx, rdx, r8=0, log=None):
    """Each call until it is no longer BUSY; every other status ends up in log."""
    for i in range(n):
        while True:
            rax = module.native.seamcall(LEAVES[leaf], lp, rcx + i * step_rcx, rdx, r8 + i * 4096)[0]
            if rax & 0xFFFFFFFF_00000000 != BUSY:
                break
        log[rax] = log.get(rax, 0) + 1


def test_aug_and_block_of_disjoint_ranges():
    module, td = built(4)
    pages = module.new_page(2)
    logs = [{}, {}]
    in_threads(lambda: until_done(module, 1, "mem_page_aug", N, 4096, 0, td.tdr, pages, logs[0]),
               lambda: until_done(module, 2, "mem_page_aug", N, 4096, 1 << 21, td.tdr, pages + (2 << 21), logs[1]))
    assert logs == [{0: N}, {0: N}]
    logs = [{}, {}]
    in_threads(lambda: until_done(module, 1, "mem_range_block", N, 4096, 0, td.tdr, 0, logs[0]),
               lambda: until_done(module, 2, "mem_page_aug", N, 4096, 2 << 21, td.tdr, pages + (4 << 21), logs[1]))
    assert logs == [{0: N}, {0: N}]
    state = module.native.td(td.tdr)
    assert (state["tree_lock"], state["op_lock"]) == (0, 0)


def test_two_threads_one_page_each_entry_once():
    module, td = built(1)
    pages = module.new_page(2)
    logs = [{}, {}]
    in_threads(lambda: until_done(module, 1, "mem_page_aug", N, 4096, 0, td.tdr, pages, logs[0]),
               lambda: until_done(module, 2, "mem_page_aug", N, 4096, 0, td.tdr, pages + (1 << 21), logs[1]))
    won = logs[0].get(0, 0) + logs[1].get(0, 0)
    lost = sum(sum(log.values()) for log in logs) - won
    assert (won, lost) == (N, N)
    assert module.native.td(td.tdr)["chldcnt"] == 6 + 2 * 6 + 3 + N


def test_one_thread_is_never_busy():
    module, td = built(2)
    _, statuses = run(module.native, LEAVES["mem_page_aug"], 1024, 1, 0, 4096, td.tdr, module.new_page(2), 4096)
    assert statuses == {0: 1024}
    _, statuses = run(module.native, LEAVES["mem_range_block"], 1024, 1, 0, 4096, td.tdr)
    assert statuses == {0: 1024}
