"""sbatch's options, read as sbatch reads them.

``tests/data/sbatch-options-22.05.txt`` lists what sbatch 22.05.8 hands to getopt_long (name, has_arg), and
``sbatch-help-22.05.txt`` is its ``--help``.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpctrack.slurm.sbatch import options
from hpctrack.slurm.sbatch.options import NONE, OPTIONAL, REQUIRED
from tests.support.paths import DATA

HELP = (DATA / "sbatch-help-22.05.txt").read_text()
GETOPT = {
    name: int(arity)
    for name, arity in (line.split() for line in (DATA / "sbatch-options-22.05.txt").read_text().splitlines())
}
LISTED = options.parse_help(HELP)
PLUGINS = """
Options provided by plugins:
      --container-image=[USER@][REGISTRY#]IMAGE[:TAG]|PATH
                              [pyxis] the image to use for the container
                              filesystem; also see
                              --not-an-option=really
      --no-container-entrypoint
                              [pyxis] do not execute the entrypoint
      --x11=[value]           plugin of the site
  -Z, --zeta                  one with a letter
"""


def parse(line, listed=None):
    return options.parse(line.split(), LISTED if listed is None else listed)


def takes_a_word(table):
    """What decides where the script is. (Later releases let --requeue take a value in the same word.)"""
    return {name: table.get(name) == REQUIRED for name in GETOPT if name in table}


def test_known_options_are_those_of_a_real_sbatch():
    assert takes_a_word(options.KNOWN) == takes_a_word(GETOPT)


def test_help_gives_the_arity_of_a_real_sbatch():
    assert set(LISTED) <= set(GETOPT)
    assert len(LISTED) > 80
    assert takes_a_word(LISTED).items() <= takes_a_word(GETOPT).items()


def test_help_lists_the_options_of_plugins():
    listed = options.parse_help(HELP + PLUGINS)
    assert {name: listed[name] for name in listed if name not in LISTED} == {
        "container-image": REQUIRED,
        "no-container-entrypoint": NONE,
        "x11": REQUIRED,
        "zeta": NONE,
    }


@pytest.mark.parametrize(
    ("line", "script"),
    [
        ("train.sh", 0),
        ("train.sh --array=1", 0),
        ("-N 2 train.sh a b", 2),
        ("-N2 train.sh", 1),
        ("-HN 2 train.sh", 2),
        ("-HN2 train.sh", 1),
        ("-a1-3 -t 5 train.sh", 3),
        ("--array 1-3 train.sh", 2),
        ("--array=1-3 train.sh", 1),
        ("--arr 1-3 train.sh", 2),
        ("--wra x", None),
        ("--nice train.sh", 1),
        ("--nice=5 train.sh", 1),
        ("--exclusive train.sh", 1),
        ("--exclusive=user train.sh", 1),
        ("-k train.sh", 1),
        ("-koff train.sh", 1),
        ("--no-requeue train.sh", 1),
        ("-Q --parsable -W train.sh", 3),
        ("-- -N", 1),
        ("-N 1 --", None),
        ("-N 1 -- train.sh", 3),
        ("-n1 : -n2 train.sh x", 3),
        ("-n1 : -n 2 : --mem 5 train.sh", 7),
        ("-J : name train.sh", 3),
        (": train.sh", 1),
        ("-N 1", None),
        ("", None),
        ("- x", 0),
        ("-N -n train.sh", 2),
    ],
)
def test_where_the_script_is(line, script):
    parsed = parse(line)
    assert parsed.script == script
    assert parsed.unknown is None


def test_options_values_and_components():
    parsed = parse("-HN2 --array 0-3 -Jx : --mem=5 -J y script -J z")
    assert [(option.name, option.value, option.component) for option in parsed.options] == [
        ("hold", None, 0),
        ("nodes", "2", 0),
        ("array", "0-3", 0),
        ("job-name", "x", 0),
        ("mem", "5", 1),
        ("job-name", "y", 1),
    ]
    assert parsed.components == 2
    assert parsed.value("job-name") == "y"
    assert parsed.value("job-name", component=0) == "x"
    assert parsed.value("time") is None
    assert parsed.has("hold")
    assert not parsed.has("wrap", "quiet")
    assert [option.places for option in parsed.options] == [(0,), (0,), (1, 2), (3,), (5,), (6, 7)]


def test_the_last_of_repeated_options_counts():
    assert parse("-p a -p b x").value("partition") == "b"


@pytest.mark.parametrize(
    ("line", "unknown"),
    [("--plugin x", "--plugin"), ("-n1 -Y5 x", "-Y"), ("--plugin=5 x", "--plugin"), ("-n1 -HN", "-HN")],
)
def test_an_option_that_is_unknown_or_lacks_its_value_ends_the_reading(line, unknown):
    parsed = parse(line)
    assert (parsed.script, parsed.unknown) == (None, unknown)
    assert options.unfamiliar(line.split(), LISTED)


def test_help_is_needed_only_for_what_is_not_spelled_out():
    assert not options.unfamiliar("-N1 --array=1-3 --time 5 --exclusive x".split(), {})
    assert options.unfamiliar("--arr=1-3 x".split(), {})
    assert options.unfamiliar("--x11 yes x".split(), {})
    assert not options.unfamiliar("--arr=1-3 x".split(), LISTED)


def test_a_plugins_option_with_a_value_of_its_own_leaves_a_doubt():
    listed = options.parse_help(HELP + PLUGINS)
    parsed = parse("--x11 first.sh second.sh", listed)
    assert (parsed.script, parsed.doubtful) == (2, 1)
    assert parse("--x11=first second.sh", listed).doubtful is None
    assert parse("--container-im image -N 1 second.sh", listed).script == 4


def test_what_the_site_lists_decides_which_option_a_prefix_means():
    # 22.05 has no --resv-ports and no --resources, so --reso and --resv mean nothing there, --res is unique.
    assert parse("--res five train.sh").value("reservation") == "five"
    assert parse("--res five train.sh").script == 2


@given(
    st.lists(st.sampled_from(["-N", "1", "-N1", "--nice", ":", "--", "-", "x", "--array=1", "-Hn", "--j"]))
)
def test_reading_never_fails_and_points_into_the_list(words):
    parsed = options.parse(words, LISTED)
    assert parsed.script is None or (parsed.unknown is None and words[parsed.script] != ":")
    places = [place for option in parsed.options for place in option.places]
    assert all(0 <= place < (len(words) if parsed.script is None else parsed.script) for place in places)
    for option in parsed.options:
        if len(option.places) == 2:
            assert option.value == words[option.places[1]]


# ---- #SBATCH lines


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        (" --array=1-3 -J name", ["--array=1-3", "-J", "name"]),
        (" -J 'two words' # why", ["-J", "two words"]),
        (' -J "it\'s"', ["-J", "it's"]),
        (r" -J two\ words", ["-J", "two words"]),
        (r" -J a\"b", ["-J", 'a"b']),
        (" -J a#b c", ["-J", "a"]),
        (" -J 'a#b'", ["-J", "a#b"]),
        (" -J ''", ["-J"]),
        ("", []),
        ("-N1", ["-N1"]),
    ],
)
def test_directives_are_split_by_sbatchs_rules(text, arguments):
    assert list(options.split(text)) == arguments


def test_a_quote_that_is_not_closed():
    with pytest.raises(ValueError, match="unmatched '"):
        list(options.split(" -J 'x"))


def test_directives_of_a_comment_block():
    lines = [
        "#!/bin/sh",
        "# a comment --mem=1",
        "#SBATCH -J first",
        " #SBATCH -J not-at-the-start",
        "##SBATCH -J commented-out",
        "#SBATCH hetjob",
        "#SBATCH --mem=5",
        "#SBATCH packjob -n2",
        "#SLURM -t 5",
    ]
    assert options.directives(lines) == "-J first : --mem=5 : -n2 -t 5".split()


# ---- what a submission asks for


def request(line, environ=None, script=None):
    read = None if script is None else parse(script)
    return options.request(parse(line), environ or {}, read)


def test_command_line_over_environment_over_script():
    environ = {"SBATCH_JOB_NAME": "env", "SBATCH_PARTITION": "env", "SBATCH_TIMELIMIT": "5"}
    script = "-J script -p script -A script --array=1-3 -t 10 -q script"
    asked = request("-J line x", environ, script)
    assert (asked.job_name, asked.partition, asked.account, asked.qos) == ("line", "env", "script", "script")
    assert (asked.time_limit, asked.array) == (300.0, "1-3")
    assert request("x") == options.Request()


def test_clusters_by_option_and_by_variable():
    assert request("-M a,b x", {"SBATCH_CLUSTERS": "c"}).clusters == "a,b"
    assert request("--cluster=a x").clusters == "a"
    # Both are read in this order (src/sbatch/opt.c, env_vars), so the second wins.
    assert request("x", {"SBATCH_CLUSTERS": "c", "SLURM_CLUSTERS": "d"}).clusters == "d"


def test_of_a_heterogeneous_job_the_first_component_counts():
    asked = request("-p a -J one : -p b -J two x")
    assert (asked.partition, asked.job_name, asked.components) == ("a", "one", 2)
    asked = request("x", {}, "-p a : -p b")
    assert (asked.partition, asked.components) == ("a", 2)


def test_test_only_counts_wherever_it_stands():
    assert request("-n1 : --test-only x").test_only
    assert request("x", {}, "--test-only").test_only
    assert not request("x --test-only").test_only


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("5", 300.0),
        ("5:30", 330.0),
        ("2:05:30", 7530.0),
        ("1-0", 86400.0),
        ("1-2:30", 95400.0),
        ("1-2:30:15", 95415.0),
        ("UNLIMITED", None),
        ("-1", None),
        ("", None),
        (None, None),
    ],
)
def test_time_limits(text, seconds):
    assert options.seconds(text) == seconds


def test_arities_are_those_of_getopt():
    assert (NONE, REQUIRED, OPTIONAL) == (0, 1, 2)
