#!/bin/bash
# Brings up a real multi-node Slurm with accounting on one Debian 12 machine, without systemd, containers or cgroups.
# Running it again on a running box checks and repairs it. Everything lives in --dir; see README.md.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$here/lib.sh"

check_machine() {
  local missing=() c
  for c in $COMMANDS; do command -v "$c" > /dev/null || missing+=("$c"); done
  if [ ${#missing[@]} -gt 0 ] && [ $INSTALL = yes ]; then
    install_packages
    missing=()
    for c in $COMMANDS; do command -v "$c" > /dev/null || missing+=("$c"); done
  fi
  [ ${#missing[@]} -eq 0 ] || refuse "missing programs: ${missing[*]}" \
    "apt-get update && apt-get install -y --no-install-recommends $PACKAGES   (or: latentctl devbox up --install)"
}

install_packages() { # a policy that forbids it keeps the packages from starting daemons of their own
  command -v apt-get > /dev/null || refuse "--install knows only apt-get (Debian, Ubuntu)" "install $PACKAGES yourself"
  local policy=/usr/sbin/policy-rc.d made=no
  [ -e $policy ] || { printf '#!/bin/sh\nexit 101\n' > $policy; chmod 755 $policy; made=yes; }
  say "installing $PACKAGES"
  local ok=yes
  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $PACKAGES; } \
    > /dev/null || ok=no
  [ $made = no ] || rm -f $policy
  [ $ok = yes ] || die "apt-get could not install $PACKAGES"
}

check_box() {
  local settings="nodes=$NODES port=$PORT enforce=$ENFORCE" p
  if [ -d "$BOX" ] && [ ! -e "$SETTINGS" ] && [ -n "$(ls -A "$BOX")" ]; then
    refuse "$BOX is not empty and not a devbox" "give another --dir"
  fi
  if running "$(ctld_pid)" && [ "$(cat "$SETTINGS")" != "$settings" ]; then
    refuse "the devbox at $BOX runs with other settings: $(cat "$SETTINGS")" "latentctl devbox down --dir $BOX, then up again"
  fi
  running "$(ctld_pid)" || for p in $PORT $((PORT + 1)) $((PORT + 2)) $(seq $((PORT + 11)) $((PORT + 10 + NODES))); do
    port_owner_is_box "$p" || ! (exec 3<> "/dev/tcp/127.0.0.1/$p") 2> /dev/null \
      || refuse "port $p is taken" "another devbox? give another --port"
  done
  local above=$BOX
  while [ ! -e "$above" ]; do above=$(dirname "$above"); done
  runuser -u slurm -- test -x "$above" || refuse "user slurm cannot enter $above" "--dir must be open to ordinary users"
  install -d -m 755 "$BOX" "$BOX/etc" "$BOX/dev" "$BOX/log" "$BOX/run"
  echo "$settings" > "$SETTINGS"
}

port_owner_is_box() { # a daemon of this box that survived while slurmctld did not
  case $(($1 - PORT)) in
    1) running "$(dbd_pid)" ;;
    2) running "$(maria_pid)" ;;
    1[1-9] | [2-4][0-9]) running "$(node_pid $(($1 - PORT - 10)))" ;;
    *) false ;;
  esac
}

make_folders() {
  local i
  install -d -m 755 -o munge -g munge "$BOX/munge"
  install -d -m 750 -o mysql -g mysql "$BOX/mysql"
  install -d -m 755 -o slurm -g slurm "$BOX/state" "$BOX/log/slurm" "$BOX/run/slurm"
  for ((i = 1; i <= NODES; i++)); do install -d -m 755 "$BOX/spool" "$BOX/spool/node$i"; done
  for i in 0 1 2 3; do # a clone of /dev/null passes for a GPU; its trailing number becomes CUDA_VISIBLE_DEVICES
    [ -e "$BOX/dev/nvidia$i" ] || mknod -m 666 "$BOX/dev/nvidia$i" c 1 3 2> /dev/null || : > "$BOX/dev/nvidia$i"
  done
  for ((i = 1; i <= NODES; i++)); do # MASTER_ADDR is a node's name
    grep -qxF "127.0.0.1 node$i # latentctl $BOX" /etc/hosts || echo "127.0.0.1 node$i # latentctl $BOX" >> /etc/hosts
  done
}

