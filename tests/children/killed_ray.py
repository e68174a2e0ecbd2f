"""Trains sweep.yaml on Ray: a local one, a process of which is killed while it trains, or two nodes, one of which is."""

import os
import signal
import sys
import threading
from pathlib import Path

import ray
from ray.cluster_utils import Cluster

from anchorbench.cli.plan import load_sweep, make_cut
from anchorbench.sweeps.engines.ray import run
from anchorbench.sweeps.folder import SweepFolder
from anchorbench.sweeps.lock import living
from anchorbench.sweeps.plan import write_plan

place, lost = Path(sys.argv[1]), sys.argv[2]
out = place / "sweep"
sweep = load_sweep(place / "sweep.yaml", ())
write_plan(sweep, SweepFolder(out, sweep), make_cut(sweep, 2, None, None, ()))


def when(training, strike):
    """Strikes as soon as so many stacks are in training."""
    while len(owners := living(out / "locks")) < training:
        threading.Event().wait(0.02)
    strike(owners)


if lost == "process":
    arguments = (1, lambda owners: os.kill(next(iter(owners.values())).pid, signal.SIGKILL))
else:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    node = cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, log_to_driver=False)
    arguments = (2, lambda owners: cluster.remove_node(node, allow_graceful=False))
threading.Thread(target=when, args=arguments, daemon=True).start()
run(out, None, lambda sentence: sys.stdout.write(sentence + "\n"))
if lost == "node":
    ray.shutdown()
    cluster.shutdown()  # else a later Ray looks for it
