"""The scripts for clusters: what of them can be tried without one."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pandas
import pytest

from support.runs import table

PAGE = Path(__file__).parents[2] / "docs" / "clusters.md"


def scripts(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.M | re.S)


@pytest.mark.parametrize("script", scripts("bash"))
def test_bash_understands_the_scripts(script: str) -> None:
    done = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_ray_job_has_what_kuberay_asks_for() -> None:
    yaml = pytest.importorskip("yaml")
    (job,) = (yaml.safe_load(text) for text in scripts("yaml"))
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    spec, cluster = job["spec"], job["spec"]["rayClusterSpec"]
    assert set(spec) == {"entrypoint", "backoffLimit", "shutdownAfterJobFinishes", "rayClusterSpec"}
    assert spec["entrypoint"].startswith("regard evaluate ")
    assert "\n" not in spec["entrypoint"]
    (image,) = scripts("dockerfile")
    assert f"rayproject/ray:{cluster['rayVersion']}-" in image
    assert f"'ray[default]=={cluster['rayVersion']}'" in image
    head, workers = cluster["headGroupSpec"], cluster["workerGroupSpecs"]
    pods = [group["template"]["spec"] for group in (head, *workers)]
    for pod in pods:
        (container,) = pod["containers"]
        assert {m["name"] for m in container["volumeMounts"]} == {v["name"] for v in pod["volumes"]}
        assert container["image"] == pods[0]["containers"][0]["image"]
    assert all(group["minReplicas"] <= group["replicas"] <= group["maxReplicas"] for group in workers)
    assert all(isinstance(v, str) for group in (head, *workers) for v in group["rayStartParams"].values())


STAND_INS = {
    "scontrol": 'printf "one\\ntwo\\n"',
    "srun": 'while [ $# -gt 0 ]; do case $1 in -w) shift 2;; --*) shift;; *) break;; esac; done; exec "$@"',
}
BOTH = "import ray, time\nray.init(log_to_driver=False)\nwhile sum(n['Alive'] for n in ray.nodes()) < 2: time.sleep(1)"


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.skipif(sys.platform != "linux", reason="Slurm is for Linux")
def test_the_slurm_script_runs_with_two_nodes_on_this_machine(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    for name, does in STAND_INS.items():
        made = tmp_path / "bin" / name
        made.parent.mkdir(exist_ok=True)
        made.write_text(f"#!/bin/bash\n{does}\n")
        made.chmod(0o755)
    asked = "zoo/vit-scenes --methods random --protocols segmentation --examples 6 --batch 2 -q"
    body = f'    python -c "{BOTH}"\n    python -m regard evaluate {asked} --engine ray --out {tmp_path}/slurm\n'
    own = re.compile(r"^source .*\nrun\(\) \{\n(?:    .*\n)+", re.M)
    script, count = own.subn(lambda _: f"run() {{\n{body}", scripts("bash")[0])
    assert count == 1
    (tmp_path / "evaluate.sh").write_text(script)
    about = {"SLURM_JOB_NODELIST": "one,two", "SLURM_CPUS_PER_TASK": "1", "RAY_PORT": "6399"}
    paths = os.pathsep.join([str(tmp_path / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]])
    with (tmp_path / "log").open("w") as log:
        run = subprocess.Popen(
            ["bash", str(tmp_path / "evaluate.sh")],
            env=os.environ | about | {"PATH": paths}, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
        try:
            code = run.wait(600)
        finally:
            os.killpg(run.pid, signal.SIGTERM)  # as Slurm does when a job ends; `ray start --block` then ends its node
    assert code == 0, (tmp_path / "log").read_text()
    alone = [sys.executable, "-m", "regard", "evaluate", *asked.split(), "--out", str(tmp_path / "alone")]
    subprocess.run(alone, check=True)
    pandas.testing.assert_frame_equal(table(tmp_path / "slurm" / "rows"), table(tmp_path / "alone" / "rows"))