range() { [ "$1" = 1 ] && echo node1 || echo "node[1-$1]"; }

write_configuration() {
  local password=$BOX/etc/database-password gpus=$((NODES < 3 ? NODES : 3)) h100=$((NODES < 2 ? NODES : 2)) i gres
  [ -s "$password" ] || (umask 077; head -c 18 /dev/urandom | base64 | tr -dc 'a-zA-Z0-9' > "$password")
  render() {
    sed -e "s|@BOX@|$BOX|g" -e "s|@HOST@|$(hostname -s)|g" -e "s|@PORT@|$PORT|g" -e "s|@DBD_PORT@|$((PORT + 1))|g" \
      -e "s|@DB_PORT@|$((PORT + 2))|g" -e "s|@ENFORCE@|$ENFORCE|g" -e "s|@DB_PASSWORD@|$(cat "$password")|g" "$1"
  }
  {
    render "$here/slurm.conf.in"
    for ((i = 1; i <= NODES; i++)); do
      gres=
      [ $i -gt $h100 ] || gres=Gres=gpu:h100:4
      [ $i -ne 3 ] || gres=Gres=gpu:v100:2
      echo "NodeName=node$i NodeHostname=localhost NodeAddr=127.0.0.1 Port=$((PORT + 10 + i)) CPUs=8 RealMemory=16000 $gres"
    done
    cat << CONF
PartitionName=debug Nodes=$(range $NODES) Default=YES PriorityTier=10 PreemptMode=OFF DefaultTime=00:10:00 MaxTime=01:00:00
PartitionName=gpu Nodes=$(range $gpus) PriorityTier=10 PreemptMode=OFF DefaultTime=00:10:00 MaxTime=04:00:00
PartitionName=high Nodes=$(range $gpus) PriorityTier=100 PreemptMode=OFF DefaultTime=00:10:00 MaxTime=01:00:00
PartitionName=scav Nodes=$(range $gpus) PriorityTier=1 PreemptMode=REQUEUE GraceTime=5 DefaultTime=00:10:00 MaxTime=08:00:00
PartitionName=scavc Nodes=$(range $gpus) PriorityTier=1 PreemptMode=CANCEL GraceTime=0 DefaultTime=00:10:00 MaxTime=08:00:00
PartitionName=down Nodes=node1 DefaultTime=00:10:00 State=DOWN
PartitionName=adm Nodes=node1 DefaultTime=00:10:00 AllowAccounts=admin
CONF
  } > "$CONF"
  {
    echo "NodeName=$(range $h100) Name=gpu Type=h100 File=$BOX/dev/nvidia[0-3]"
    [ "$NODES" -lt 3 ] || echo "NodeName=node3 Name=gpu Type=v100 File=$BOX/dev/nvidia[0-1]"
  } > "$BOX/etc/gres.conf"
  (umask 077; render "$here/slurmdbd.conf.in" > "$BOX/etc/slurmdbd.conf")
  chown slurm:slurm "$BOX/etc/slurmdbd.conf"
  # Tools find the box without SLURM_CONF where nothing else claims the default place.
  if [ ! -e /etc/slurm/slurm.conf ]; then
    install -d -m 755 /etc/slurm
    ln -sfn "$CONF" /etc/slurm/slurm.conf
  fi
}

start_munge() {
  if ! running "$(munge_pid)"; then
    [ -s "$BOX/munge/munge.key" ] || install -m 600 -o munge -g munge <(head -c 128 /dev/urandom) "$BOX/munge/munge.key"
    runuser -u munge -- munged --key-file="$BOX/munge/munge.key" --socket="$BOX/munge/munge.sock" --num-threads=4 \
      --pid-file="$(munge_pid)" --log-file="$BOX/munge/munged.log" --seed-file="$BOX/munge/munge.seed"
  fi
  wait_for munged "$BOX/munge/munged.log" 5 munge -S "$BOX/munge/munge.sock" -n
}

