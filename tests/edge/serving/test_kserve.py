"""KServe's own client, unmodified, in an environment of its own.

Its package brings a Kubernetes client and pandas (450 MB, a minute to install), so this runs where
HYBRIDGE_KSERVE_PYTHON names the Python of an environment that has it::

    python3.11 -m venv try/kserve && try/kserve/bin/pip install kserve==0.21.0
    HYBRIDGE_KSERVE_PYTHON=try/kserve/bin/python .venv/bin/python -m pytest tests/edge/serving/test_kserve.py
"""

import json
import os
import subprocess
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy
import pytest

from hybridge_edge.arrays import NUMPY_TYPES

PYTHON = os.environ.get("HYBRIDGE_KSERVE_PYTHON", "")
PROGRAM = Path(__file__).with_name("kserve_client.py")
TEXTS = ["a", "schön", "", "b c", "/", "\n"]


@pytest.mark.skipif(not PYTHON, reason="HYBRIDGE_KSERVE_PYTHON names no environment with kserve")
@pytest.mark.parametrize("transport", ["inference", "tcp"])
def test_kserves_client_gets_the_right_answers(echoes: Any, kit: ModuleType, transport: str) -> None:
    window = kit.window(2)
    asked = [("watch", "window", "FP32", window.shape, window.ravel().tolist())]
    for datatype in NUMPY_TYPES:
        values = TEXTS if datatype == "BYTES" else [True] * 6 if datatype == "BOOL" else list(range(6))
        asked.append((kit.echo_name(datatype), "x", datatype, (2, 3), values))
    ran = subprocess.run(
        [PYTHON, str(PROGRAM), getattr(echoes.endpoint, transport), json.dumps(asked)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stderr
    said = json.loads(ran.stdout.splitlines()[-1])
    assert said["health"] == [True, True, True]
    assert "No model 'none'" in said["error"]
    for model, _, datatype, shape, values in asked:
        for raw in (True, False):
            if datatype == "FP16" and not raw:
                continue
            version, request_id, found_shape, found = said[f"{model} {raw}"]
            assert request_id == "kserve-1"
            if model == "watch":
                assert version == "1.1.0"
                expected = kit.scores(window, 2.0)
                numpy.testing.assert_allclose(numpy.array(found).reshape(found_shape), expected, rtol=1e-5, atol=1e-6)
            else:
                assert (version, tuple(found_shape), found) == ("1.0.0", shape, values)
