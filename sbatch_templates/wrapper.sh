# hpctrack: below is the submitted script; it is tracked where that is possible, and otherwise runs all the same.
# Options that were exported are the script's: bash works without, and hands on what it was given.
{ [ -z "${BASH_VERSION-}" ] || set +abefkmuvxBCEHPT +p; } 2>/dev/null
hpctrack_shellopts='' hpctrack_bashopts='' hpctrack_status='' hpctrack_ignored=0
hpctrack_copy='' hpctrack_same=@SAME_SHELL@ # whether the script is for this very shell
hpctrack_funcnest=${FUNCNEST+x$FUNCNEST} # how deep functions may go is not for ours
unset FUNCNEST
hpctrack_line=$((@MARKER_LINE@ + 1))
hpctrack_python=@PYTHON@
hpctrack_main=@MAIN@
hpctrack_become() {
    trap - EXIT
    [ -z "$hpctrack_funcnest" ] || export FUNCNEST="${hpctrack_funcnest#x}"
    [ -z "$hpctrack_bashopts" ] || set -- "$hpctrack_bashopts" "$@"
    [ -z "$hpctrack_shellopts" ] || set -- "$hpctrack_shellopts" "$@"
    [ -z "$hpctrack_shellopts$hpctrack_bashopts" ] || set -- /usr/bin/env "$@"
    exec "$@"
}
hpctrack_supervise() {
    [ -z "${PYTHONEXECUTABLE+x}" ] || export HPCTRACK_GIVEN_PYTHONEXECUTABLE="$PYTHONEXECUTABLE"
    unset PYTHONEXECUTABLE # which Python believes even when it is isolated
    export HPCTRACK_SCRIPT=@SCRIPT@
    hpctrack_become "$hpctrack_python" -I -S -X "ignored=$hpctrack_ignored" "$hpctrack_main" supervise @OPTIONS@ \
        --script-line "$hpctrack_line" -- "$0" "$@"
}
if [ -n "${HPCTRACK_FAILED-}" ]; then # Python is back: it could not load what the probe had loaded
    hpctrack_status=125
fi
unset HPCTRACK_FAILED
# A shell that may start no process or open no file ends here: Python, if it is there, needs less.
hpctrack_end() {
    case $hpctrack_status in 3 | 125 | 126 | 127 | 137 | 139) return ;; esac
    [ ! -x "$hpctrack_python" ] || hpctrack_supervise "$@"
}
trap 'hpctrack_end "$@"' EXIT
if [ -n "${BASH_VERSION-}" ]; then
    while IFS= read -r -d '' hpctrack_entry; do
        case $hpctrack_entry in
            SHELLOPTS=*) hpctrack_shellopts=$hpctrack_entry ;;
            BASHOPTS=*) hpctrack_bashopts=$hpctrack_entry ;;
            BASH_FUNC_* | BASH_ENV=* | CDPATH=* | GLOBIGNORE=*) ;;
            *) continue ;;
        esac
        hpctrack_same=''
    done </proc/$$/environ || hpctrack_same=''
fi 2>/dev/null
# Python ignores some signals itself, and so has to be told which were ignored before.
while read -r hpctrack_name hpctrack_entry; do
    [ "$hpctrack_name" != SigIgn: ] || hpctrack_ignored=$hpctrack_entry
done </proc/$$/status
# Where Python or hpctrack is missing, or the file system with them hangs, the job does without.
hpctrack_limit='command -p timeout -s KILL 3'
[ -n "$(command -pv timeout)" ] || hpctrack_limit=
# In a subshell: dash loses its own output where a redirection finds no room (ulimit -n).
hpctrack_probe() (
    exec </dev/null >/dev/null 2>&1
    $hpctrack_limit "$hpctrack_python" -I -S "$hpctrack_main" --probe
    exit $? # how it died is said in here
)
# What Python does not start with it gets to know under another name, and puts it back for the script.
hpctrack_hide() {
    [ -z "${LD_LIBRARY_PATH+x}" ] || export HPCTRACK_GIVEN_LD_LIBRARY_PATH="$LD_LIBRARY_PATH"
    [ -z "${LD_PRELOAD+x}" ] || export HPCTRACK_GIVEN_LD_PRELOAD="$LD_PRELOAD"
    unset LD_LIBRARY_PATH LD_PRELOAD
}
if [ -z "$hpctrack_status" ]; then
    hpctrack_probe && hpctrack_supervise "$@"
    hpctrack_status=$?
