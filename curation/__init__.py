"""Curate photos: see run.py."""

import sys

# Else every process that imports OpenVINO sends an event to Google Analytics: from a forked child, which for up to 3 s
# keeps all files of its parent open, and with them the locks.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
