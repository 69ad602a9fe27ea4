"""The app, from a clone or as a Hugging Face Space: `python app.py [MODEL ...]`. The same page as `regard app`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "src"))

from regard.app.serving import HOST, serving, waiting

if __name__ == "__main__":
    # A Space says in these variables where its visitors come in; elsewhere the app is for this machine alone.
    host, port = os.environ.get("GRADIO_SERVER_NAME", HOST), os.environ.get("GRADIO_SERVER_PORT")
    with serving(sys.argv[1:], host, int(port) if port else None) as address:
        waiting(f"The app is at {address} (Ctrl-C ends it)")
