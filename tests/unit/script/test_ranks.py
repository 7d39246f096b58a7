"""Ranks of parallel programs, as each launcher tells them."""

from __future__ import annotations

import pytest

from hpctrack.script import ranks

#: What launchers set for the second process of two.
LAUNCHED = {
    "torchrun": {
        "RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0",
        "GROUP_WORLD_SIZE": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500",
    },
    "Lightning": {
        "LOCAL_RANK": "1", "NODE_RANK": "0", "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "4",
    },
    "horovodrun with gloo": {"HOROVOD_RANK": "1", "HOROVOD_SIZE": "2", "HOROVOD_LOCAL_RANK": "1"},
    "Open MPI": {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2", "PMIX_RANK": "1"},
    "MVAPICH2": {"MV2_COMM_WORLD_RANK": "1", "MV2_COMM_WORLD_SIZE": "2"},
    "MVAPICH": {"MPIRUN_RANK": "1", "MPIRUN_NPROCS": "2", "MPIRUN_ID": "9"},
    "Platform MPI": {"MPI_RANKID": "1", "MPI_NRANKS": "2"},
    "ALPS": {"ALPS_APP_PE": "1", "ALPS_APP_ID": "a"},
    "deepspeed": {
        "RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_SIZE": "2", "CROSS_RANK": "0",
        "CROSS_SIZE": "1", "MASTER_ADDR": "n", "MASTER_PORT": "1",
    },
    "Ray Train": {
        "RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "NODE_RANK": "0",
        "MASTER_ADDR": "n", "MASTER_PORT": "1",
    },
    "Intel MPI": {"PMI_RANK": "1", "PMI_SIZE": "2", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "2"},
    "mpirun under srun": {
        "OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2", "PMIX_RANK": "1", "PMIX_NAMESPACE": "n",
        "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1", "SLURM_STEP_ID": "0",
    },
    "PALS": {"PALS_RANKID": "1", "PALS_APID": "a"},
    "jsrun": {"JSM_NAMESPACE_RANK": "1", "JSM_NAMESPACE_SIZE": "2"},
    "Flux": {"FLUX_TASK_RANK": "1", "FLUX_JOB_SIZE": "2", "FLUX_JOB_ID": "f"},
    "PMIx": {"PMIX_RANK": "1", "PMIX_NAMESPACE": "n"},
    "PMI": {"PMI_RANK": "1", "PMI_SIZE": "2"},
    "srun": {"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_ID": "0", "SLURM_JOB_ID": "14"},
}  # fmt: skip
BATCH = {"SLURM_PROCID": "0", "SLURM_JOB_ID": "14"}


@pytest.mark.parametrize("environ", LAUNCHED.values(), ids=LAUNCHED)
def test_the_second_process_of_a_launcher_is_rank_1(environ):
    within = {**BATCH, **environ, ranks.OUTSIDE: ranks.outside(BATCH)}
    assert ranks.find(within)[0] == 1
    assert ranks.find({name: value for name, value in within.items() if name != ranks.OUTSIDE})[0] == 1


@pytest.mark.parametrize("environ", LAUNCHED.values(), ids=LAUNCHED)
def test_a_run_within_the_second_process_of_a_launcher_has_a_rank_0(environ):
    """``srun -n 2 hpctrack run -- python train.py``: two runs, and each logs."""
    around = {**BATCH, **environ}
    assert ranks.find({**around, ranks.OUTSIDE: ranks.outside(around)}) == (0, "")


@pytest.mark.parametrize("outer", LAUNCHED.values(), ids=LAUNCHED)
def test_a_launcher_within_such_a_run_counts(outer):
    around = {**BATCH, **outer}
    inner = {"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_ID": "7"}
    assert ranks.find({**around, **inner, ranks.OUTSIDE: ranks.outside(around)}) == (1, "SLURM_PROCID")


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"RANK": "8"},
        {"RANK": "8", "WORLD_SIZE": "4"},
        {"RANK": "one", "WORLD_SIZE": "2"},
        {"RANK": "-1", "WORLD_SIZE": "2"},
        {"LOCAL_RANK": "3"},
        {"PMI_RANK": "5", "PMI_SIZE": "2"},
        {"SLURM_PROCID": ""},
        {"HOROVOD_RANK": "²"},
    ],
    ids=str,
)
def test_what_is_no_rank_is_none(environ):
    assert ranks.find(environ) == (0, "")


def test_a_torchrun_on_each_node_of_its_own_has_one_rank_0_in_all():
    own = {**LAUNCHED["torchrun"], **LAUNCHED["srun"], ranks.OUTSIDE: ranks.outside(BATCH)}
    found = [
        ranks.find({**own, "RANK": rank, "LOCAL_RANK": rank, "SLURM_PROCID": task})[0]
        for task in "01"
        for rank in "01"
    ]
    assert found == [0, 1, 2, 3]
    joined = {**own, "GROUP_WORLD_SIZE": "2", "WORLD_SIZE": "4", "RANK": "2", "LOCAL_RANK": "0"}
    assert ranks.find(joined)[0] == 2


BY_HAND = {
    "RANK of the batch script": {"RANK": "0", "WORLD_SIZE": "4"},
    "another one": {"RANK": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "n", "MASTER_PORT": "1"},
    "LOCAL_RANK": {"LOCAL_RANK": "0", "NODE_RANK": "0"},
    "all of them": {"RANK": "0", "WORLD_SIZE": "4", "LOCAL_RANK": "0", "NODE_RANK": "0"},
}


@pytest.mark.parametrize("environ", BY_HAND.values(), ids=BY_HAND)
@pytest.mark.parametrize(
    ("rank", "size"),
    [("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"), ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE")],
)
def test_what_a_script_exports_for_all_of_its_processes_tells_none_apart(environ, rank, size):
    found = [ranks.find({**BATCH, **environ, rank: str(task), size: "4"})[0] for task in range(4)]
    assert found == [0, 1, 2, 3]


def test_lightning_on_two_nodes():
    found = {
        ranks.find({"NODE_RANK": node, "LOCAL_RANK": local, "WORLD_SIZE": "4"})[0]
        for node in "01"
        for local in "01"
    }
    assert len(found) == 4 and 0 in found
