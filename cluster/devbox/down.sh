#!/bin/bash
# Stops what up.sh started, known by pid files alone; --wipe removes the box too.
set -u
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$here/lib.sh"

stop() { # stop PIDFILE NAME SECONDS: TERM, then KILL
  local file=$1 pid i
  running "$file" || { rm -f "$file"; return 0; }
  read -r pid < "$file"
  kill "$pid" 2> /dev/null
  for ((i = 0; i < $3 * 20; i++)); do
    lives "$pid" || { rm -f "$file"; say "stopped $2"; return 0; }
    sleep 0.05
  done
  kill -9 "$pid" 2> /dev/null
  rm -f "$file"
  say "killed $2"
}

cancel_jobs() { # before the daemons: a slurmstepd outlives its slurmd
  local i
  timeout 10 squeue -h -o %A 2> /dev/null | sort -u | xargs -r timeout 10 scancel 2> /dev/null
  for ((i = 0; i < 100; i++)); do
    [ -n "$(timeout 5 squeue -h 2> /dev/null)" ] || return 0
    sleep 0.1
  done
}

kill_orphans() { # a slurmstepd left behind would run on, and holds its socket in our spool
  local dir comm
  for dir in /proc/[0-9]*; do
    read -r comm < "$dir/comm" || continue
    [ "$comm" = slurmstepd ] && grep -qzxF "SLURM_CONF=$CONF" "$dir/environ" || continue
    kill -9 "${dir#/proc/}" && say "killed slurmstepd ${dir#/proc/}"
  done 2> /dev/null
}

wipe() {
  local rest
  rest=$(grep -vF "# latentctl $BOX" /etc/hosts)
  printf '%s\n' "$rest" > /etc/hosts
  rm -rf "$BOX"
  say "removed $BOX"
}

read_options "$@"
need_root
[ -e "$SETTINGS" ] || { say "there is no devbox at $BOX"; exit 0; }
! running "$(ctld_pid)" || cancel_jobs
for file in "$BOX"/run/slurmd.*.pid "$(ctld_pid)"; do # all at once: each takes seconds
  running "$file" && kill "$(cat "$file")" 2> /dev/null
done
for file in "$BOX"/run/slurmd.*.pid; do [ ! -e "$file" ] || stop "$file" "$(basename "$file" .pid)" 5; done
stop "$(ctld_pid)" slurmctld 10
stop "$(dbd_pid)" slurmdbd 10
kill_orphans
stop "$(maria_pid)" mariadbd 20
stop "$(munge_pid)" munged 5
[ "$(readlink /etc/slurm/slurm.conf 2> /dev/null)" != "$CONF" ] || rm -f /etc/slurm/slurm.conf
[ $WIPE = no ] || wipe
