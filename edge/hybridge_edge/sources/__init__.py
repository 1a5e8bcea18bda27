"""Where readings come from: MQTT, files, Greengrass' own publish/subscribe, a camera, or a wheel of somebody else's.

A source never makes its sensor wait: what nobody takes in time is dropped, the oldest first, and counted. One file a
source, imported when its name is asked for: see ``source.open_source``.
"""
