"""The exploration engine on toy programs whose answers are known."""

import signal

import pytest

from tdpfast._explore.explorer import KIND_NAMES, Explorer
from tdpfast._testing import toys as toys
from tdpfast.errors import UsageError

CHECK_AGREE, CHECK_LIFE, CHECK_PROGRESS, CHECK_STAT = 1, 2, 16, 32
EXHAUSTIVE = ("dpor", "sleep", "dfs")


def run(program, strategy="dpor", **options):
    return Explorer(program, strategy, **options).run()


def counter(locked):
    body = [("add", 0, 1)]
    if locked:
        body = [("lock", 0), *body, ("unlock", 0)]
    return toys.script([body, body], counter=2)


def random_results(seed, **shape):
    """The three exhaustive searches of one random program; None if plain search is too long."""
    program = toys.script(toys.random_threads(seed, **shape), rcu=shape.get("rcu", False))
    plain = Explorer(program, "dfs", max_executions=100_000)
    want = plain.run()
    if not want["complete"]:
        return None
    found = [(plain.states(), want["checks"])]
    for strategy in ("sleep", "dpor"):
        explorer = Explorer(program, strategy)
        result = explorer.run()
        assert result["complete"]
        found.append((explorer.states(), result["checks"]))
    return found


SHAPES = {
    "words": dict(loops=False, bugs=False, locks=0, threads=3),
    "locks": dict(loops=False, bugs=False),
    "loops": dict(words=1, locks=1, length=5),
    "bugs": dict(),
    "rcu": dict(rcu=True, words=1, locks=1),
    "four": dict(threads=4, length=2),
    "rcu-locks": dict(rcu=True, threads=3, length=3, words=1, loops=False),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_reduction_reaches_the_final_states_of_plain_search(shape):
    compared = 0
    for seed in range(250):
        results = random_results(seed, **SHAPES[shape])
        if results is None:
            continue
        compared += 1
        assert results[0] == results[1] == results[2], f"seed {seed}"
    assert compared > 200


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
def test_reduction_reaches_the_final_states_of_plain_search_many(shape):
    for seed in range(1000, 5000):
        results = random_results(seed, **SHAPES[shape])
        assert results is None or results[0] == results[1] == results[2], f"seed {seed}"


@pytest.mark.parametrize("strategy", EXHAUSTIVE)
def test_racy_counter_loses_an_update(strategy):
    result = run(counter(False), strategy)
    assert result["complete"] and result["checks"] == CHECK_STAT


@pytest.mark.parametrize("strategy", EXHAUSTIVE)
def test_locked_counter_holds(strategy):
    result = run(counter(True), strategy)
    assert result["complete"] and result["checks"] == 0 and result["states"] == 1


def test_reduction_needs_one_execution_per_class():
    """Two threads on different words: one class; plain search runs all C(4, 2) orders."""
    program = toys.script([[("store", 0, 1), ("store", 0, 2)], [("store", 1, 1), ("store", 1, 2)]])
    assert run(program, "dfs")["executions"] == 6
    assert run(program, "dpor")["executions"] == 1


@pytest.mark.parametrize("strategy", EXHAUSTIVE)
def test_freeze_protocol(strategy):
    assert run(toys.freeze(1), strategy)["checks"] == 0
    assert run(toys.freeze(1, broken=True), strategy)["checks"] == CHECK_AGREE


def test_freeze_protocol_of_two_mappers_is_complete():
    result = run(toys.freeze(2))
    assert result["complete"] and result["checks"] == 0 and result["states"] == 9


def test_two_spin_locks_taken_crosswise_deadlock():
    program = toys.script(
        [
            [("lock", 0), ("lock", 1), ("unlock", 1), ("unlock", 0)],
            [("lock", 1), ("lock", 0), ("unlock", 0), ("unlock", 1)],
        ]
    )
    result = run(program)
    assert result["complete"] and result["checks"] == CHECK_PROGRESS and result["ends"]["stuck"] > 0


def test_writer_blocked_by_two_readers_goes_first_somewhere():
    """The writer stands behind both readers for good: the search must still try it before them."""
    program = toys.script([[("rlock", 0)], [("rlock", 0)], [("wlock", 0), ("store", 1, 7), ("wunlock", 0)]])
    results = [run(program, strategy) for strategy in EXHAUSTIVE]
    assert all("done" in r["ends"] and "stuck" in r["ends"] for r in results)
    assert len({r["states"] for r in results}) == 1


READER = [("store", 1, 1), ("look", 0)]
IN_SECTION = [("rcu",), *READER, ("end_rcu",)]
FREE_LATER = [("await", 1, 1), ("call_rcu", 0)]     # only once the reader is where it is


@pytest.mark.parametrize(
    ("reader", "grace", "want"), [(IN_SECTION, True, 0), (IN_SECTION, False, CHECK_LIFE), (READER, True, CHECK_LIFE)]
)
def test_page_freed_under_a_reader(reader, grace, want):
    """Safe inside a read section that call_rcu() waits for; not without the section, not without the wait."""
    result = run(toys.script([reader, FREE_LATER], rcu=True, grace=grace))
    assert result["complete"] and result["checks"] == want


def test_barrier_waits_for_the_callback():
    program = toys.script([[("call_rcu", 0), ("barrier",), ("store", 0, 1)], [("rcu",), ("end_rcu",)]], rcu=True)
    result = run(program)
    assert result["complete"] and result["checks"] == 0


def test_loop_that_nobody_ends_is_a_livelock():
    result = run(toys.script([[("await", 0, 1)], [("store", 0, 2)]]))
    assert result["complete"] and result["checks"] == CHECK_PROGRESS


def test_loop_that_somebody_ends_is_none():
    result = run(toys.script([[("await", 0, 1)], [("store", 0, 1)]]))
    assert result["complete"] and result["checks"] == 0


def test_livelock_pair_is_found_and_its_search_not_called_complete():
    """Each toggles a word the other looks at, for ever."""
    result = run(toys.script([[("spin", 0, 2)], [("spin", 0, 2)]]), max_executions=100)
    assert result["checks"] == CHECK_PROGRESS and not result["complete"]


def test_unfair_spinning_proves_nothing():
    """The third thread ends it once the others rest: no livelock, but not everything was explored either."""
    program = toys.script([[("spin", 0, 2)], [("spin", 0, 2)], [("store", 2, 1)]])
    result = run(program, max_executions=1)
    assert result["checks"] == 0 and not result["complete"] and result["ends"] == {"done": 1}


def test_bug_ends_the_execution_but_hides_nothing():
    program = toys.script([[("bug_if", 0)], [("store", 0, 5), ("add", 0, 1)]], counter=6)
    result = run(program)
    assert result["complete"] and result["ends"]["abort"] > 0 and result["states"] == run(program, "dfs")["states"]


def test_step_bound_makes_the_answer_unknown():
    result = run(counter(True), max_steps=3)
    assert not result["complete"] and result["ends"] == {"steps": result["executions"]}


def test_hooks_run_on_the_scheduler_stack():
    program = toys.script([[("hook", 7)], [("hook", 8)]])
    assert run(program)["executions"] == 2
    assert program.hooks == [(0, 7), (1, 8), (1, 8), (0, 7)]


def test_preemption_bound_finds_the_race_with_one_preemption():
    assert run(counter(False), "bound", bound=0)["checks"] == 0
    result = run(counter(False), "bound", bound=1)
    assert result["checks"] == CHECK_STAT and result["exhausted"] and not result["complete"]
    assert run(counter(False), "bound", bound=9)["complete"]


@pytest.mark.parametrize("strategy", ["random", "pct"])
def test_seeded_walks_find_the_seeded_bug(strategy):
    results = [run(toys.freeze(2, broken=True), strategy, seed=s, max_executions=200) for s in range(50)]
    assert all(r["checks"] == CHECK_AGREE and not r["complete"] for r in results)
    again = run(toys.freeze(2, broken=True), strategy, seed=7, max_executions=200)
    assert again["failures"] == results[7]["failures"]


def test_ranges_of_one_seed_add_up():
    whole = run(toys.freeze(2, broken=True), "random", seed=3, max_executions=300)
    parts = [run(toys.freeze(2, broken=True), "random", seed=3, first=n, max_executions=100) for n in (0, 100, 200)]
    best = min((p["failures"][CHECK_AGREE] for p in parts), key=len)
    assert whole["transitions"] == sum(p["transitions"] for p in parts)
    assert len(whole["failures"][CHECK_AGREE]) <= len(best) or whole["checks"] == CHECK_AGREE


def test_stop_conditions():
    broken = toys.freeze(2, broken=True)
    assert run(broken, stop_first=True)["ends"]["done"] < run(broken)["executions"]
    assert run(broken, wanted=CHECK_AGREE)["finished"]
    limited = run(toys.freeze(3), max_seconds=0.05)
    assert limited["timed_out"] and not limited["complete"] and limited["seconds"] < 5


@pytest.mark.parametrize("bad", [{"strategy": "magic"}, {"depth": 0}, {"max_steps": 0}, {"retry_bound": 0}])
def test_arguments_are_checked(bad):
    with pytest.raises(UsageError):
        Explorer(counter(True), **bad)


def test_replay_repeats_every_step():
    explorer = Explorer(counter(False))
    schedule = explorer.run()["failures"][CHECK_STAT]
    first, second = explorer.replay(schedule), explorer.replay(schedule)
    assert first == second and first["checks"] == CHECK_STAT and first["schedule"] == schedule
    kinds = [KIND_NAMES[step[1]] for step in first["steps"]]
    assert sorted(kinds) == ["load", "load", "store", "store"]


def test_replay_writes_every_step_into_the_trace():
    program = counter(True)
    explorer = Explorer(program)
    explorer.run()
    assert program.trace == []        # a search records nothing
    steps = explorer.replay(b"\0" * 4 + b"\1" * 4)["steps"]
    ev_step = {event[0] for event in program.trace}
    assert len(ev_step) == 1 and [event[2] for event in program.trace] == list(range(8))
    assert [(e[1], e[3], e[4], e[5]) for e in program.trace] == steps
    loads = [value for _, kind, _, value in steps if KIND_NAMES[kind] == "load"]
    assert loads == [0, 1]


def test_check_between_operations():
    thread = [("store", 0, 5), ("op",), ("store", 0, 2)]
    assert run(toys.script([thread], counter=2))["checks"] == 0
    assert run(toys.script([thread], counter=2, every=True))["checks"] == CHECK_STAT


def test_interrupt_leaves_the_explorer_usable():
    explorer = Explorer(toys.freeze(4), "random", max_executions=10**9)
    old = signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    try:
        with pytest.raises(KeyboardInterrupt):
            explorer.run()
    finally:
        signal.signal(signal.SIGALRM, old)
    assert 0 < explorer.result()["executions"] < 10**9
    assert explorer.replay(b"", follow=True)["end"] == "done"


def test_replay_of_a_schedule_that_does_not_fit_diverges():
    explorer = Explorer(counter(True))
    assert explorer.replay(b"\0\1\1\1")["end"] == "diverged"
    assert explorer.replay(b"\0\1\1\1", follow=True)["end"] == "done"
    assert explorer.replay(b"\0" * 50)["end"] == "diverged"


@pytest.mark.resident
def test_hundred_thousand_executions_do_not_grow():
    def resident():
        with open("/proc/self/statm") as f:
            return int(f.read().split()[1])

    program = toys.freeze(2)
    run(program, "dfs", max_executions=1000)
    before = resident()
    run(program, "dfs", max_executions=100_000)
    for _ in range(50):
        run(program, max_executions=10)
    assert resident() - before < 512      # pages: 2 MiB


@pytest.mark.parametrize("strategy", EXHAUSTIVE)
def test_the_beginnings_of_schedules_cover_them_all(strategy):
    """What follows the one or the other first step is all there is."""
    compared = 0
    for seed in range(40):
        program = toys.script(toys.random_threads(seed, words=1, locks=1, length=3))
        whole = Explorer(program, strategy)
        if whole.run()["complete"] and whole.result()["max_depth"] > 0:
            parts, seen = [], set()
            for agent in range(program.nthreads):
                part = Explorer(program, strategy, prefix=bytes([agent]))
                result = part.run()
                if result["ends"].get("diverged"):
                    continue                # this thread has nothing to do, or stands at once
                assert all(s[:1] == bytes([agent]) for s in result["failures"].values())
                parts.append(result)
                seen.update(part.states())
            assert seen == set(whole.states()), f"seed {seed}"
            assert strategy != "dfs" or sum(p["executions"] for p in parts) == whole.result()["executions"]
            compared += 1
    assert compared > 30


@pytest.mark.parametrize("shape", SHAPES)
def test_a_tree_in_pieces_is_the_whole_tree(shape):
    """Sleep sets find each class once, so in one piece or many there are as many executions; DPOR finds all as well."""
    compared = several = 0
    for seed in range(60):
        shapes = SHAPES[shape]
        program = toys.script(toys.random_threads(seed, **shapes), rcu=shapes.get("rcu", False))
        for strategy in ("sleep", "dpor"):
            whole = Explorer(program, strategy, max_executions=5000)
            want = whole.run()
            if not want["complete"]:
                continue
            for pieces in (1, 2, 9):
                parts = [Explorer(program, strategy, prefix=prefix, asleep=asleep)
                         for prefix, asleep in whole.cut(pieces)]
                results = [part.run() for part in parts]
                assert all(r["complete"] and not r["ends"].get("diverged") for r in results), f"seed {seed}"
                assert {s for part in parts for s in part.states()} == set(whole.states()), f"seed {seed}"
                executions = sum(r["executions"] for r in results)
                assert executions == want["executions"] if strategy == "sleep" else executions >= want["executions"]
                assert len(parts) >= min(pieces, want["executions"]) or strategy == "dpor"
                checks = 0
                for r in results:
                    checks |= r["checks"]
                assert checks == want["checks"]
                several += len(parts) > 1
            compared += 1
    assert compared > 60 and several > 60


def test_what_cannot_be_cut():
    with pytest.raises(UsageError, match="only searches by dependence"):
        Explorer(counter(True), "dfs").cut(2)
    for pieces in (0, -1, 1 << 21, "2", None, 2.0):
        with pytest.raises(UsageError, match="pieces"):
            Explorer(counter(True)).cut(pieces)
    for options in ({"asleep": 1}, {"asleep": 1, "prefix": b"\0", "strategy": "dfs"}):
        with pytest.raises(UsageError, match="agents sleep at the last step"):
            Explorer(counter(True), **options)
    for asleep in (-1, 1 << 17, "1", None):
        with pytest.raises(UsageError, match="asleep"):
            Explorer(counter(True), asleep=asleep, prefix=b"\0")


def test_a_beginning_that_does_not_fit():
    for strategy in ("dpor", "bound", "random", "pct"):
        result = run(counter(True), strategy, prefix=b"\0\1\1\1", max_executions=2)
        assert not result["complete"] and result["ends"]["diverged"] > 0, strategy


def test_walks_begin_with_the_prefix():
    for strategy in ("random", "pct"):
        explorer = Explorer(counter(False), strategy, prefix=b"\1\0", max_executions=20, seed=3)
        found = {explorer.step()["schedule"] for _ in range(20)}
        assert explorer.step() is None and all(s[:2] == b"\1\0" for s in found)


def test_steps_are_what_run_does():
    whole = run(toys.freeze(2, broken=True))
    explorer = Explorer(toys.freeze(2, broken=True))
    ends = []
    assert explorer.progress() == 0.0
    while (one := explorer.step()) is not None:
        assert 0 <= explorer.progress() <= 1 and bool(one["checks"]) == (one["checks"] == CHECK_AGREE)
        ends.append(one["end"])
    result = explorer.result()
    assert explorer.progress() == 1.0 and result["complete"]
    assert {**result, "seconds": 0} == {**whole, "seconds": 0}
    assert {end: ends.count(end) for end in set(ends)} == whole["ends"]


def test_progress_is_told_while_a_search_runs():
    seen = []
    explorer = Explorer(toys.freeze(4), "random", max_executions=60_000)
    explorer.run(lambda e: seen.append(e.progress()))
    assert seen and seen == sorted(seen) and seen[0] > 0 and explorer.progress() == 1.0
