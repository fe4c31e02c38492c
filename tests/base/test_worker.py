"""The child process itself, with a child that imports no more than tfopt.base; its functions are in a module below."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tfopt.base import worker
from tfopt.base.worker import DiedError, NotStartedError, OverdueError, Worker

DOORS = """
import os, sys, time
from tfopt.base import worker

def echo(value): return value
def slowly(value): time.sleep(value / 1000); return value
def noise(): print("noise on standard output"); os.system("echo noise of a process"); return 7
def process(): return [os.getpid(), os.environ.get("EXTRA")]
def say(text): print(text, file=sys.stderr, flush=True)
def hang(): time.sleep(100)
def leave(status): os._exit(status)
def say_and_leave(text, status): say(text); leave(status)
def leave_late(status):
    os.closerange(0, 2)
    os.closerange(3, 100)
    time.sleep(1)
    os._exit(status)

def served(request): return globals()[request["name"]](*request["values"])
def serve(): worker.answer(served, lambda: None)
def serve_late(): worker.answer(served, lambda: time.sleep(100))
def serve_never(): print("Why it does not start.", file=sys.stderr); sys.exit(4)
def serve_a_while(): say("Why it does not start."); time.sleep(2); sys.exit(4)
def serve_silently(): sys.exit(5)
def serve_loudly(): worker.answer(served, lambda: say("loading"))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("doors")
    (made / "worker_doors.py").write_text(DOORS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(made))
        yield made


@pytest.fixture
def child(folder):
    """A function that makes a worker for one of the functions that serve."""
    made = []

    def make(serve="serve", environment=None, **options):
        made.append(Worker(f"worker_doors:{serve}", environment or {}, **options))
        return made[-1]

    yield make
    for one in made:
        one.stop()


def ask(worker, name, *values, seconds=60):
    return worker.ask({"name": name, "values": values}, seconds)


def test_one_process_answers_all_requests(child):
    one = child(environment={"EXTRA": "more"})
    first, second = ask(one, "process"), ask(one, "process")
    assert first == second == [one.start().pid, "more"] and first[0] != os.getpid()
    assert ask(one, "echo", {"a": [1, None, "text\n"]}) == {"a": [1, None, "text\n"]}


def test_prints_are_no_answers(child):
    one = child()
    assert [ask(one, "noise"), ask(one, "echo", 1)] == [7, 1]


