"""Names that nothing has are answered with the nearest one, wherever they are asked for."""

from __future__ import annotations

import pytest


@pytest.fixture
def known(run):
    run(
        "COMPLETED",
        "digits",
        {"last": {"val_loss": 0.5, "train/acc": 1}},
        args={"lr": 0.1, "opt": {"name": "adam"}, "layers": [64, 32]},
        tags={"baseline": True},
        partition="gpu",
        user_name="alice",
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--sort", "metrics.val_los"], "none has a metric 'val_los': did you mean 'val_loss'?"),
        (["--sort", "-args.Lr"], "none has an argument 'Lr': did you mean 'lr'?"),
        (["-o", "run,metrics.valloss%9"], "none has a metric 'valloss': did you mean 'val_loss'?"),
        (["-o", "run,metrics.valloss", "--csv"], "none has a metric 'valloss': did you mean 'val_loss'?"),
        (["-o", "tags.baselin", "-P"], "none has a tag 'baselin': did you mean 'baseline'?"),
        (["--where", "metrics.los is null"], "none has a metric 'los': did you mean 'val_loss'?"),
        (["--where", "not (args.optt = 1 or state = FAILED)"], "an argument 'optt': did you mean 'opt'?"),
        (["--where", "args.lrr < 1", "--count"], "none has an argument 'lrr': did you mean 'lr'?"),
        (["--where", "args.opt.nam = sgd"], "an argument 'opt.nam': did you mean 'opt.name'?"),
        (["-o", "run,args.opt.Name"], "an argument 'opt.Name': did you mean 'opt.name'?"),
        (["--where", "args.lrr < 1", "--json"], "none has an argument 'lrr': did you mean 'lr'?"),
        (["-T", "base"], "none has a tag 'base': did you mean 'baseline'?"),
        (["-E", "digit"], "no experiment 'digit': did you mean 'digits'?"),
        (["-E", "zzz", "--json"], "no experiment 'zzz': there are: digits"),
        (["--user", "alcie"], "none is of user 'alcie': did you mean 'alice'?"),
        (["-p", "cpu"], "none is in partition 'cpu': did you mean 'gpu'?"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_the_nearest_name_is_told_beside_the_answer(cli, known, arguments, said):
    code, _, err = cli("status", *arguments)
    assert code == 0
    assert said in err
    assert err.startswith("hpctrack: ") and err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["--sort", "metrics.val_loss"],
        ["-o", "args.lr,args.opt.name,tags.baseline,metrics.train/acc,latest"],
        ["--where", "metrics.val_loss > 9"],
        ["-T", "baseline", "--state", "FAILED"],
        ["-E", "digits", "-t", "F"],
        ["--user", "alice", "-t", "F"],
        ["--where", "args.opt.name = sgd"],
        ["--where", "args.layers.0 = 1 or args.opt = 1"],
        [],
    ],
)
def test_nothing_is_said_of_names_that_there_are(cli, known, arguments):
    code, _, err = cli("status", *arguments)
    assert (code, err) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (
            ["prune", "--older-than", "1d", "-E", "digit", "-n"],
            0,
            "no experiment 'digit': did you mean 'digits'",
        ),
        (["experiment", "show", "digit"], 3, "no experiment 'digit': did you mean 'digits'"),
        (["export", "-E", "digit", "-o", "x.csv"], 3, "no experiment 'digit': did you mean 'digits'"),
        (["metrics", "r1", "val_los"], 2, "r1 has no metric 'val_los'"),
        (["plot", "r1", "val_los"], 2, "'val_los' is neither a metric of r1 nor a run"),
        (["show", "r1", "--plot", "val_los"], 2, "r1 has no numbers of metric 'val_los'"),
        (["show", "trian.sh"], 3, "no run's name begins with 'trian.sh': did you mean 'train.sh'?"),
        (["untag", "r1", "baselin"], 0, "r1 had no tag 'baselin': did you mean 'baseline'?"),
        (["templates", "aray"], 2, "no template 'aray': did you mean 'array'?"),
        (["status", "--state", "FAILD"], 2, "'FAILD' is no job state of Slurm's: did you mean 'FAILED'?"),
        (["status", "-o", "run,nmae"], 2, "'nmae' is no column: did you mean 'name'?"),
        (["status", "-o", "arg.lr"], 2, "'arg.lr' is no column: did you mean 'args.lr'?"),
        (["status", "--sort", "elapsd"], 2, "'elapsd' is no field of a run: did you mean 'elapsed'?"),
        (["status", "--where", "metric.loss < 1"], 2, "did you mean 'metrics.loss'?"),
        (["status", "--where", "state = FAILD"], 2, "did you mean 'FAILED'?"),
        (["status", "--user", "alice", "--user", "alcie"], 0, "of user 'alcie': did you mean 'alice'?"),
        (["staus"], 2, "did you mean status?"),
        (["status", "--stat", "F"], 2, "--state"),
        (["experiment", "lst"], 2, "Did you mean 'list'?"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_other_verbs_say_it_too(cli, known, connection, insert, arguments, code, said):
    exit_code, _, err = cli(*arguments)
    assert exit_code == code
    assert said in err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("colector = h:1", "hpctrack.conf:1: unknown key 'colector': did you mean 'collector'?"),
        ("pasword = x", "unknown key 'pasword': did you mean 'password'?"),
        ("zzzzzz = x", "unknown key 'zzzzzz'\n"),
    ],
)
def test_keys_of_the_configuration(cli, tmp_path, monkeypatch, text, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hpctrack.conf").write_text(text + "\n")
    code, _, err = cli("status")
    assert code == 78
    assert said in err


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("HPCTRACK_COLECTOR", "HPCTRACK_COLLECTOR"),
        ("HPCTRACK_DATADIR", "HPCTRACK_DATA_DIR"),
        ("HPCTRACK_TAG", "HPCTRACK_TAGS"),
        ("HPCTRACK_ARGS", None),
        ("HPCTRACK_JOURNAL", None),
        ("HPCTRACK_JOB_ID", None),
    ],
)
def test_variables_of_the_environment(cli, monkeypatch, name, meant):
    monkeypatch.setenv(name, "1")
    code, _, err = cli("status")
    assert code == 0
    said = f"hpctrack: {name} is no variable of hpctrack's: did you mean {meant}?\n"
    assert err == ("" if meant is None else said)