start_database() {
  local socket=$BOX/mysql/mysql.sock password
  password=$(cat "$BOX/etc/database-password")
  if ! running "$(maria_pid)"; then
    [ -d "$BOX/mysql/data/mysql" ] || mariadb-install-db --no-defaults --user=mysql --datadir="$BOX/mysql/data" \
      --auth-root-authentication-method=socket --skip-test-db --skip-name-resolve > "$BOX/log/mariadb-install.log" 2>&1 \
      || die "mariadb-install-db failed" "its log is $BOX/log/mariadb-install.log"
    # setsid: it outlives the shell that started it
    setsid mariadbd --no-defaults --user=mysql --datadir="$BOX/mysql/data" --socket="$socket" --pid-file="$(maria_pid)" \
      --bind-address=127.0.0.1 --port=$((PORT + 2)) --skip-name-resolve --innodb-buffer-pool-size=128M \
      --innodb-log-file-size=64M --innodb-lock-wait-timeout=900 --innodb-flush-log-at-trx-commit=0 \
      < /dev/null > "$BOX/log/mariadbd.log" 2>&1 &
  fi
  wait_for mariadbd "$BOX/log/mariadbd.log" 30 mariadb --no-defaults -S "$socket" -e 'select 1'
  mariadb --no-defaults -S "$socket" << SQL
create database if not exists slurm_acct_db;
create user if not exists slurm@'127.0.0.1';
alter user slurm@'127.0.0.1' identified by '$password';
grant all on slurm_acct_db.* to slurm@'127.0.0.1';
SQL
}

start_accounting() {
  local user
  running "$(dbd_pid)" || slurmdbd
  wait_for slurmdbd "$BOX/log/slurm/slurmdbd.log" 40 sacctmgr -nP show cluster
  if [ -z "$(sacctmgr -nP show cluster devbox format=cluster)" ]; then
    sacctmgr -iQ add cluster devbox > /dev/null
    sacctmgr -iQ add account lab Description=lab Organization=devbox > /dev/null
    sacctmgr -iQ add account admin Description=admin Organization=devbox > /dev/null
    sacctmgr -iQ add qos limited set MaxTRESPerUser=cpu=4 MaxWall=00:30:00 flags=DenyOnLimit > /dev/null
    sacctmgr -iQ modify account lab set qos=normal,limited > /dev/null
  fi
  # root and everybody who may log in gets the account `lab`
  for user in root $(getent passwd | awk -F: '$3 >= 1000 && $3 < 60000 {print $1}'); do
    [ -n "$(sacctmgr -nP show assoc "user=$user" account=lab format=user)" ] || sacctmgr -iQ add user "$user" account=lab \
      defaultaccount=lab qos=normal,limited defaultqos=normal > /dev/null
  done
}

start_slurm() {
  local i
  if running "$(ctld_pid)"; then scontrol reconfigure; else slurmctld; fi
  wait_for slurmctld "$BOX/log/slurm/slurmctld.log" 20 bash -c 'scontrol ping | grep -q "is UP"'
  for ((i = 1; i <= NODES; i++)); do running "$(node_pid $i)" || slurmd -N node$i; done
  wait_for "slurmd on all nodes" "$BOX/log/slurm/slurmctld.log" 30 bash -c all_nodes_up
}

all_nodes_up() { [ "$(sinfo -hN -p debug -t idle,alloc,mix -o %N | sort -u | wc -l)" = "$NODES" ]; }
export -f all_nodes_up
export NODES

read_options "$@"
need_root
check_machine
check_box
make_folders
write_configuration
start_munge
say "munged is up"
start_database
say "mariadbd is up"
start_accounting
say "slurmdbd is up, with accounts lab and admin"
start_slurm
say "slurmctld and $NODES nodes are up"