def test_requests_of_several_threads_get_their_own_answers(child):
    one, wrong = child(), []

    def asked(number):
        wrong.extend(value for value in range(number, number + 40) if ask(one, "slowly", value % 3) != value % 3)
        wrong.extend(value for value in range(number, number + 40) if ask(one, "echo", value) != value)

    threads = [threading.Thread(target=asked, args=(1000 * number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert wrong == [] and not any(thread.is_alive() for thread in threads)


@pytest.mark.parametrize(("listens", "said"), [(True, "the reason"), (False, "")])
def test_a_death_has_a_status_and_the_last_words(child, listens, said):
    one = child(listens=listens)
    with pytest.raises(DiedError) as caught:
        ask(one, "say_and_leave", "the reason", 3)
    assert (caught.value.status, caught.value.said) == (3, said)


def test_words_of_an_earlier_request_explain_nothing(child):
    one = child("serve_loudly")
    ask(one, "say", "old words")
    ask(one, "say", "older words")
    with pytest.raises(DiedError) as caught:
        ask(one, "leave", 3)
    assert (caught.value.status, caught.value.said) == (3, "")
    assert ask(one, "echo", 1) == 1  # another child
    with pytest.raises(DiedError):
        ask(one, "leave", 0)


def test_the_status_of_a_child_that_exits_after_its_pipe_is_closed(child):
    one = child()
    ask(one, "echo", 1)
    with pytest.raises(DiedError) as caught:
        ask(one, "leave_late", 3)
    assert caught.value.status == 3


def test_only_the_end_of_long_words_is_kept(child):
    one = child()
    ask(one, "say", "a" * 5000 + "b" * 3998 + "\nc")
    assert one._said() == "b" * 3997 + "\nc"


def test_a_child_that_is_overdue_or_interrupted_is_stopped(child, monkeypatch):
    one = child()
    ask(one, "echo", 1)
    process = one.start()
    with pytest.raises(OverdueError):
        ask(one, "hang", seconds=0.2)
    assert process.poll() == -signal.SIGKILL and process.stdin.closed and process.stdout.closed
    assert ask(one, "process")[0] != process.pid


@pytest.mark.parametrize(
    ("serve", "words"),
    [
        ("serve_never", r"^exit status 4; Why it does not start\.$"),
        ("serve_silently", "^exit status 5$"),
        ("serve_not", "^exit status 1; ImportError: cannot import name 'serve_not'"),
    ],
)
def test_a_child_that_does_not_start_says_why(child, serve, words):
    with pytest.raises(NotStartedError, match=words):
        ask(child(serve), "echo", 1)


def test_words_from_before_the_first_request_explain_why_a_child_does_not_start(child):
    one = child("serve_a_while")
    one.start()
    end = time.monotonic() + 30
    while not one._said() and time.monotonic() < end:
        time.sleep(0.05)
    with pytest.raises(NotStartedError, match=r"^exit status 4; Why it does not start\.$"):
        ask(one, "echo", 1)


def test_a_child_that_starts_too_slowly(child, monkeypatch):
    monkeypatch.setattr(worker, "STARTING", 0.5)
    one = child("serve_late")
    process = one.start()
    with pytest.raises(NotStartedError, match=r"^it was not ready after 0\.5 seconds$"):
        ask(one, "echo", 1)
    assert process.poll() is not None


def test_a_child_that_the_system_refuses(child):
    with pytest.raises(NotStartedError):
        child(environment={"EXTRA": 3}).start()


def test_a_child_is_started_once_and_again_after_its_death(child):
    one = child()
    first = one.start()
    assert one.start() is first
    first.kill()
    first.wait()
    second = one.start()
    assert second is not first and ask(one, "process")[0] == second.pid
    one.stop()
    one.stop()
    assert second.poll() == -signal.SIGKILL and one._process is None


@pytest.mark.skipif(os.name != "posix", reason="forks and sessions")
def test_a_fork_does_not_stop_the_child_of_its_parent(child):
    one = child()
    before = ask(one, "process")
    fork = os.fork()
    if not fork:
        one.stop()
        os._exit(0)
    os.waitpid(fork, 0)
    assert ask(one, "process") == before
    assert os.getsid(before[0]) == before[0] != os.getsid(0)  # Ctrl-C goes to the caller alone


def test_modules_in_the_current_folder_are_not_imported(child, tmp_path, monkeypatch):
    (tmp_path / "json.py").write_text("raise SystemExit('the wrong module')")
    monkeypatch.chdir(tmp_path)
    assert ask(child(), "echo", 1) == 1


PARENT = """
import os, threading, time
from tfopt.base.worker import Worker
one = Worker("worker_doors:serve", {})
print(one.ask({"name": "process", "values": []}, 60)[0], flush=True)
threading.Thread(target=one.ask, args=({"name": "hang", "values": []}, 90)).start()
time.sleep(0.5)
os._exit(0)
"""


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_child_ends_with_its_parent(folder):
    environment = {**os.environ, "PYTHONPATH": worker.search_path()}
    done = subprocess.run([sys.executable, "-c", PARENT], env=environment, capture_output=True, text=True, check=True)
    end = time.monotonic() + 30
    with pytest.raises(ProcessLookupError):
        while time.monotonic() < end:
            os.kill(int(done.stdout), 0)
            time.sleep(0.1)


def test_each_process_has_its_own_worker(monkeypatch):
    monkeypatch.setattr(worker, "_WORKERS", {})
    made = []

    def make():
        made.append(object())
        return made[-1]

    assert worker.of_this_process(make) is worker.of_this_process(make) is made[0]
    assert worker.of_this_process(lambda: 5) == 5
    here = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: here + 1)
    assert worker.of_this_process(make) is made[1] and len(made) == 2


def test_relative_folders_do_not_reach_the_child(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["relative", "/absolute", "", "./here", "/other"]))
    here, *others = worker.search_path().split(os.pathsep)
    assert others == ["/absolute", "/other"] and Path(here, "tfopt/base/worker.py").samefile(worker.__file__)
    monkeypatch.delenv("PYTHONPATH")
    assert worker.search_path() == here


@pytest.mark.parametrize(
    ("status", "cause"),
    [
        (None, "exit status None"), (0, "exit status 0"), (3, "exit status 3"), (-11, "segmentation fault"),
        (-6, "abort"), (-8, "division by zero"), (-7, "bus error"), (-4, "illegal instruction"),
        (-9, "killed by the system, for example because memory ran out"), (-15, "SIGTERM"), (-1, "SIGHUP"),
        (-99, "signal 99"),
    ],
)  # fmt: skip
def test_causes_in_words(status, cause):
    assert DiedError(status, "").cause == cause


@pytest.mark.parametrize(
    ("said", "line"),
    [
        ("", ""),
        (" \n\n", ""),
        ("first\n  second  \n", "second"),
        ("why\n    @ 0x1234 f\n*** Aborted\nPC: @ 0x0\n#0 main\n", "why"),
        ("x" * 400, "x" * 300),
    ],
)
def test_the_last_line_that_explains(said, line):
    assert DiedError(-6, said).last_line == line


def test_a_door_is_a_function_of_a_module():
    assert worker.door("os.path:join") is os.path.join
