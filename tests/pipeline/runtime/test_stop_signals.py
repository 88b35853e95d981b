"""Signals that ask a process to stop reach it whatever an environment does with them, and none reach what it forks."""

from collections.abc import Callable


def test_every_signal_is_heard_again_whoever_took_it(run_python: Callable[..., str]) -> None:
    printed = run_python("""
        import os, signal
        from pipeline.runtime.process import interruption
        takers = {
            "ignored": lambda number: signal.signal(number, signal.SIG_IGN),
            "default": lambda number: signal.signal(number, signal.SIG_DFL),
            "python": lambda number: signal.signal(number, signal.default_int_handler),
            "own": lambda number: signal.signal(number, lambda *_: None),
            "blocked": lambda number: signal.pthread_sigmask(signal.SIG_BLOCK, [number]),
        }
        for name, take in takers.items():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                held = interruption()
                take(number)
                held._held_at = 0.0  # as if a second had passed
                assert not held.is_set()
                os.kill(os.getpid(), number)
                assert held.wait(30.0) and held.by == number.name, (name, number)
                held.release()
                signal.pthread_sigmask(signal.SIG_UNBLOCK, [number])
        print(signal.getsignal(signal.SIGINT) is signal.default_int_handler, signal.getsignal(signal.SIGTERM))
    """)
    assert printed.split() == ["True", "0"], "the handlers of before are back"


def test_what_an_environment_forks_ends_when_it_is_told_to(run_python: Callable[..., str]) -> None:
    printed = run_python("""
        import multiprocessing, time
        from pipeline.runtime.process import interruption
        held, fork = interruption(), multiprocessing.get_context("fork")
        for pause in [0.0] * 20 + [0.05]:
            child = fork.Process(target=time.sleep, args=(1000,))
            child.start()
            time.sleep(pause)
            child.terminate()
            child.join(30.0)
            assert child.exitcode == -15, child
        print(held.is_set())
    """)
    assert printed.strip() == "False"


def test_a_hangup_counts_once_an_echo_not_at_all_and_nohup_is_respected(run_python: Callable[..., str]) -> None:
    printed = run_python("""
        import os, signal, subprocess, sys, threading, time
        from pipeline.runtime.process import interruption
        held, me = interruption(), os.getpid()
        seen = []
        for numbers, pause in (([1, 1], 0.0), ([15, 15], 0.0), ([1], 0.1), ([2], 0.1)):
            time.sleep(pause)
            for number in numbers:
                os.kill(me, number)
            seen.append(held.requests)
        print(*seen)
        held.release()
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        code = "import signal; from pipeline.runtime.process import interruption as i; i(); print(signal.getsignal(1))"
        print(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip())
        elsewhere = []
        thread = threading.Thread(target=lambda: elsewhere.append(interruption().is_set()))
        thread.start(), thread.join()
        print(elsewhere)
    """)
    assert printed.splitlines() == ["1 1 1 2", str(1), "[False]"]
