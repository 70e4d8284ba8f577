"""`clusters test` and `doctor` without daemons: what is found, which exit code follows."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from fakes import program

from latentctl.cli.main import main
from latentctl.launch import checks, devbox, installation
from latentctl.spec.cluster import ClusterProfile
from latentctl.spec.load import list_profiles, load_profile
from tests.answers import checked

SLURM = {"name": "c", "executor": "slurm", "partition": "p", "account": "lab"}


@pytest.fixture
def slurm(tmp_path, monkeypatch) -> Path:
    """Slurm's programs, all answering well."""
    bin_dir = tmp_path / "bin"
    bin_dir.mkdir()
    monkeypatch.setenv("PATH", f"{bin_dir}:/usr/bin:/bin")
    monkeypatch.delenv("SLURM_CONF", raising=False)
    partition = "PartitionName=p State=UP Default=YES MaxTime=02:00:00 TotalNodes=2 AllowAccounts=ALL"
    program(
        bin_dir, "scontrol",
        f"case $* in ping) echo 'is UP';; *partition*) echo '{partition}';; *) echo 'ClusterName = c';; esac",
    )  # fmt: skip
    program(bin_dir, "sinfo", "echo 'p|2|8|16000|gpu:a100:4'")
    program(bin_dir, "sacctmgr", "echo 'lab|normal'")
    program(bin_dir, "sbatch", "echo 'sbatch: Job 1 to start' >&2")
    program(bin_dir, "sacct", "true")
    return bin_dir


def found(**fields) -> dict[str, checks.Check]:
    return {c.name: c for c in checks.profile(ClusterProfile.model_validate({**SLURM, **fields}))}


