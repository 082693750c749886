"""The demo's photos."""

import subprocess
import sys
from pathlib import Path

SCRIPT = "import sys; from pathlib import Path; from curation.demo import make_photos; make_photos(Path(sys.argv[1]))"


def test_ultralytics_photos_are_read_without_importing_it(tmp_path: Path) -> None:
    """It changes Pillow when it is imported: files of unknown kinds make it run pip."""
    script = f"{SCRIPT}; assert 'ultralytics' not in sys.modules"
    subprocess.run([sys.executable, "-c", script, tmp_path / "photos"], check=True)
    assert (tmp_path / "photos/1-people/bus.jpg").stat().st_size > 100_000
