"""What keeps hpctrack's folder from a Python that a script starts is recognised, and told once."""

import pytest

from hpctrack.slurm.sbatch import isolation


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("python -I train.py", ["python -I, -E"]),
        ("srun python3.11 -u -E train.py", ["python -I, -E"]),
        ("/opt/bin/python3 -sE train.py", ["python -I, -E"]),
        ("env -i PATH=/bin python train.py", ["env -i"]),
        ("env - python train.py", ["env -i"]),
        ("apptainer exec --nv image.sif python train.py", ["a container"]),
        ("singularity --quiet run image.sif", ["a container"]),
        ("podman run --rm image python", ["a container"]),
        ("srun --container-image=x python", ["a container"]),
        ("export PYTHONPATH=/mine", ["PYTHONPATH="]),
        ("PYTHONPATH=/a env -i python -I x", ["python -I, -E", "env -i", "PYTHONPATH="]),
        ("export PYTHONPATH=/mine:$PYTHONPATH", []),
        ('export PYTHONPATH="${PYTHONPATH:+$PYTHONPATH:}/mine"', []),
        ("# python -I train.py", []),
        ("python train.py -I -E", []),
        ("python -u train.py --exec run", []),
        ("env NAME=x python -m pip install -e .", []),
        ("echo docker", []),
    ],
)
def test_ways(line, found):
    assert isolation.ways(f"#!/bin/bash\n#SBATCH -n1\n{line}\n".encode()) == found


def test_each_is_told_once(tmp_path):
    script = b"#!/bin/sh\nenv -i python\n"
    cache = str(tmp_path / "cache")
    (note,) = isolation.notes(script, cache)
    assert "env -i" in note and "importable" in note and "\n" not in note
    assert list(isolation.notes(script, cache)) == []
    assert len(list(isolation.notes(script + b"python -I x\n", cache))) == 1


def test_where_that_can_not_be_noted_nobody_is_bothered(tmp_path):
    (tmp_path / "file").touch()
    assert list(isolation.notes(b"env -i python\n", str(tmp_path / "file"))) == []
