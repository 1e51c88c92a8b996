"""Many clients at once, for a while."""

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest


def memory(service):
    """Megabytes in use."""
    lines = Path(f"/proc/{service.process.pid}/status").read_text("utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1000


@pytest.mark.slow
def test_sixty_four_clients_for_a_minute_lose_nothing_and_memory_is_flat(start, image):
    if not Path("/proc/self/status").exists():
        pytest.skip("no /proc: memory is read there")
    end = time.monotonic() + 60
    with start() as service, ThreadPoolExecutor(64) as clients:

        def ask():
            answers = Counter()
            while time.monotonic() < end:
                answers[service.post(image)[0]] += 1
            return answers

        asking = [clients.submit(ask) for _ in range(64)]
        time.sleep(10)
        before = memory(service)
        answers = sum((one.result() for one in asking), Counter())
        assert answers.keys() == {200}
        assert answers.total() > 64
        assert memory(service) < before + 10
