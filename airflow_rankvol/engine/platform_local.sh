# The platform functions of a node on this machine. The supervisor (backends/_local_node.py) keeps the lifetime, and
# says in RANKVOL_NODE_DIR where this node's files lie, and in "devices" there where each volume is.
RV_HOME=$RANKVOL_NODE_DIR RV_ADDRESS=$RANKVOL_NODE_ADDRESS RV_DEVICE_WAIT=2 RV_PROBE_PAUSE=0
# Without a mount namespace of its own, a node finds the volumes where they really lie.
[ "$RANKVOL_NODE_MOUNTS" = 1 ] || RV_RANKS=$RV_HOME/ranks

rv_arm_lifetime() { :; }
rv_ip() { printf %s "$RV_ADDRESS"; }

rv_device() {
  local id at
  while IFS=$'\t' read -r id at; do
    [ "$id" != "$1" ] || { printf %s "$at"; return 0; }
  done <"$RV_HOME/devices"
  return 1
}

# A directory counts as formatted once it holds .rankvol, as a new ext4 holds lost+found.
rv_mount_dir() {
  local mode=$3 i=$4
  if [ -z "$(ls -A "$1")" ]; then
    [ "${RV_MAY_FORMAT[i]}" = 1 ] && [ "$mode" = rw ] || return 2
    mkdir "$1/.rankvol" || { RV_WHY="$1 cannot be written"; return 1; }
  fi
  if [ "$RANKVOL_NODE_MOUNTS" = 1 ]; then
    RV_WHY=$(mkdir -p "$2" 2>&1 && mount --bind "$1" "$2" 2>&1) || return 1
    RV_MOUNTED+=("$2")
    [ "$mode" = rw ] || RV_WHY=$(mount -o remount,bind,ro "$2" 2>&1) || return 1
  elif [ "$RV_ROLE" = gather ]; then
    RV_WHY=$(mkdir -p "${2%/*}" 2>&1 && ln -sfn "$1" "$2" 2>&1) || return 1
  else
    RV_AT[i]=$1
  fi
}

rv_secret() {
  [ -f "$1" ] && [ ! -L "$1" ] && [ -O "$1" ] && [[ $(stat -c %a "$1") == [46]00 ]] && cat "$1"
}

rv_copy() { mkdir -p "$2" && cp -fRLT "$1" "$2"; }

rv_ready() { : >"$RV_HOME/ready"; }
rv_wait_go() {
  until [ -e "$RV_HOME/go" ]; do sleep 0.05; done
  cat "$RV_HOME/go"
}

# The supervisor set space aside, so that a full disk does not keep the report from being written.
rv_report() {
  rm -f "$RV_HOME/reserve"
  printf '%s\n' "$1" >"$RV_HOME/report.new" && mv -f "$RV_HOME/report.new" "$RV_HOME/report.json"
}
rv_poweroff() { exit 0; }