fi
[ "$hpctrack_status" -eq 125 ] || [ "$hpctrack_status" -eq 137 ] || [ -z "${LD_LIBRARY_PATH-}${LD_PRELOAD-}" ] ||
    { (hpctrack_hide && hpctrack_probe) && hpctrack_hide && hpctrack_supervise "$@"; }
case $hpctrack_status in
    126 | 127) hpctrack_why="can't start $hpctrack_python on this node" ;;
    3) hpctrack_why='the limit of the stack (ulimit -s) leaves no room for Python' ;;
    125) hpctrack_why="what worked once failed then: $hpctrack_python -I -S $hpctrack_main --probe" ;;
    137) hpctrack_why='starting hpctrack took more than 3 seconds' ;;
    *) hpctrack_why="this fails on this node: $hpctrack_python -I -S $hpctrack_main --probe" ;;
esac
(echo "hpctrack: this job runs untracked: $hpctrack_why" >&2)
export HPCTRACK_JOURNAL=/dev/null HPCTRACK_SCRIPT=@SCRIPT@
hpctrack_importable=@IMPORTABLE@
if [ "$hpctrack_status" -ne 137 ] && [ -n "$hpctrack_importable" ] && [ -d "$hpctrack_importable" ]; then
    export PYTHONPATH="${PYTHONPATH:+$PYTHONPATH:}$hpctrack_importable" # the import does no harm
fi
hpctrack_text() { command -p tail -n "+$hpctrack_line" "$0"; }
hpctrack_found=$(command -p sed -n '/^[$]{hpctrack_on-exit 126} # hpctrack: /{=;q;}' "$0")
hpctrack_line=$((${hpctrack_found:-@MARKER_LINE@} + 1))
hpctrack_size=$(hpctrack_text | command -p wc -c)
hpctrack_room=$(ulimit -H -f) # in blocks, of 512 bytes in the smallest
[ -w "$0" ] || hpctrack_copy=$(command -p mktemp -d)/slurm_script
# The shell reads this whole before it runs it, so that this file may change underneath.
{
    # slurmd's copy of this file is the user's own. It becomes what plain sbatch would have put there: each
    # byte moves to the front after it was read, which needs no other place and leaves nothing behind. How
    # large the script's files may be is not for this one, as far as the hard limit goes.
    if [ "${hpctrack_size:-0}" -eq 0 ]; then
        :
    elif [ -n "$hpctrack_copy" ]; then
        hpctrack_text >"$hpctrack_copy" &&
            command -p chmod 700 "$hpctrack_copy" && hpctrack_become "$hpctrack_copy" "$@"
    elif [ "$hpctrack_room" = unlimited ] || [ $((hpctrack_room * 512)) -gt "$hpctrack_size" ]; then
        (
            ulimit -S -f "$hpctrack_room"
            hpctrack_text | command -p dd of="$0" conv=notrunc &&
                command -p dd if=/dev/null of="$0" bs=1 seek="$hpctrack_size"
        ) 2>/dev/null && hpctrack_become "$0" "$@"
        exit 126
    fi
    # No program can be started, or no byte written: the script's own shell can read on, if it is this one, and if it is
    # sound (Python, where it starts, is better).
    [ -n "$hpctrack_same" ] || exit 126
    case $hpctrack_status in 3 | 125 | 126 | 127 | 137 | 139) ;; *) exit 126 ;; esac
    trap - EXIT
    [ -z "$hpctrack_funcnest" ] || export FUNCNEST="${hpctrack_funcnest#x}"
    unset -f hpctrack_become hpctrack_supervise hpctrack_end hpctrack_probe hpctrack_hide hpctrack_text
    unset hpctrack_line hpctrack_python hpctrack_main hpctrack_limit hpctrack_status hpctrack_why hpctrack_found
    unset hpctrack_importable hpctrack_size hpctrack_room hpctrack_same hpctrack_funcnest hpctrack_ignored
    unset hpctrack_shellopts hpctrack_bashopts hpctrack_name hpctrack_entry hpctrack_copy
    [ -z "${BASH_VERSION-}" ] || set -B # as it is without any option
    hpctrack_on='' # the line below ends nothing then
}
${hpctrack_on-exit 126} # hpctrack: the submitted script follows, byte for byte
