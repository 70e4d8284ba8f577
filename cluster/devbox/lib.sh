# Shared by up.sh, down.sh and status.sh: settings of one box, processes known by pid file, waiting.
# A box is one directory that holds everything: configuration, keys, database, state, logs, pid files.

umask 022
PACKAGES="slurmctld slurmd slurm-client slurmdbd munge mariadb-server"
COMMANDS="slurmctld slurmd slurmdbd sbatch squeue srun sacctmgr munged munge mariadbd mariadb-install-db mariadb"

BOX=/var/tmp/latentctl-devbox
NODES=                # 4
PORT=                 # 17000: slurmctld; +1 slurmdbd, +2 mariadb, +11.. one slurmd per node
ENFORCE=              # NO: Slurm's EnforcePartLimits; NO queues what breaks a partition's limits, ALL refuses it
INSTALL=no
WIPE=no

PATH=$PATH:/usr/sbin:/sbin

refuse() { # refuse MESSAGE [HINT]: before anything was touched
  complain "$@"
  exit 2
}

die() { # die MESSAGE [HINT]: something that was started does not work
  complain "$@"
  exit 1
}

complain() {
  echo "error: $1" >&2
  [ -z "${2:-}" ] || echo "hint: $2" >&2
}

say() { printf '[%5.1fs] %s\n' "$(elapsed)" "$*"; }

elapsed() { # seconds since the script began, with the milliseconds that SECONDS lacks
  local us=$(( ${EPOCHREALTIME/[.,]/} - STARTED ))
  printf '%d.%06d' $((us / 1000000)) $((us % 1000000))
}
STARTED=${EPOCHREALTIME/[.,]/}

read_options() {
  while [ $# -gt 0 ]; do
    case $1 in
      --dir) BOX=${2:?--dir needs a directory}; shift ;;
      --nodes) NODES=${2:?--nodes needs a number}; shift ;;
      --port) PORT=${2:?--port needs a number}; shift ;;
      --enforce) ENFORCE=${2:?--enforce needs NO, ANY or ALL}; shift ;;
      --install) INSTALL=yes ;;
      --wipe) WIPE=yes ;;
      *) refuse "unknown option $1" "see cluster/devbox/README.md" ;;
    esac
    shift
  done
  [[ $BOX = /* && $BOX != *[[:space:]\|\&]* ]] || refuse "--dir must be an absolute path without blanks, | and &: $BOX"
  SETTINGS=$BOX/etc/settings
  known
  [[ $NODES =~ ^[0-9]+$ ]] && [ "$NODES" -ge 1 ] && [ "$NODES" -le 32 ] || refuse "--nodes must be 1 to 32: $NODES"
  [[ $PORT =~ ^[0-9]+$ ]] && [ "$PORT" -ge 1024 ] && [ "$PORT" -le 65400 ] || refuse "--port must be 1024 to 65400: $PORT"
  [[ $ENFORCE =~ ^(NO|ANY|ALL)$ ]] || refuse "--enforce must be NO, ANY or ALL: $ENFORCE"
  CONF=$BOX/etc/slurm.conf
  export SLURM_CONF=$CONF
}

known() { # what was not said is as it was when the box was last brought up
  local nodes=4 port=17000 enforce=NO pair
  if [ -r "$SETTINGS" ]; then
    for pair in $(< "$SETTINGS"); do
      case $pair in nodes=* | port=* | enforce=*) printf -v "${pair%%=*}" %s "${pair#*=}" ;; esac
    done
  fi
  NODES=${NODES:-$nodes} PORT=${PORT:-$port} ENFORCE=${ENFORCE:-$enforce}
}

need_root() { [ "$(id -u)" = 0 ] || refuse "a devbox needs root: Slurm's daemons change users" "run it with sudo"; }

running() { # running PIDFILE: the process that wrote it lives and is one of ours
  local pid comm
  [ -s "$1" ] && read -r pid < "$1" && lives "$pid" || return 1
  read -r comm < "/proc/$pid/comm" || return 1
  case $comm in slurm* | munged | mariadbd) true ;; *) false ;; esac
} 2> /dev/null

lives() { # lives PID: it is there and not a zombie, which a container's first process may leave lying for long
  local stat
  read -r stat < "/proc/$1/stat" || return 1
  stat=${stat##*) }
  [ "${stat%% *}" != Z ]
} 2> /dev/null

wait_for() { # wait_for WHAT LOG SECONDS COMMAND...
  local what=$1 log=$2 end=$((SECONDS + $3)) last=
  shift 3
  while [ $SECONDS -le $end ]; do
    last=$(timeout 5 "$@" 2>&1) && return 0
    sleep 0.05
  done
  [ ! -r "$log" ] || tail -n 5 "$log" >&2
  die "$what did not come up: $last" "its log is $log"
}

munge_pid() { echo "$BOX/munge/munged.pid"; }
maria_pid() { echo "$BOX/mysql/mariadbd.pid"; }
dbd_pid() { echo "$BOX/run/slurm/slurmdbd.pid"; }
ctld_pid() { echo "$BOX/run/slurm/slurmctld.pid"; }
node_pid() { echo "$BOX/run/slurmd.node$1.pid"; }
