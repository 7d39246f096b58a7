"""log() in signal handlers, and on a stack without room."""

from __future__ import annotations

import pytest

from hpctrack.stream.wire import journal


def test_a_signal_handler_may_log_too(programs):
    programs.execute("""
        import hpctrack, os, signal
        log = hpctrack.log
        count = depth = 0
        def handle(*_):
            global count, depth
            if depth < 20:  # a slow machine gets signals faster than it handles them
                depth += 1
                count += 1
                log(step=-count, loss=1.0)
                depth -= 1
        signal.signal(signal.SIGALRM, handle)
        signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
        for step in range(30_000):
            log(step=step, loss=0.5)
        signal.setitimer(signal.ITIMER_REAL, 0)
        print(count, file=open(os.environ["HPCTRACK_RUN_DIR"] + "/count", "w"))
    """)
    count = int((programs.folder / "count").read_text())
    assert count > 10 and programs.steps() == list(range(-count, 30_000))


#: Calls a function in the midst of another, before each of its instructions in our code, as a signal would.
AT_EVERY_INSTRUCTION = """
    import hpctrack, signal, sys
    from hpctrack.script import calls
    def interrupted(call, at, interrupt):
        seen = 0
        def trace(frame, event, _):
            nonlocal seen
            if "hpctrack" not in frame.f_code.co_filename:
                return None
            frame.f_trace_opcodes = True
            if event == "opcode":
                seen += 1
                if seen == at:
                    interrupt()
            return trace
        sys.settrace(trace)
        try:
            call()
        finally:
            sys.settrace(None)
        return seen
    def forget():
        calls._state.clear()
        calls._packers.clear()
"""


@pytest.mark.parametrize("first", [False, True])
def test_a_signal_handler_may_log_at_every_instruction_of_log(programs, first):
    """The first call opens the journal; others need only write."""
    programs.execute(f"""{AT_EVERY_INSTRUCTION}
    count = 0
    def nested():
        global count
        count += 1
        hpctrack.log(step=-count, loss=1.0)
    total = 1
    while count < total:
        if {first} or count == 0:
            forget()
        step = count
        total = interrupted(lambda: hpctrack.log(step=step, loss=0.5), count + 1, nested)
    """)
    steps = programs.steps()
    assert len(steps) > 200 and steps == list(range(-(len(steps) // 2), len(steps) // 2))


CALLS = {
    "log": "hpctrack.log(step=1, loss=0.5)",
    "log text": "hpctrack.log({'a': 'b c', 'd': {'e': 1}}, step=2, progress=0.5)",
    "set_args": "hpctrack.set_args(a=1, b={'c': [1.5]})",
    "set_tags": "hpctrack.set_tags('a', b=1)",
    "goal": "hpctrack.goal('a', 'max')",
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("kind", ["RuntimeError", "TimeoutError"])
def test_what_a_signal_handler_raises_is_not_swallowed(programs, call, kind):
    """A script that ends itself by an exception of its handler of SIGTERM must hear of it."""
    programs.execute(f"""{AT_EVERY_INSTRUCTION}
    class Preempted({kind}): pass
    def handle(*_): raise Preempted
    signal.signal(signal.SIGTERM, handle)
    at, swallowed = 0, []
    while True:
        at += 3
        forget()
        try:
            seen = interrupted(lambda: {call}, at, lambda: signal.raise_signal(signal.SIGTERM))
        except Preempted:
            continue
        if seen < at:
            break
        swallowed.append(at)
    assert at > 200 and not swallowed, (at, len(swallowed), swallowed[:9])
    """)


@pytest.mark.parametrize("before", ["", "hpctrack.log(step=-1, loss=1.0)"], ids=["first", "later"])
def test_a_stack_without_room_loses_nothing(programs, before):
    """Signal handlers that pile up, and deep recursions, leave no room to call anything."""
    programs.execute(f"""
        import hpctrack, os
        {before}
        begun = []
        def anything(): pass
        def down(depth):
            anything()
            begun[9999:] = [depth]
            hpctrack.log(step=depth, loss=0.5)
            hpctrack.set_tags(deep=True)
            begun[9999:] = [-1]
            down(depth + 1)
        try:
            down(0)
        except RecursionError:
            pass
        assert begun.count(-1) == len(begun) / 2, "raised into the script"
        print(max(begun), file=open(os.environ["HPCTRACK_RUN_DIR"] + "/count", "w"))
    """)
    last = int((programs.folder / "count").read_text())
    rows = [line.step for lines in programs.journals() for line in lines if isinstance(line, journal.Row)]
    assert last > 900 and sorted({*rows, -1}) == list(range(-1, last + 1))
