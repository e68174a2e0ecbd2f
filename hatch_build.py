"""Where there is a C++ compiler, a wheel carries the compiled training step, for machines that have none."""

import importlib.util
import platform
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CompiledStep(BuildHookInterface):  # type: ignore[type-arg]
    """Adds step.so to a wheel for Linux on x86-64; an editable install compiles at first use instead."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called before a build; `version` is `standard` or `editable`."""
        folder = Path(self.root, "anchorbench/train/gradients")
        spec = importlib.util.spec_from_file_location("compile_step", folder / "compile.py")
        here = (sys.platform, platform.machine())
        if version != "standard" or here != ("linux", "x86_64") or spec is None or spec.loader is None:
            return
        step = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(step)
        compiler = step.find_compiler()
        if compiler is None:
            return
        self.made = tempfile.TemporaryDirectory()
        out = Path(self.made.name, "step.so")
        try:
            step.compile_step(compiler, out, step.PORTABLE)
        except (OSError, subprocess.SubprocessError):
            self.app.display_warning("the training step could not be compiled; the wheel goes without it")
            return
        build_data["force_include"][str(out)] = "anchorbench/train/gradients/step.so"
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"
