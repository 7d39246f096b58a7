# hpctrack: below is the submitted script; it is tracked where that is possible, and otherwise runs all the same.
# Options that were exported are the script's: bash works without, and hands on what it was given.
{ [ -z "${BASH_VERSION-}" ] || set +abefkmuvxBCEHPT +p; } 2>/dev/null
hpctrack_shellopts='' hpctrack_bashopts='' hpctrack_status=''
hpctrack_line=$((@MARKER_LINE@ + 1))
hpctrack_python=@PYTHON@
hpctrack_main=@MAIN@
hpctrack_become() {
    trap - EXIT
    [ -z "$hpctrack_bashopts" ] || set -- "$hpctrack_bashopts" "$@"
    [ -z "$hpctrack_shellopts" ] || set -- "$hpctrack_shellopts" "$@"
    [ -z "$hpctrack_shellopts$hpctrack_bashopts" ] || set -- /usr/bin/env "$@"
    exec "$@"
}
hpctrack_supervise() {
    [ -z "${PYTHONEXECUTABLE+x}" ] || export HPCTRACK_GIVEN_PYTHONEXECUTABLE="$PYTHONEXECUTABLE"
    unset PYTHONEXECUTABLE # which Python believes even when it is isolated
    export HPCTRACK_SCRIPT=@SCRIPT@
    hpctrack_become "$hpctrack_python" -I -S "$hpctrack_main" supervise @OPTIONS@ \
        --script-line "$hpctrack_line" -- "$0" "$@"
}
# A shell that may start no process or open no file ends here: Python, if it is there, needs less.
hpctrack_end() {
    case $hpctrack_status in 126 | 127 | 137) return ;; esac
    [ ! -x "$hpctrack_python" ] || hpctrack_supervise "$@"
}
trap 'hpctrack_end "$@"' EXIT
if [ -n "${BASH_VERSION-}" ]; then
    while IFS= read -r -d '' hpctrack_entry; do
        case $hpctrack_entry in
            SHELLOPTS=*) hpctrack_shellopts=$hpctrack_entry ;;
            BASHOPTS=*) hpctrack_bashopts=$hpctrack_entry ;;
        esac
    done </proc/$$/environ
fi 2>/dev/null
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
hpctrack_importable=@IMPORTABLE@
if [ "$hpctrack_status" -ne 137 ] && [ -n "$hpctrack_importable" ] && [ -d "$hpctrack_importable" ]; then
    export PYTHONPATH="${PYTHONPATH:+$PYTHONPATH:}$hpctrack_importable" # the import does no harm
fi
# The shell reads this whole before it runs it, so that this file may change underneath.
{
    hpctrack_found=$(command -p sed -n '/^exit 126 # hpctrack: /{=;q;}' "$0")
    hpctrack_line=$((${hpctrack_found:-@MARKER_LINE@} + 1))
    hpctrack_text() { command -p tail -n "+$hpctrack_line" "$0"; }
    hpctrack_size=$(hpctrack_text | command -p wc -c)
    [ "${hpctrack_size:-0}" -gt 0 ] || exit 126
    # slurmd's copy of this file is the user's own. It becomes what plain sbatch would have put there: each
    # byte moves to the front after it was read, which needs no other place and leaves nothing behind. How
    # large the script's files may be is not for this one.
    if [ -w "$0" ]; then
        (
            ulimit -S -f "$(ulimit -H -f)"
            hpctrack_text | command -p dd of="$0" conv=notrunc &&
                command -p dd if=/dev/null of="$0" bs=1 seek="$hpctrack_size"
        ) 2>/dev/null && hpctrack_become "$0" "$@"
    else
        hpctrack_copy=$(command -p mktemp -d)/slurm_script
        hpctrack_text >"$hpctrack_copy" &&
            command -p chmod 700 "$hpctrack_copy" && hpctrack_become "$hpctrack_copy" "$@"
    fi
    exit 126
}
exit 126 # hpctrack: the submitted script follows, byte for byte
