"""The camera example: the commands of its README, in their order, and what they must come to."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "camera"


@pytest.mark.system
def test_the_example_s_commands_train_serve_and_classify_what_a_camera_sees(tmp_path: Path) -> None:
    (commands,) = re.findall(r"^```sh\n(.*?)^```", (EXAMPLE / "README.md").read_text(), re.M | re.S)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    (tmp_path / "try").mkdir()
    script = f"set -euo pipefail -m\ntrap 'jobs -p | xargs -r kill' EXIT\n{commands}"
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "HYBRIDGE_"))}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # torch is compiled once, not for each command
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200, check=False
    )
    log = (tmp_path / "try" / "server.log").read_text()
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:] + log[-2000:]

    (frames, right) = re.findall(r"^200 of (\d+) frames answered, (\d+) right: accuracy", done.stdout, re.M)[0]
    assert frames == "200"
    assert int(right) >= 185
    results = [json.loads(line) for line in (tmp_path / "try" / "results.jsonl").read_text().splitlines()]
    assert [fields["sample_id"] for fields in results] == [f"camera-1/frames/{number}" for number in range(200)]
    assert {fields["label"] for fields in results} == set("0123456789")
    assert "received=200, taken=200, dropped=0" in done.stderr

    manifest = json.loads((tmp_path / "try" / "camera-1.0.0" / "manifest.json").read_text())
    assert [codec["codec"] for codec in manifest["codecs"]] == ["jpeg"]
    assert "pillow" in manifest["lineage"]["versions"]
    answer = json.loads(done.stdout[done.stdout.rindex('{\n  "model"') :])
    assert max(answer["outputs"]["probabilities"][0]) > 0.5
