"""Programs in limited processes: what they compute, and what they must not get away with.

Every escape runs twice: with all that the machine allows, and without namespaces, as on a machine that allows none.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from surefoot.envs import confining
from surefoot.envs.confined import encoded
from surefoot.envs.confining import Confinement, Limits, confinement, run_confined, tried, words
from surefoot.envs.execution import Outcome, UnitTest, decoded, judge, run_program, run_programs
from surefoot.errors import ConfigError, DataError, EnvError

FAST = Limits(wall_s=20.0, cpu_s=1, memory_mb=128, disk_mb=1, output_kb=16)
SHORT = replace(FAST, wall_s=0.7)  # for what would not end by itself
RIGHT = "def f(x):\n    return x + 1"
PLAIN_PROCESS = tried(namespaces=False)


@dataclass(frozen=True)
class Run:
    """A way of running programs, and what they give up in it."""

    found: Confinement

    def __call__(self, code: str, *tests: str, limits: Limits = FAST) -> Outcome:
        parsed = [UnitTest.parsed(test) for test in tests]
        return judge(run_confined(code, [test.request for test in parsed], limits, self.found.namespaces), parsed)


@pytest.fixture(params=["all that is allowed", "without namespaces"])
def run(request: pytest.FixtureRequest) -> Run:
    if request.param == "all that is allowed" and not confinement().namespaces:
        pytest.skip("no namespaces here")
    return Run(confinement() if request.param == "all that is allowed" else PLAIN_PROCESS)


@pytest.fixture(autouse=True)
def nothing_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No folder of a program outlives a test, which has a place of its own for them: other processes of the suite run programs, too."""
    place = Path(tempfile.mkdtemp(prefix="surefoot-test-"))
    place.chmod(0o711)  # a program is another user, who must reach its folder
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    yield
    assert not list(place.glob("surefoot-program-*"))
    shutil.rmtree(place)


# --- right and wrong programs -----------------------------------------------------------------------------------------


def test_values_are_compared_here(run: Run) -> None:
    tests = (
        "assert f(1) == 2",
        "assert 4 == f(3)",
        "assert f(1) == 3",
        "assert abs(f(2) - 3) < 1e-9",
        "assert f(0) > 5",
        "assert f('a') == 1",
    )
    outcome = run(RIGHT, *tests)
    assert outcome.passed == (True, True, False, True, False, False)
    assert outcome.failures[2] == "f(1) gives 2, not 3"
    assert outcome.failures[4] == "AssertionError: "
    assert outcome.failures[5] is not None and outcome.failures[5].startswith("TypeError")
    assert outcome.ended is None and outcome.share == 0.5


def test_every_plain_value_survives_the_way_back(run: Run) -> None:
    value = {"a": [1, 2.5, None], (1, "x"): {3, 4}, "b": (True, b"\xff"), "c": {"dict": [[1, 2]]}}
    assert run(f"v = {value!r}", f"assert v == {value!r}").passed == (True,)
    assert run("v = (1, 2)", "assert v == [1, 2]", "assert v == (1, 2)").passed == (False, True)


def test_the_standard_library_is_there_and_nothing_else(run: Run) -> None:
    code = "import collections, json.tool, re, heapq, decimal, itertools, typing, dataclasses, bisect, encodings.idna"
    assert run(code, "assert len(collections.Counter('aab')) == 2").passed == (True,)
    assert "ModuleNotFoundError" in str(run("import numpy").ended)


def test_output_and_errors_are_told(run: Run) -> None:
    outcome = run("import sys\nprint('out')\nprint('err', file=sys.stderr)\n1 / 0", "assert True")
    assert outcome.ended == "ZeroDivisionError: division by zero"
    assert outcome.passed == (False,)
    assert run("print('one')", "assert True").output == "one\n"
    assert "SyntaxError" in str(run("def f(:", "assert f() == 1").ended)


def test_the_same_program_runs_once() -> None:
    job = ("import os\nn = os.urandom(8).hex()", [UnitTest("n", "'x'")])
    first, second, other = run_programs([job, job, ("n = 1", job[1])], FAST, allow_code_execution=True)
    assert first is second  # one run, one outcome
    assert other.failures == ("n gives 1, not 'x'",)