def run(*args: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(list(args))
    return int(caught.value.code or 0)


def test_all_is_well(slurm):
    assert {name: c.ok for name, c in found(gpus_per_node=4, gpu_type="a100").items()} == dict.fromkeys(
        ["controller", "partition", "submission", "accounting", "python train", "python eval"], True
    )
    flags = (slurm / "sbatch.log").read_text().split()
    assert {"--test-only", "--partition=p", "--account=lab", "--nodes=1"} <= set(flags)


def test_accounting_that_is_off_is_a_problem_but_not_the_clusters_refusal(slurm):
    program(slurm, "sacct", "echo 'Slurm accounting storage is disabled' >&2; exit 1")
    check = found()["accounting"]
    assert (check.ok, check.cluster) == (False, False)
    assert "disabled" in check.text


def test_a_controller_that_is_down_ends_the_slurm_part(slurm):
    program(slurm, "scontrol", "echo 'Slurmctld(primary) at x is DOWN'; exit 1")
    names = found()
    assert list(names) == ["controller", "python train", "python eval"]
    assert (names["controller"].ok, names["controller"].cluster) == (False, True)


def test_images_and_interpreters_inside_them_are_not_tried_from_here(slurm, tmp_path):
    image = tmp_path / "x.sif"
    names = found(container={"image": str(image)}, interpreter={"train": "/opt/python"})
    assert names["image"].ok is False
    assert names["python train"].ok is None
    image.touch()
    assert found(container={"image": str(image)})["image"].ok is None  # no apptainer here; nodes may have it
    program(slurm, "apptainer", "true")
    assert found(container={"image": str(image)})["image"].ok is True
    pyxis = found(container={"image": "docker://x", "runtime": "pyxis"})
    assert pyxis["python entry"].ok is None


def test_the_entrys_python_is_new_enough(slurm, tmp_path):
    assert found(interpreter={"entry": sys.executable})["python entry"].ok is True
    old = program(
        tmp_path, "python", f'exec {sys.executable} -c "import sys; sys.version_info = (3, 9, 2); $2"'
    )
    check = found(interpreter={"entry": str(old)})["python entry"]
    assert check.ok is False
    assert "Python 3.9 is too old" in check.text


@pytest.mark.parametrize(
    ("fields", "code"),
    [("", 0), ("time: 3h\n", 1), ("data_dir: /nonexistent\n", 1), ("partition: q\n", 1)],
)
def test_exit_codes_and_json_of_clusters_test(slurm, tmp_path, capsys, fields, code):
    profile = tmp_path / "mine.yaml"
    profile.write_text("name: mine\nexecutor: slurm\naccount: lab\n" + fields)
    assert run("clusters", "test", str(profile), "--json") == code
    body = checked(capsys.readouterr().out)
    assert (body["kind"], body["data"]["ok"]) == ("cluster_test", code == 0)
    assert {"name", "ok", "text", "hint"} == set(body["data"]["checks"][0])


def test_a_refused_submission_is_code_4(slurm, tmp_path, capsys):
    program(slurm, "sbatch", "echo 'allocation failure: Invalid qos specification' >&2; exit 1")
    profile = tmp_path / "mine.yaml"
    profile.write_text("name: mine\nexecutor: slurm\nqos: x\n")
    assert run("clusters", "test", str(profile)) == 4
    out = capsys.readouterr().out
    assert "problem submission" in out
    assert "hint: your qos: normal" in out


def test_an_unknown_cluster_is_not_found(capsys):
    assert run("clusters", "test", "nosuch", "--json") == 3
    assert checked(capsys.readouterr().out)["ok"] is False


def test_every_shipped_profile_is_valid_and_listed(capsys):
    shipped = {p.stem for p in (Path(__file__).parents[3] / "cluster").glob("*.yaml")}
    assert {"local", "devbox"} < shipped
    for name in shipped:
        assert load_profile(list_profiles()[name]).name == name
    assert run("clusters", "list", "--json") == 0
    rows = {r["name"]: r for r in checked(capsys.readouterr().out)["data"]}
    assert shipped <= set(rows)
    assert all("error" not in r for r in rows.values())


def test_doctor_names_what_is_missing_and_the_command_that_brings_it(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(
        installation, "run_task", lambda *a, **k: {"problems": [], "torch": {}, "deepspeed": {}}
    )
    monkeypatch.setattr(installation.shutil, "which", lambda name: None)
    real = installation._versions

    def without_torch(names):
        return {n: (None if n == "torch" else v or "1") for n, v in real(names).items()}

    monkeypatch.setattr(installation, "_versions", without_torch)
    assert run("doctor", "--runs-dir", str(tmp_path), "--json") == 1
    findings = {f["name"]: f for f in checked(capsys.readouterr().out)["data"]["findings"]}
    assert (findings["train"]["level"], findings["train"]["text"]) == ("missing", "not installed: torch")
    assert findings["train"]["hint"].startswith("pip install -c ")
    assert "[train]'" in findings["train"]["hint"]
    assert "training" not in findings


def test_a_login_node_needs_only_the_light_core(monkeypatch, tmp_path, slurm):
    for name in installation.SLURM_PROGRAMS:
        if not (slurm / name).exists():
            program(slurm, name, "true")
    monkeypatch.setattr(
        installation,
        "_versions",
        lambda names: {n: None if n in ("torch", "vllm", "wandb") else "1" for n in names},
    )
    levels = {f.name: f.level for f in installation.examine(tmp_path)}
    assert (levels["train"], levels["slurm"], levels["vllm"]) == ("note", "ok", "note")
    assert "missing" not in levels.values()


def test_doctor_says_where_the_disk_is_full(monkeypatch, tmp_path):
    usage = type("Usage", (), {"free": 1e9})
    monkeypatch.setattr(installation.shutil, "disk_usage", lambda _: usage)
    found = installation._disk("runs", tmp_path / "not" / "yet")
    assert (found.level, found.data["free_gb"]) == ("missing", 1.0)


def test_a_devbox_that_is_not_there(tmp_path, capsys):
    assert run("devbox", "status", "--dir", str(tmp_path / "x"), "--json") == 1
    data = checked(capsys.readouterr().out)["data"]
    assert (data["up"], data["daemons"]) == (False, {})


def test_a_devbox_without_root_says_so(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(devbox.os, "geteuid", lambda: 1000)
    assert run("devbox", "up", "--dir", str(tmp_path / "x")) == 2
    err = capsys.readouterr().err
    assert "needs root" in err
    assert "hint: sudo" in err
    assert not (tmp_path / "x").exists()


@pytest.mark.skipif(devbox.os.geteuid() != 0, reason="the scripts need root")
@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--dir", "{tmp}/with blank"], "without blanks"),
        (["--dir", "{tmp}/full"], "not empty and not a devbox"),
    ],
)
def test_a_bad_devbox_folder_is_refused_and_left_alone(tmp_path, capsys, args, said, monkeypatch):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    commands = tmp_path / "bin"
    commands.mkdir()
    lib = (devbox._folder() / "lib.sh").read_text()
    for name in re.findall(r'COMMANDS="(.*)"', lib)[0].split():
        program(commands, name, "exit 1")
    monkeypatch.setenv("PATH", f"{commands}:/usr/bin:/bin")
    assert run("devbox", "up", *[a.format(tmp=tmp_path) for a in args]) == 2
    assert said in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bin", "full"]
    assert [p.name for p in (tmp_path / "full").iterdir()] == ["thesis.tex"]


@pytest.mark.skipif(devbox.os.geteuid() != 0, reason="the scripts need root")
def test_missing_packages_are_named_with_the_command_that_installs_them(tmp_path, capsys, monkeypatch):
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("bash", "id", "dirname", "cat"):
        (tools / name).symlink_to(Path("/usr/bin") / name)
    monkeypatch.setenv("PATH", str(tools))
    assert run("devbox", "up", "--dir", str(tmp_path / "box")) == 2
    said = capsys.readouterr().err
    assert "missing programs: " in said
    assert "sbatch" in said
    assert "hint: apt-get update && apt-get install -y --no-install-recommends slurmctld" in said
    assert "devbox up --install" in said
    assert not (tmp_path / "box").exists()
