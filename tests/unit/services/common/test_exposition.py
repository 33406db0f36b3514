"""Series of several processes in one folder, and who answers for them."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from services.common import exposition
from services.common.exposition import clear_series
from services.common.settings import CommonSettings
from tests.support.full_disk import fill, small_disk
from tests.support.servers.edge import free_ports
from tests.support.servers.series import parsed, series

WRITER = """
import sys
from pathlib import Path
from prometheus_client import Counter, Gauge, Histogram
from services.common.exposition import GAUGE_OF_ALL, GAUGE_OF_ONE, expose
from services.common.settings import CommonSettings

role, folder, port = sys.argv[1:]
counter = Counter("calls_total", "Calls.", ("application",), registry=None)
seconds = Histogram("seconds", "Seconds.", ("application",), buckets=(1, 2), registry=None)
expose(role, CommonSettings(metrics_dir=Path(folder), metrics_port=int(port)))
busy = Gauge("busy", "Busy.", multiprocess_mode=GAUGE_OF_ALL, registry=None)
jobs = Gauge("jobs", "Jobs.", ("kind",), multiprocess_mode=GAUGE_OF_ONE, registry=None)
for line in sys.stdin:
    counter.labels("a").inc()
    seconds.labels("a").observe(1.5)
    busy.set(1)
    jobs.labels("study").set(float(line))
    print("written", flush=True)
"""


class Writer:
    """A process that writes series whenever it is told to."""

    def __init__(self, role: str, folder: Path, port: int = 0) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", WRITER, role, str(folder), str(port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def write(self, jobs: int = 1) -> None:
        """Counts a call; returns when that is in the files."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(f"{jobs}\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == "written\n"

    def kill(self) -> None:
        """Ends it without a chance to clean up."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe
            with suppress(OSError):
                pipe.close()


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Callable[..., Writer]]:
    """Starts writers, and ends those that still run."""
    writers = []

    def start(role: str, port: int = 0) -> Writer:
        writers.append(Writer(role, tmp_path, port))
        return writers[-1]

    yield start
    for writer in writers:
        writer.kill()


def scraped(port: int) -> dict[str, float]:
    """All series that the port serves; empty while nobody does."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with suppress(OSError), direct.open(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        return parsed(answer.read().decode())
    return {}


def test_counters_survive_a_killed_process_and_its_gauges_do_not(tmp_path, started) -> None:
    first, other = started("classifier"), started("trainer")
    first.write()
    other.write()
    assert series(tmp_path)['calls_total{application="a"}'] == 2
    assert series(tmp_path)["busy"] == 2
    first.kill()
    found = series(tmp_path)
    assert found['calls_total{application="a"}'] == 2
    assert found['seconds_bucket{application="a",le="2.0"}'] == 2
    assert found["busy"] == 1


def test_the_next_process_counts_on_in_the_same_files(tmp_path, started) -> None:
    writer = started("classifier")
    writer.write()
    names = sorted(path.name for path in tmp_path.iterdir())
    for count in (2, 3):
        writer.kill()
        writer = started("classifier")
        writer.write()
        assert series(tmp_path)['calls_total{application="a"}'] == count
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert "counter_classifier-0.db" in names


def test_two_processes_of_a_role_have_files_of_their_own(tmp_path, started) -> None:
    for writer in (started("runner"), started("runner")):
        writer.write()
    assert {path.stem for path in tmp_path.glob("*.lock")} == {"runner-0", "runner-1"}
    assert series(tmp_path)['calls_total{application="a"}'] == 2


def test_of_a_gauge_that_one_process_knows_the_last_value_counts(tmp_path, started) -> None:
    first, second = started("trainer"), started("trainer")
    second.write(jobs=7)
    time.sleep(0.01)
    first.write(jobs=3)
    assert series(tmp_path)['jobs{kind="study"}'] == 3


def test_another_process_answers_when_the_one_with_the_port_is_killed(tmp_path, started) -> None:
    [port] = free_ports(1)
    first = started("classifier", port)
    first.write()
    _until(lambda: scraped(port).get('calls_total{application="a"}') == 1)
    second = started("classifier", port)
    second.write()
    assert scraped(port)['calls_total{application="a"}'] == 2
    first.kill()
    _until(lambda: scraped(port).get("busy") == 1)
    assert scraped(port)['calls_total{application="a"}'] == 2


def test_an_empty_or_broken_file_hides_no_other(tmp_path, started, caplog) -> None:
    started("classifier").write()
    (tmp_path / "counter_old-0.db").touch()
    (tmp_path / "histogram_old-0.db").write_bytes(b"\xff" * 100)
    assert series(tmp_path)['calls_total{application="a"}'] == 1
    assert "counter_old-0.db cannot be read" in caplog.text


def test_a_process_takes_over_an_empty_file(tmp_path, started) -> None:
    (tmp_path / "counter_classifier-0.db").touch()
    started("classifier").write()
    assert series(tmp_path)['calls_total{application="a"}'] == 1


def test_files_have_their_blocks_before_anything_is_written(tmp_path, started) -> None:
    started("classifier").write()
    for path in tmp_path.glob("*.db"):
        assert path.stat().st_blocks * 512 >= path.stat().st_size >= 1 << 20


def test_a_disk_that_is_full_already_costs_series_and_no_process(tmp_path, started) -> None:
    with small_disk(tmp_path, 2 << 20) as disk:
        fill(disk)
        writer = started("classifier")
        writer.write()
        writer.kill()
        assert not series(disk)


def test_a_disk_that_fills_up_later_costs_nothing(tmp_path, started) -> None:
    with small_disk(tmp_path, 8 << 20) as disk:
        writer = started("classifier")
        writer.write()
        fill(disk)
        for _ in range(3):
            writer.write()
        assert series(disk)['calls_total{application="a"}'] == 4
        writer.kill()


def test_clearing_leaves_what_is_not_ours(tmp_path, started) -> None:
    writer = started("classifier")
    writer.write()
    writer.kill()
    (tmp_path / "notes.txt").touch()
    clear_series(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_folder_that_cannot_be_written_stops_nothing(tmp_path, caplog) -> None:
    class_before = exposition.values.ValueClass
    (tmp_path / "file").touch()
    exposition.expose("classifier", CommonSettings(metrics_dir=tmp_path / "file" / "series"))
    assert "series are not exported" in caplog.text
    assert exposition.values.ValueClass is class_before


def test_a_port_that_another_program_has_is_left_to_it(tmp_path, started) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        writer = started("classifier", listener.getsockname()[1])
        writer.write()
        writer.write()
    assert series(tmp_path)['calls_total{application="a"}'] == 2


def _until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to pass in time"
        time.sleep(0.1)