def test_programs_run_side_by_side() -> None:
    jobs = [(f"def f(x): return x + {i}", [UnitTest("f(1)", str(i + 1))]) for i in range(12)]
    assert all(outcome.share == 1.0 for outcome in run_programs(jobs, FAST, allow_code_execution=True, workers=4))


# --- escapes ----------------------------------------------------------------------------------------------------------


def test_a_fork_bomb_starts_nothing(run: Run) -> None:
    outcome = run("import os\nwhile True:\n    os.fork()", "assert True", limits=SHORT)
    assert outcome.passed == (False,)
    assert ("BlockingIOError" if run.found.user else "longer than") in str(outcome.ended)  # root's processes are ended, not prevented


def test_a_bomb_of_threads_starts_nothing(run: Run) -> None:
    outcome = run("import threading, time\nwhile True:\n    threading.Thread(target=time.sleep, args=(9,)).start()", "assert True")
    assert "RuntimeError: can't start new thread" in str(outcome.ended)


def test_a_bomb_within_its_limit_ends_with_the_program(run: Run) -> None:
    limits = Limits(wall_s=0.5, processes=8)
    outcome = run("import os\nwhile True:\n    try: os.fork()\n    except OSError: pass", "assert True", limits=limits)
    assert outcome.passed == (False,) and "longer than" in str(outcome.ended)


def test_a_memory_bomb_fails_alone(run: Run) -> None:
    assert "MemoryError" in str(run("x = bytearray(1 << 30)", "assert True").ended)
    assert run("x = []\nwhile True:\n    x.append(bytearray(1 << 20))", "assert True").passed == (False,)


@pytest.mark.parametrize(
    "code", ["while True: pass", "import time\ntime.sleep(60)", "import signal\nsignal.pause()", "f = lambda: f()\nf()"]
)
def test_what_does_not_end_is_ended(run: Run, code: str) -> None:
    assert run(code, "assert True", limits=SHORT).passed == (False,)


def test_a_loop_in_a_test_keeps_what_passed_before(run: Run) -> None:
    code = "def f(x):\n    while x > 1: pass\n    return x"
    outcome = run(code, "assert f(0) == 0", "assert f(1) == 1", "assert f(2) == 2", "assert f(0) == 0")  # until its second is over
    assert outcome.passed == (True, True, False, False)


def test_cpu_time_ends_what_ignores_signals(run: Run) -> None:
    code = """
import signal
for s in range(1, 32):
    try: signal.signal(s, signal.SIG_IGN)
    except (OSError, ValueError): pass
while True: pass
"""
    outcome = run(code, "assert True", limits=Limits(wall_s=8.0, cpu_s=1))
    assert outcome.passed == (False,) and "exit code" in str(outcome.ended)


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_huge_output_is_cut(run: Run, stream: str) -> None:
    outcome = run(f"import sys\nwhile True:\n    sys.{stream}.write('x' * 4096)", "assert True")
    assert outcome.passed == (False,) and "KiB" in str(outcome.ended)
    assert len(outcome.output) == 16 << 10


def test_a_huge_value_is_no_pass_and_no_burden(run: Run) -> None:
    assert run("x = 'x' * (1 << 24)", "assert x == 'x'").passed == (False,)
    assert run("x = []\nfor _ in range(900): x = [x]", "assert x == 1").passed == (False,)
    assert run("x = 10 ** 9000", "assert x == 1").passed == (False,)


def test_a_huge_file_is_refused(run: Run) -> None:
    code = "f = open('big', 'wb')\nwhile True:\n    f.write(b'x' * 65536)\n    f.flush()"
    assert "OSError" in str(run(code, "assert True").ended)


def test_many_files_are_refused() -> None:
    if not confinement().mounts:
        pytest.skip("the folder is on disk here, which `gaps` says")
    for size in (1, 100_000):
        code = f"for i in range(5000):\n    with open(str(i), 'wb') as f: f.write(b'x' * {size})"
        assert "No space left" in str(run_program(code, ["assert True"], FAST, allow_code_execution=True).ended)


def test_many_descriptors_are_refused(run: Run) -> None:
    assert "Too many open files" in str(run("x = [open('a', 'w') for _ in range(99)]", "assert True").ended)


