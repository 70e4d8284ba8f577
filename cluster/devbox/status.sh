#!/bin/bash
# One line per daemon: `NAME up|down`. Exit 0 when all are up, 1 otherwise. Needs no root.
set -u
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$here/lib.sh"

read_options "$@"
[ -e "$SETTINGS" ] || refuse "there is no devbox at $BOX" "latentctl devbox up"
code=0
report() { if running "$2"; then echo "$1 up"; else echo "$1 down"; code=1; fi; }
report munged "$(munge_pid)"
report mariadbd "$(maria_pid)"
report slurmdbd "$(dbd_pid)"
report slurmctld "$(ctld_pid)"
for ((i = 1; i <= NODES; i++)); do report "slurmd.node$i" "$(node_pid $i)"; done
exit $code
