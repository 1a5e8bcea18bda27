"""Triton's load generator, unmodified, where HYBRIDGE_PERF_ANALYZER names its program.

The wheels of tritonclient up to 2.57 hold it (tritonclient-VERSION.data/data/bin/perf_analyzer); 2.50 starts with glibc
2.36, libb64 and libcudart 12 (the wheel nvidia-cuda-runtime-cu12) on LD_LIBRARY_PATH. It reads versions as whole
numbers, so beside ours it prints no statistics of the server; what the server counted is asked here.
"""

import os
import re
import subprocess
from typing import Any

import pytest
import tritonclient.grpc as triton

PROGRAM = os.environ.get("HYBRIDGE_PERF_ANALYZER", "")
RUNS = {
    "single requests": ["-m", "watch"],
    "the version before": ["-m", "watch", "-x", "1.0.0"],
    "batches, asynchronous": ["-m", "watch", "-b", "4", "-a", "--concurrency-range", "4"],
    "a stream": ["-m", "watch", "--streaming"],
    "streams, asynchronous": ["-m", "watch", "--streaming", "-a", "--concurrency-range", "4"],
    "a rate of requests": ["-m", "watch", "-a", "--request-rate-range", "100"],
    "text": ["-m", "echo-bytes", "--string-data", "abc"],
}


@pytest.mark.skipif(not PROGRAM, reason="HYBRIDGE_PERF_ANALYZER names no program")
@pytest.mark.parametrize("run", RUNS)
def test_perf_analyzer_measures_without_an_error(echoes: Any, run: str) -> None:
    def served() -> int:
        with triton.InferenceServerClient(echoes.endpoint.inference) as client:
            return sum(one.inference_stats.success.count for one in client.get_inference_statistics().model_stats)

    before = served()
    measure = ["--measurement-mode", "count_windows", "--measurement-request-count", "100", "-s", "99", "-r", "3"]
    ran = subprocess.run(
        [PROGRAM, "-i", "grpc", "-u", echoes.endpoint.tcp, *measure, *RUNS[run]],
        capture_output=True,
        text=True,
        timeout=120,
    )
    said = ran.stdout + ran.stderr
    assert ran.returncode == 0, said
    assert float(re.search(r"Throughput: ([\d.]+)", said)[1]) > 10, said
    sent = int(re.search(r"Request count: (\d+)", said)[1])
    assert served() - before >= sent > 0
