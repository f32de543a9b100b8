"""Build hook of the wheel: adds onnxruntime-web as spectrnn/demo/runtime/, so that an installed demo works offline."""

import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class OnnxruntimeWebHook(BuildHookInterface):
    """Called by hatchling for each wheel; an editable install needs only the checkout."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Downloads the runtime to a temporary folder, and includes it in the wheel."""
        if version == "editable":
            return
        sys.path.insert(0, self.root)
        from spectrnn.demo.onnxruntime_web import FetchError, fetch

        self._folder = tempfile.TemporaryDirectory()
        try:
            fetch(Path(self._folder.name) / "runtime")
        except FetchError as error:
            # A build from source without npm succeeds; the demo then downloads the runtime at its first use.
            self.app.display_warning(f"the wheel does not contain the runtime of the demo: {error}")
        else:
            build_data["force_include"][f"{self._folder.name}/runtime"] = "spectrnn/demo/runtime"
        finally:
            sys.path.remove(self.root)
