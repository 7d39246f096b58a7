"""A site's job_submit plugin (lua) sees of a tracked job what it sees of a plain one."""

from __future__ import annotations

from pathlib import Path

import pytest

pytestmark = pytest.mark.cluster

#: Tells the user what it is given, adds a comment, refuses whoever asks for no time.
PLUGIN = """\
local fields = {"name", "partition", "time_limit", "min_cpus", "num_tasks", "comment", "work_dir", "std_out",
    "array_inx", "begin_time", "nice", "requeue", "mail_user", "user_id"}
function slurm_job_submit(job, partitions, uid)
    local seen = {}
    for _, field in ipairs(fields) do seen[#seen + 1] = field .. "=" .. tostring(job[field]) end
    for line in job.script:gmatch("[^\\n]+") do
        if line:find("^#SBATCH") or line:find("^#SITE") then
            if not seen[line] then seen[#seen + 1] = line end
            seen[line] = true -- those of the block stand in the script, too
        end
    end
    seen[#seen + 1] = "module load: " .. tostring(job.script:find("\\nmodule load x\\n") ~= nil)
    slurm.log_user("%s", table.concat(seen, "|"))
    if job.time_limit == slurm.NO_VAL then
        slurm.log_user("say how long it takes")
        return slurm.ERROR
    end
    job.comment = "by the site"
    return slurm.SUCCESS
end
function slurm_job_modify() return slurm.SUCCESS end
return slurm.SUCCESS
"""
SCRIPT = """\
#!/bin/bash
#SBATCH -J directives
#SBATCH --comment="its own"
#SITE needs=scratch

#SBATCH -n2 --mail-user=x
: || \\
module load x
exit 3
"""


@pytest.fixture
def plugin(cluster):
    """The plugin, configured as a site does, while the test runs."""
    if not list(Path("/usr/lib").glob("*/slurm-wlm/job_submit_lua.so")):
        pytest.skip("no lua plugin of Slurm here")
    etc = Path(cluster.directory) / "etc"
    local = etc / "local.conf"
    before = local.read_text()
    (etc / "job_submit.lua").write_text(PLUGIN)
    local.write_text(before + "JobSubmitPlugins=lua\n")
    cluster.daemon("restart", "slurmctld")
    yield
    local.write_text(before)
    (etc / "job_submit.lua").unlink()
    cluster.daemon("restart", "slurmctld")


def test_a_plugin_sees_and_does_the_same(alice, await_until, plugin):
    script = alice.write("plugged/job.sh", SCRIPT)
    await_until(lambda: alice.run("sinfo", check=False).returncode == 0, 60, "slurmctld")
    for options in (["-t", "2", "-a", "3"], ["-t", "2", "--nice=7"], []):
        said, rows = [], []
        for front in ([], ["hpctrack"]):
            done = alice.run(*front, "sbatch", "-o", "/dev/null", "--parsable", *options, script, check=False)
            own = [line for line in done.stderr.splitlines() if not line.startswith("hpctrack: ")]
            said.append((done.returncode, own))
            if done.returncode == 0:
                job = done.stdout.strip()
                shown = alice.run("scontrol", "-o", "show", "job", job).stdout
                names = ("JobName=", "Comment=", "WorkDir=", "Nice=", "NumTasks=")
                rows.append([word for word in shown.split() if word.startswith(names)])
        assert said[1] == said[0]
        assert "#SITE needs=scratch" in said[0][1][0] and "module load: true" in said[0][1][0]
        assert (said[0][0] == 0) == bool(options)
        assert rows[1:] == rows[:1]
