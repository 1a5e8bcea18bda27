"""The file that says how to reach a broker is read as it was written, with certificates and without."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hybridge_cloud.demo.broker import SiteBroker, read


@pytest.mark.parametrize("secured", [True, False], ids=["the account's", "mosquitto's"])
def test_a_broker_s_file_tells_clients_and_pipelines_the_same(tmp_path: Path, secured: bool) -> None:
    names = {key: str(tmp_path / key) if secured else "" for key in ("ca", "certificate", "key")}
    file = tmp_path / "mqtt.json"
    file.write_text(json.dumps({"host": "127.0.0.1", "port": 1883, **names}))
    broker = read(file)
    assert (broker.host, broker.port) == ("127.0.0.1", 1883)
    assert (broker.ca, broker.key) == ((tmp_path / "ca", tmp_path / "key") if secured else (None, None))
    assert SiteBroker("any", file).fields() == {"host": "127.0.0.1", "port": "1883", **names}
