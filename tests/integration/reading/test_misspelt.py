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
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_other_verbs_say_it_too(cli, known, connection, insert, arguments, code, said):
    found, _, err = cli(*arguments)
    assert found == code
    assert said in err
