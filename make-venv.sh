#!/bin/sh
# Makes .venv with the best of these Pythons: `sh make-venv.sh NAME...`, for `make setup`.
#
# Each name is looked for in every folder of PATH, for a slower Python may hide a faster one. The
# first that was built with optimisations and can make a .venv is taken, else the first that can.
set -f

# What a build says of itself. Debian and Ubuntu profile theirs and then clean the flag out of what
# they install: no other build has a flag to make a profile and none to use it.
JUDGE='
import sys, sysconfig
if sys.version_info < (3, 11): sys.exit("it is older than 3.11")
var = lambda name: str(sysconfig.get_config_var(name) or "")
flags = " ".join(map(var, ("CFLAGS", "PY_CORE_CFLAGS", "PY_CORE_LDFLAGS")))
is_profiled = (
    "--enable-optimizations" in var("CONFIG_ARGS")
    or "-fprofile-use" in flags or "-fprofile-instr-use" in flags
    or (var("PGO_PROF_GEN_FLAG") and not var("PGO_PROF_USE_FLAG"))
)
print("optimised" if is_profiled else "plain")
'

# found NAME: its executables, one a line, in the order of PATH.
found() {
    case $1 in */*) printf '%s\n' "$1"; return ;; esac
    rest=$PATH:
    while [ -n "$rest" ]; do
        folder=${rest%%:*}
        rest=${rest#*:}
        if [ -f "${folder:-.}/$1" ] && [ -x "${folder:-.}/$1" ]; then
            printf '%s\n' "${folder:-.}/$1"
        fi
    done
}

# make_with KIND WHY: .venv by the first of that kind that can make one. False: none could.
make_with() {
    while IFS=' ' read -r kind python; do
        [ "$kind" = "$1" ] || continue
        echo "creating .venv with $python: $2"
        "$python" -m venv .venv </dev/null && exit 0
        rm -rf .venv
        echo "$python cannot make a .venv; on Debian: apt-get install python3-venv"
    done <<EOF
$judged
EOF
}

judged=$(for name in "$@"; do found "$name"; done | while IFS= read -r python; do
    kind=$("$python" -c "$JUDGE" 2>/dev/null </dev/null) && printf '%s %s\n' "$kind" "$python"
done)
if [ -z "$judged" ]; then
    echo "Veltrix needs Python 3.11 or newer; install it and run make setup again."
    exit 1
fi
make_with optimised "it was built with optimisations"
make_with plain "none that was built with optimisations is here, which settles a third more"
exit 1
