"""docs/settings.md, the recipes and the code that reads a deployment say the same of every setting."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from hybridge_edge import pipeline, settings, uplink
from hybridge_edge.configuration import Configuration
from hybridge_edge.contract.batch import MAX_BATCH_SAMPLES
from hybridge_edge.front import tls_settings
from hybridge_edge.s3_access import Access
from hybridge_edge.sources.camera import ENCODINGS, MAX_SIDE, QUALITY
from hybridge_edge.sources.messages import PAYLOADS
from hybridge_edge.sources.pacing import MAX_HERTZ
from hybridge_edge.sources.queue import MAX_QUEUE_READINGS, QUEUE_READINGS
from hybridge_edge.sources.replay import MAX_STEPS
from hybridge_edge.stream_export import DEFAULT_PORT, DEFAULT_STREAM
from hybridge_edge.targets.target import ADDRESSING, CHECKSUMS

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "settings.md").read_text()
TITLES = {
    "InferenceServer": "hybridge.InferenceServer",
    "SensorPipeline": "hybridge.SensorPipeline",
    "SampleUplink": "hybridge.SampleUplink",
    "model": "hybridge.model.NAME",
}


def documented(template: str) -> dict[str, tuple[str, str]]:
    """Default and range of every key on the page."""
    section = PAGE.split(f"\n## {TITLES[template]}\n")[1].split("\n## ")[0]
    found = {}
    for keys, default, limits in re.findall(r"^\| (`[^|]+`) \| ([^|]*) ?\| ([^|]+) \|", section, re.M):
        for key in re.findall(r"`([^`]+)`", keys):
            found[key] = (default.strip().strip("`"), limits)
    return found


def test_the_page_says_live_of_what_a_running_server_follows_and_of_nothing_else() -> None:
    section = PAGE.split("\n## hybridge.InferenceServer\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (`[^|]+`) \|[^|]*\|[^|]+\| (\w+) \|", section, re.M)
    said = {key: change for keys, change in rows for key in re.findall(r"`([^`]+)`", keys)}
    assert set(said.values()) == {"live", "restart"}
    assert {key for key, change in said.items() if change == "live"} == settings.LIVE
    assert {*said} == {*documented("InferenceServer")}


def in_recipe(template: str) -> dict[str, str]:
    recipe = yaml.safe_load((ROOT / "recipes" / f"{template}.yaml").read_text())

    def flat(table: dict[str, Any], before: str = "") -> dict[str, str]:
        found: dict[str, str] = {}
        for key, value in table.items():
            found |= flat(value, f"{before}{key}/") if isinstance(value, dict) else {f"{before}{key}": value}
        return found

    configuration = recipe["ComponentConfiguration"]["DefaultConfiguration"]
    return flat({key: value for key, value in configuration.items() if key != "accessControl"})


@pytest.mark.parametrize("template", TITLES)
def test_the_page_has_every_key_of_the_recipe_with_its_default(template: str) -> None:
    page = documented(template)
    for key, default in in_recipe(template).items():
        assert page[key][0] == default, key


def test_the_page_has_every_setting_that_the_code_reads_and_no_other() -> None:
    assert {*documented("InferenceServer")} - {"systemPackages"} == set(settings._NAMES)
    assert {*documented("SensorPipeline")} == set(pipeline._FLAGS)
    parser = argparse.ArgumentParser()
    uplink.add_arguments(parser)
    flags = {action.dest for action in parser._actions} - {"help", "configuration"}
    assert {re.sub("[A-Z]", lambda letter: f"_{letter[0].lower()}", key) for key in documented("SampleUplink")} == flags


def test_a_default_that_the_recipe_leaves_to_the_code_is_the_one_of_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in settings._NAMES:
        monkeypatch.delenv(settings.variable(name), raising=False)
    parser = argparse.ArgumentParser()
    settings.add_arguments(parser)
    read = settings.read(parser.parse_args([]))
    left = set(settings._NAMES) - set(in_recipe("InferenceServer")) - {"store", "spool"}
    assert left
    for key in left:
        value = getattr(read, re.sub("[A-Z]", lambda letter: f"_{letter[0].lower()}", key))
        default = documented("InferenceServer")[key][0]
        assert (value == float(default)) if isinstance(value, (int, float)) else (value == default), key


@pytest.mark.parametrize(
    ("key", "limits"),
    [
        ("threads", (0, settings.MAX_THREADS)),
        ("reportSeconds", (1, settings.MAX_REPORT_SECONDS)),
        ("runSeconds", (0.01, settings.MAX_RUN_SECONDS)),
        ("pulseSeconds", (2, settings.MAX_RUN_SECONDS)),
        ("spoolMegabytes", (1, settings.MAX_SPOOL_MEGABYTES)),
        ("memoryMegabytes", (0, settings.MAX_MEMORY_MEGABYTES)),
        ("embeddedMetrics", (0, settings.MAX_METRICS_SECONDS)),
        ("captureShare", (0, 1)),
        ("tlsConnectionSeconds", (tls_settings.MIN_CONNECTION_S, tls_settings.MAX_CONNECTION_S)),
    ],
)
def test_the_range_of_the_page_is_the_one_the_code_refuses_beyond(key: str, limits: tuple[float, float]) -> None:
    assert documented("InferenceServer")[key][1] == f"{limits[0]:g} to {limits[1]:.0f}"
    parser = argparse.ArgumentParser()
    settings.add_arguments(parser)
    flag = settings.variable(key).removeprefix("HYBRIDGE_").lower().replace("_", "-")
    for value in limits:
        settings.read(parser.parse_args([f"--{flag}", f"{value}"]))
    for value in (limits[0] - 0.001, limits[1] + 1):
        with pytest.raises(Exception, match=f"^{key} is "):
            settings.read(parser.parse_args([f"--{flag}", f"{value}"]))


def test_the_uplink_s_settings_have_the_defaults_and_the_choices_of_the_page() -> None:
    page = documented("SampleUplink")
    read = Access.read(Configuration())
    assert (page["addressing"][0], page["checksums"][0]) == (read.store.addressing, read.store.checksums)
    assert page["conditionalWrites"][0] == str(read.store.conditional_writes).lower()
    assert (page["stream"][0], page["streamManagerPort"][0]) == (DEFAULT_STREAM, str(DEFAULT_PORT))
    for key, choices in {"via": uplink.VIA, "addressing": ADDRESSING, "checksums": CHECKSUMS}.items():
        assert page[key][0] == choices[0]
        assert re.split(", | or ", page[key][1].strip()) == list(choices)


def test_the_pipeline_s_settings_have_the_ranges_and_choices_of_the_page() -> None:
    page = documented("SensorPipeline")
    for key, most in {
        "sourceRate": MAX_HERTZ,
        "sourceQueue": MAX_QUEUE_READINGS,
        "sourceSteps": MAX_STEPS,
        "sourceWidth": MAX_SIDE,
        "sourceHeight": MAX_SIDE,
    }.items():
        assert page[key][1].endswith(f" to {most:.0f}"), key
    assert page["sourceQueue"][0] == str(QUEUE_READINGS)
    assert page["sourceQuality"][0] == str(QUALITY)
    for key, choices in {"sourcePayload": PAYLOADS, "sourceEncoding": ENCODINGS, "results": pipeline.RESULTS}.items():
        assert page[key][0] == choices[0]
        assert re.split(", | or ", page[key][1].strip()) == list(choices)


def test_the_range_of_a_batch_is_the_contracts() -> None:
    assert documented("SampleUplink")["batchSamples"][1] == f"1 to {MAX_BATCH_SAMPLES}"
