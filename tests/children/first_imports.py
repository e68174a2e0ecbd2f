"""The first import of matplotlib under many settings, in a fork of this process for each; prints how each ended, as JSON."""

import json
import os
import sys
from pathlib import Path

from anchorbench.show.canvas import plain_matplotlib, save


@plain_matplotlib()
def draw():
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2, 2))
    figure.subplots().plot([1, 3])
    save(figure, Path("x.png"))


def first_import(environ, settings, settings_at_home):
    if settings is not None:
        Path("matplotlibrc").write_bytes(bytes.fromhex(settings))
    if settings_at_home is not None:
        Path("config").mkdir()
        Path("config/matplotlibrc").write_bytes(bytes.fromhex(settings_at_home))
        environ["MPLCONFIGDIR"] = str(Path("config").absolute())
    os.environ.update(environ)
    before = os.environ | {"MPLCONFIGDIR": None}, Path.cwd()
    draw()
    assert (os.environ | {"MPLCONFIGDIR": None}, Path.cwd()) == before  # that one is matplotlib's own doing
    assert "matplotlib.pyplot" not in sys.modules
    import matplotlib

    return str(dict.__getitem__(matplotlib.rcParams, "backend"))


told = {}
for name, case in json.loads(sys.argv[2]).items():
    root = Path(sys.argv[1]) / name
    root.mkdir()
    if os.fork() == 0:
        os.chdir(root)
        os.dup2(os.open("err", os.O_CREAT | os.O_WRONLY), 2)
        Path("backend").write_text(first_import(*case))
        os._exit(0)
    code = os.wait()[1]
    told[name] = code, (root / "err").read_text()
sys.stdout.write(json.dumps(told))
