# hpctrack: below is the submitted script; it is tracked where that is possible, and otherwise runs all the same.
[ -z "${BASH_VERSION-}" ] || set +p
hpctrack_line=$(command -p sed -n '/^exit 126 # hpctrack: /{=;q;}' "$0")
hpctrack_line=$((${hpctrack_line:-@MARKER_LINE@} + 1))
hpctrack_python=@PYTHON@
hpctrack_main=@MAIN@
# Where Python or hpctrack is missing, or the file system with them hangs, the job does without.
hpctrack_limit='command -p timeout -s KILL 3'
command -pv timeout >/dev/null || hpctrack_limit=
hpctrack_probe() {
    $hpctrack_limit "$hpctrack_python" -I -S "$hpctrack_main" --probe </dev/null >/dev/null 2>&1
}
# What Python does not start with it gets to know under another name, and puts it back for the script.
hpctrack_hide() {
    [ -z "${LD_LIBRARY_PATH+x}" ] || export HPCTRACK_GIVEN_LD_LIBRARY_PATH="$LD_LIBRARY_PATH"
    [ -z "${LD_PRELOAD+x}" ] || export HPCTRACK_GIVEN_LD_PRELOAD="$LD_PRELOAD"
    unset LD_LIBRARY_PATH LD_PRELOAD
}
hpctrack_supervise() {
    [ -z "${PYTHONEXECUTABLE+x}" ] || export HPCTRACK_GIVEN_PYTHONEXECUTABLE="$PYTHONEXECUTABLE"
    unset PYTHONEXECUTABLE # which Python believes even when it is isolated
    export HPCTRACK_SCRIPT=@SCRIPT@
    exec "$hpctrack_python" -I -S "$hpctrack_main" supervise @OPTIONS@ \
        --script-line "$hpctrack_line" -- "$0" "$@"
}
{ hpctrack_probe; } 2>/dev/null && hpctrack_supervise "$@"
hpctrack_status=$?
[ "$hpctrack_status" -eq 137 ] || [ -z "${LD_LIBRARY_PATH-}${LD_PRELOAD-}" ] ||
    { (hpctrack_hide && hpctrack_probe) 2>/dev/null && hpctrack_hide && hpctrack_supervise "$@"; }
case $hpctrack_status in
    126 | 127) hpctrack_why="can't start $hpctrack_python on this node" ;;
    137) hpctrack_why='starting hpctrack took more than 3 seconds' ;;
    *) hpctrack_why="this fails on this node: $hpctrack_python -I -S $hpctrack_main --probe" ;;
esac
echo "hpctrack: this job runs untracked: $hpctrack_why" >&2
export HPCTRACK_JOURNAL=/dev/null HPCTRACK_SCRIPT=@SCRIPT@
# The shell reads this whole before it runs it, so that this file may change underneath.
{
    hpctrack_size=$(command -p tail -n "+$hpctrack_line" "$0" | command -p wc -c)
    [ "$hpctrack_size" -gt 0 ] || exit 126
    if [ -w "$0" ]; then
        # slurmd's copy of this file is the user's own. It becomes what plain sbatch would have put there: each
        # byte moves to the front after it was read, which needs no other place and leaves nothing behind.
        command -p tail -n "+$hpctrack_line" "$0" | command -p dd of="$0" conv=notrunc 2>/dev/null &&
            command -p dd if=/dev/null of="$0" bs=1 seek="$hpctrack_size" 2>/dev/null && exec "$0" "$@"
    else
        hpctrack_copy=$(command -p mktemp -d)/slurm_script
        command -p tail -n "+$hpctrack_line" "$0" >"$hpctrack_copy" &&
            command -p chmod 700 "$hpctrack_copy" && exec "$hpctrack_copy" "$@"
    fi
    exit 126
}
exit 126 # hpctrack: the submitted script follows, byte for byte
