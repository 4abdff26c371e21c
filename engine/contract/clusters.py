"""Ready-made commands for several machines: by hand, and as a job for Slurm, Ray or Kubernetes. For copying.

Each starts the same arguments once a machine, with that machine's number; `accelerate launch` does the rest. Nothing is
started here. What lies in the workspace (models, datasets, the run that is gone on from) must be there on each machine,
as on a file system that all share. Each text says at its top what to do with it; what only the person knows is marked
REPLACE. workspace: where it is, if not in the board's own folder.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable

from engine.contract import text
from engine.contract.args import TrainArgs


def by_hand(args: TrainArgs, workspace: str = "") -> str:
    """One line for each machine."""
    launch = args.launch
    address = launch.address or "REPLACE"
    where = f"{address}, port {launch.port}" if launch.address else f"REPLACE (its address), port {launch.port}"
    lines = [
        f"# machine {number}{f', which the others reach at {where}' if number == 0 and launch.machines > 1 else ''}\n"
        f"{_command(args, launch.machines, str(number), address, workspace)}"
        for number in range(launch.machines)
    ]
    said = "# In the board's folder on each machine, with the same models and datasets there:"
    return "\n".join([said, *lines]) + "\n"


def slurm(args: TrainArgs, workspace: str = "") -> str:
    """A script for `sbatch`: one task a machine, which Slurm numbers."""
    launch = args.launch
    program = "exec " + _command(args, launch.machines, "$SLURM_NODEID", "$MAIN", workspace)
    return f"""#!/bin/bash
# 1. Save this as train.sbatch in the board's folder, on a file system that all nodes share.
# 2. Change the two lines below REPLACE.   3. There: sbatch train.sbatch
# REPLACE with a partition of your cluster that has the devices, and the longest time that the job may take.
#SBATCH --partition=gpu
#SBATCH --time=24:00:00
#SBATCH --job-name=tuneboard
#SBATCH --nodes={launch.machines}
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node={launch.here}
#SBATCH --signal=TERM@600
# Ten minutes before its time is over the run is asked to save and stop; resume.run=RUN goes on from there.
source .venv/bin/activate
export MAIN=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
srun --kill-on-bad-exit=1 bash -c {shlex.quote(program)}
"""


def ray(args: TrainArgs, workspace: str = "") -> str:
    """A script for `ray job submit -- python FILE`: one task a machine, all at once or none."""
    launch = args.launch
    program = "exec .venv/bin/" + _command(args, launch.machines, "$NUMBER", "$MAIN", workspace)
    return f"""# 1. Have the board's folder at the same place on each machine, as on a file system that all share.
# 2. Write that place below, and save this there as train_on_ray.py.   3. On the cluster's head:
#    ray job submit -- python /REPLACE/tuneboard/train_on_ray.py
import os, subprocess
import ray
from ray.util.placement_group import placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

FOLDER = "/REPLACE/tuneboard"

ray.init()
group = placement_group([{{"CPU": 1, "GPU": {launch.here}}}] * {launch.machines}, strategy="STRICT_SPREAD")
ray.get(group.ready())

@ray.remote(num_cpus=1, num_gpus={launch.here})
def address():
    return ray.util.get_node_ip_address()

@ray.remote(num_cpus=1, num_gpus={launch.here})
def work(number, main):
    told = os.environ | {{"NUMBER": str(number), "MAIN": main}}
    return subprocess.run(["bash", "-c", {program!r}], env=told, cwd=FOLDER).returncode

def placed(number):
    return PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=number)

main = ray.get(address.options(scheduling_strategy=placed(0)).remote())
ends = ray.get([work.options(scheduling_strategy=placed(n)).remote(n, main) for n in range({launch.machines})])
raise SystemExit(max(ends))
"""


def kubernetes(args: TrainArgs, workspace: str = "") -> str:
    """A Job with one pod a machine, numbered by Kubernetes, and the Service by which they find the first.

    Its workspace is the claim's, wherever the board that writes this has its own.
    """
    launch = args.launch
    program = "exec .venv/bin/" + _command(args, launch.machines, "$JOB_COMPLETION_INDEX", "tuneboard-0.tuneboard")
    return f"""# 1. Build the board's image (docker build -t tuneboard .) and push it to your registry.
# 2. Make a volume claim that all pods may write to (ReadWriteMany), with the models and datasets of the workspace.
# 3. Change the two lines marked REPLACE, save this as train.yaml, and: kubectl apply -f train.yaml
apiVersion: v1
kind: Service
metadata: {{name: tuneboard}}
spec:
  clusterIP: None
  selector: {{job-name: tuneboard}}
---
apiVersion: batch/v1
kind: Job
metadata: {{name: tuneboard}}
spec:
  completions: {launch.machines}
  parallelism: {launch.machines}
  completionMode: Indexed
  backoffLimit: 0
  template:
    spec:
      subdomain: tuneboard
      restartPolicy: Never
      terminationGracePeriodSeconds: 600
      containers:
        - name: tuneboard
          image: tuneboard  # REPLACE with the image's name in your registry
          workingDir: /tuneboard
          command: [bash, -c, {json.dumps(program, ensure_ascii=False)}]
          ports: [{{containerPort: {launch.port}}}]
          resources: {{limits: {{nvidia.com/gpu: {launch.here}}}}}
          volumeMounts:
            - {{name: workspace, mountPath: /tuneboard/workspace}}
            - {{name: shared-memory, mountPath: /dev/shm}}
      volumes:
        - name: workspace
          persistentVolumeClaim: {{claimName: tuneboard-workspace}}  # REPLACE with the name of the claim
        - name: shared-memory
          emptyDir: {{medium: Memory}}
"""


CLUSTERS: dict[str, Callable[[TrainArgs, str], str]] = {
    "machines": by_hand,
    "slurm": slurm,
    "ray": ray,
    "kubernetes": kubernetes,
}


def _command(args: TrainArgs, machines: int, number: str, address: str, workspace: str = "") -> str:
    """The run's command for one machine; number and address may be a shell's variables."""
    told = tuple(f"launch.{name}=" for name in ("machines", "number", "address", "devices", "processes"))
    words = [word for word in shlex.split(text.command(args)) if not word.startswith(told)]
    where = f"launch.machines={machines} launch.number={number} launch.address={address}"
    named = f" --workspace {shlex.quote(workspace)}" if workspace else ""
    return f"{shlex.join(words)} launch.processes={args.launch.here} {where}{named}"
