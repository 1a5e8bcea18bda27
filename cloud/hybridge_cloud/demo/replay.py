"""The people of the recordings, moving again: windows over real MQTT to the devices' sensor pipelines.

    python -m hybridge_cloud.demo.replay --project examples/watch --split 0 --broker mqtt.json --rate 40 DEVICE...

Each person of the part ``replay`` (the first 60 % of every recording of the people the model has not seen) wears one
device. Windows carry their sample id and no label. QoS 1: every window is acknowledged by the broker, or the replay fails.
"""

from __future__ import annotations
