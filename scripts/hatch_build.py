"""The wheel's build: puts onnxruntime-web into spectrnn/demo/runtime/, so that an installed demo works offline."""

import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class Vendor(BuildHookInterface):
    """Called by hatchling for each wheel; an editable install needs no more than the checkout, and gets none of it."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Fetches the runtime into a folder of its own, and names it as a part of the wheel."""
        if version == "editable":
            return
        sys.path.insert(0, self.root)
        from spectrnn.demo.onnxruntime_web import FetchError, fetch

        self._folder = tempfile.TemporaryDirectory()
        try:
            fetch(Path(self._folder.name) / "runtime")
        except FetchError as error:
            # Whoever installs from a source without npm gets all but the demo, which fetches the runtime at first use.
            self.app.display_warning(f"the wheel goes without the demo's runtime: {error}")
        else:
            build_data["force_include"][f"{self._folder.name}/runtime"] = "spectrnn/demo/runtime"
        finally:
            sys.path.remove(self.root)