def test_the_environment_has_no_secrets(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "hunter2")
    code = (
        "import glob, os\nfound = str(dict(os.environ))\nfor path in glob.glob('/proc/*/environ'):\n"
        "    try: found += open(path).read()\n    except OSError: pass"
    )
    assert run(code, "assert 'hunter2' in found").passed == (False,)
    assert run("import os", "assert [k for k in os.environ if k != 'LC_CTYPE'] == []").passed == (True,)


@pytest.mark.skipif(not confinement().landlock, reason="no Landlock here, which `gaps` says")
def test_files_of_others_are_fenced_off(run: Run, tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    secret = tmp_path / "secret"
    secret.write_text("hunter2")
    assert "PermissionError" in str(run(f"open({str(secret)!r}).read()", "assert True").ended)
    assert "PermissionError" in str(run(f"open({str(tmp_path / 'new')!r}, 'w')", "assert True").ended)
    assert "PermissionError" in str(run(f"import os\nos.remove({str(secret)!r})", "assert True").ended)
    assert "PermissionError" in str(run(f"import os\nos.listdir({str(Path.home())!r})", "assert True").ended)
    assert secret.read_text() == "hunter2"


def test_no_socket_reaches_a_server(run: Run) -> None:
    if not run.found.namespaces and run.found.landlock < 4:
        pytest.skip("neither namespaces nor Landlock here, which `gaps` says")
    with socket.create_server(("127.0.0.1", 0)) as server:
        code = f"import socket\nsocket.create_connection(('127.0.0.1', {server.getsockname()[1]}), timeout=0.3)"
        outcome = run(code, "assert True")
    assert outcome.passed == (False,) and outcome.ended is not None


def test_no_interface_is_up() -> None:
    if not confinement().namespaces:
        pytest.skip("no namespaces here")
    code = "import socket\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\ns.sendto(b'x', ('192.0.2.1', 53))"
    assert "Network is unreachable" in str(run_program(code, ["assert True"], FAST, allow_code_execution=True).ended)


@pytest.mark.parametrize("session", [False, True])
def test_no_child_is_left_alive(run: Run, session: bool) -> None:
    """A child of its own group, or of its own session where namespaces keep it in."""
    name = f"left-alive-{os.getpid()}"
    leave = "os.setsid()" if session else "pass"
    code = f"""
import ctypes, os, time
if os.fork() == 0:
    {leave}
    ctypes.CDLL(None).prctl(15, {name[:15].encode()!r}, 0, 0, 0)
    time.sleep(30)
"""
    run(code, "assert True", limits=Limits(wall_s=1.0, processes=4))
    time.sleep(0.05)
    left = _named(name[:15])
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left or (session and "outlive their time" in run.found.gaps[0])


def _named(name: str) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/comm"):
        try:
            if path.read_text().strip() == name and "State:\tZ" not in path.with_name("status").read_text():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def test_nobody_outside_can_be_killed(run: Run) -> None:
    """Neither the parent nor anyone else: not in sight, not our user, or kept in by Landlock (6 and up)."""
    if not (run.found.namespaces or run.found.landlock >= 6):
        pytest.skip("nothing keeps signals in here, which `gaps` says")
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as other:
        code = f"""
import os, signal
for pid in ({os.getpid()}, {other.pid}, os.getppid()):
    try: os.kill(pid, signal.SIGTERM)
    except OSError: pass
"""
        run(code, "assert True")
        assert other.poll() is None
        other.kill()


def test_it_can_only_end_itself(run: Run) -> None:
    for code in ("import os, signal\nos.kill(0, signal.SIGKILL)", "import os, signal\nos.kill(-1, signal.SIGKILL)"):
        assert run(code + "\nwhile True: pass", "assert True").passed == (False,)


@pytest.mark.parametrize("code", ["import os\nos.closerange(0, 64)", "import os\nfor i in range(3, 30):\n    os.dup2(2, i)"])
def test_closed_or_doubled_pipes_pass_nothing(run: Run, code: str) -> None:
    assert run(f"{code}\ndef f(x): return x", "assert f(1) == 1").passed == (False,)


def test_what_lives_on_with_closed_pipes_is_ended(run: Run) -> None:
    assert "longer than" in str(run("import os, time\nos.closerange(0, 64)\ntime.sleep(60)", "assert True", limits=SHORT).ended)


def test_no_descriptor_is_inherited(run: Run, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("hunter2")
    handle = os.open(secret, os.O_RDONLY)
    os.set_inheritable(handle, True)
    try:
        code = "import os\nseen = b''\nfor i in range(3, 64):\n    try: seen += os.pread(i, 99, 0)\n    except OSError: pass"
        assert run(code, "assert seen == b''", "assert len(open(0, 'rb').read()) == 0").passed == (True, True)
    finally:
        os.close(handle)


# --- forged verdicts --------------------------------------------------------------------------------------------------

FORGERIES = {
    "prints what a pass looks like": """
print('{"passed": true}')
print("passed", "PASS", "OK")
def f(x): return 0
""",
    "leaves with exit code 0": "import os\nos._exit(0)",
    "leaves politely": "import sys\nsys.exit(0)",
    "leaves in the test": "import os\ndef f(x): os._exit(0)",
    "raises what nothing catches": "def f(x): raise SystemExit(0)",
    "equals everything": """
class Same:
    def __eq__(self, other): return True
def f(x): return Same()
""",
    "an int that equals everything": """
class Same(int):
    def __eq__(self, other): return True
def f(x): return Same()
""",
    "looks like the answer": """
class Two:
    def __repr__(self): return "2"
def f(x): return Two()
""",
    "changes the built-ins": """
import builtins
builtins.eval = builtins.exec = builtins.compile = lambda *a: True
def f(x): return 0
""",
    "changes how results are told": """
import json, os
json.dumps = json.JSONEncoder.encode = lambda *a, **k: '{"passed": true, "value": 2}'
os.write = lambda fd, line: len(line)
def f(x): return 0
""",
    "writes to every pipe": """
import os
for i in range(32):
    try: os.write(i, b'x {"passed": true, "value": 3}\\n' * 3)
    except OSError: pass
def f(x): return 0
""",
    "searches its frames for the token": """
import os, sys
frame = sys._getframe()
while frame and "token" not in frame.f_locals: frame = frame.f_back
told = frame.f_locals
for _ in range(2): os.write(told["out"], (told["token"] + ' {"passed": true, "value": 0}\\n').encode())
os._exit(0)
""",
}


@pytest.mark.parametrize("code", FORGERIES.values(), ids=FORGERIES)
def test_forged_values_do_not_pass(run: Run, code: str) -> None:
    """Of comparisons with a literal none passes, whatever the program does, since it does not know the literal."""
    assert run(code, "assert f(1) == 2", "assert f(2) == 3").passed == (False, False)


@pytest.mark.parametrize("name", [name for name in FORGERIES if "token" not in name and "equals" not in name])
def test_statements_are_not_passed_by_printing_or_leaving(run: Run, name: str) -> None:
    """What is not covered for statements, and said so: objects that lie about equality, and who finds the token."""
    assert run(FORGERIES[name], "r = f(1)\nassert r == 2", "r = f(2)\nassert r == 3").passed == (False, False)


def test_expected_values_never_enter_the_process() -> None:
    asked = [
        UnitTest.parsed(test).request for test in ("assert f(1) == 123456", "assert 654321 == f(2)", "assert f(3) == [7777, 'secret']")
    ]
    assert not any(word in str(asked) for word in ("123456", "654321", "7777", "secret"))


# --- not root, other machines -----------------------------------------------------------------------------------------

AS_ANOTHER_USER = """
import sys, types
for name in ("surefoot", "surefoot.envs"):  # without gymnasium, which this Python may not have
    package = types.ModuleType(name)
    package.__path__ = [sys.argv[1] + "/" + name.replace(".", "/")]
    sys.modules[name] = package
from surefoot.envs.execution import Limits, confinement, run_program
found, limits = confinement(), Limits(wall_s=1.0, cpu_s=1)
run = lambda code, *tests: run_program(code, tests, limits, allow_code_execution=True)
assert found.user
print(found.namespaces, found.mounts, found.landlock)
outcome = run("def f(x): return x + 1", "assert f(1) == 2", "assert f(2) == 2")
assert outcome.passed == (True, False), outcome
if found.namespaces:
    assert "BlockingIOError" in run("import os\\nwhile True: os.fork()", "assert True").ended
    send = "import socket\\nsocket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('192.0.2.1', 53))"
    assert "unreachable" in run(send, "assert True").ended
    assert run("import os", "assert os.getpid() == 1", "assert os.getppid() == 0").passed == (True, True)
    assert run("import ctypes", "assert ctypes.CDLL(None).mount(b'n', b'/tmp', b'tmpfs', 0, None) == -1").passed == (True,)
if found.landlock:
    assert "PermissionError" in run("open('/etc/passwd')", "assert True").ended
    assert "PermissionError" in run("open('/tmp/written', 'w')", "assert True").ended
assert "MemoryError" in run("x = bytearray(1 << 30)", "assert True").ended
assert "longer" in run("import time; time.sleep(9)", "assert True").ended
"""


def test_the_same_holds_for_a_user_who_is_not_root() -> None:
    python = shutil.which("python3", path="/usr/bin:/usr/local/bin")
    if os.geteuid() != 0 or python is None:
        pytest.skip("this is root's test of another user")
    if subprocess.run([python, "-c", "import sys; sys.exit(sys.version_info < (3, 11))"], check=False).returncode:
        pytest.skip("the system's Python is older than ours")
    root, nobody = str(Path(confining.__file__).parents[2]), 65534
    command = [python, "-I", "-S", "-B", "-c", AS_ANOTHER_USER, root]
    try:
        done = subprocess.run(
            command, user=nobody, group=nobody, extra_groups=[], cwd="/", env={}, capture_output=True, text=True, check=False
        )
    except PermissionError:
        pytest.skip("another user cannot be had")
    if "Permission denied" in done.stderr or "No module named 'surefoot.envs." in done.stderr:
        pytest.skip("another user cannot read the source")
    assert done.returncode == 0, done.stderr


def test_gaps_are_said_in_sentences() -> None:
    assert Confinement(True, True, True, 6).gaps == []
    gaps = Confinement(False, False, False, 0, ("RLIMIT_AS",)).gaps
    assert len(gaps) == 5 and "network" in gaps[0] and "RLIMIT_AS" in gaps[-1]


def test_without_unshare_there_are_limits_still(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confining.shutil, "which", lambda name: None)
    found = confinement.__wrapped__()
    assert not found.namespaces and "network" in found.gaps[0]
    assert words(Limits(), False, None)[0] == sys.executable


def test_a_process_that_cannot_start_is_not_the_programs_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confining, "HARNESS", "raise RuntimeError('broken')")
    with pytest.raises(EnvError, match=r"did not start \((.|\n)*RuntimeError: broken"):
        run_confined("", [], FAST, False)


# --- bad input --------------------------------------------------------------------------------------------------------


def test_it_must_be_allowed() -> None:
    with pytest.raises(ConfigError, match="--allow-code-execution"):
        run_program(RIGHT, ["assert f(1) == 2"])
    with pytest.raises(ConfigError, match="no security sandbox"):
        run_programs([])


def test_bad_tests_and_limits_are_named() -> None:
    with pytest.raises(DataError, match="test 1 is no Python"):
        run_program(RIGHT, ["assert True", "assert f("], allow_code_execution=True)
    with pytest.raises(DataError, match="row 3 is empty"):
        UnitTest.parsed("  # nothing", "row 3")
    with pytest.raises(ConfigError, match="memory_mb of a program's limits is 1: it must be at least 64"):
        Limits(memory_mb=1)
    with pytest.raises(ConfigError, match=r"wall_s .* finite"):
        Limits(wall_s=float("inf"))


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**12), 10**12) | st.floats(allow_nan=False) | st.text(max_size=5) | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.tuples(inner, inner) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=100, deadline=None)
@given(PLAIN)
def test_encoding_keeps_values_and_their_types(value: object) -> None:
    back = decoded(encoded(value))
    assert back == value and repr(back) == repr(value)


@settings(max_examples=100, deadline=None)
@given(
    st.recursive(
        st.none() | st.integers() | st.text(), lambda i: st.lists(i, max_size=3) | st.dictionaries(st.text(), i, max_size=3), max_leaves=6
    )
)
def test_what_a_forger_sends_never_raises(sent: object) -> None:
    assert UnitTest("f(1)", "'never this'").failure({"value": sent}) is not None
