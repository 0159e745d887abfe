# What happens on a node, the same on every platform. The renderer puts the variables (RV_*) and the platform's
# functions in front: rv_arm_lifetime, rv_ip, rv_device ID, rv_secret ID, rv_ready, rv_wait_go, rv_report JSON,
# rv_poweroff and, where a volume may be a directory, rv_mount_dir DIR PATH READ_ONLY INDEX. The last line is rv_main.
# Needs bash 4.4, coreutils, util-linux, e2fsprogs, gzip and grep, and curl for staged files; neither python nor jq.
RV_PHASE=setup RV_CODE=125 RV_ERROR='' RV_ATTACHED='' RV_STARTED='' RV_FINISHED='' RV_REUSED=false
RV_OUTPUT='' RV_TAIL='' RV_COLLECTED='' RV_MISSING='' RV_COPIED=0 RV_LOG='' RV_RECORD='' RV_WHY='' RV_FS='' RV_GO='' RV_DIRECTORIES='' RV_FORMATTING='rankvol is formatting '
RV_AT=() RV_MOUNTED=() RV_SECRETS=()
: "${RV_HOME:=$(mktemp -d)}" "${RV_RANKS:=/ranks}" "${RV_DEVICE_WAIT:=300}" "${RV_PROBE_PAUSE:=0.5}"
RV_WORK=${RV_WORK:-$RV_HOME/work} RV_RESULT=$RV_HOME/result.json
RV_MARK=$$.$(date +%s%N).$RANDOM

rv_now() { date -u +%Y-%m-%dT%H:%M:%S.%3N+00:00; }
rv_say() { printf 'rankvol: %s\n' "$*"; }
rv_b64() { base64 -w0; }
rv_unpack() { printf %s "$2" | base64 -d | gzip -dc >"$1"; }

# Fetches file $1 from URL $2, whose query is a password of sorts and is not shown; only content of SHA-256 $3 counts.
rv_fetch() {
  local try found
  for try in 1 2 3 4 5; do
    if RV_WHY=$(curl -q -fsS --connect-timeout 10 --speed-limit 1024 --speed-time 30 -o "$1" "$2" 2>&1); then
      found=$(sha256sum <"$1")
      [ "${found%% *}" != "$3" ] || return 0
      RV_WHY="found SHA-256 ${found%% *}, expected $3"
    fi
    [ "$try" = 5 ] || sleep "$try"
  done
  RV_WHY="${1##*/} could not be fetched from ${2%%\?*}: $RV_WHY"
  return 1
}

# Ends the node after a step before the commands failed.
rv_die() {
  RV_PHASE=setup RV_CODE=125 RV_ERROR=$1
  rv_end
}

# Every ending comes through here: kill what is left, unmount, report, power off.
rv_end() {
  trap - EXIT
  [ -z "$RV_ERROR" ] || rv_say "$RV_ERROR"
  RV_FINISHED=${RV_FINISHED:-$(rv_now)}
  cd /
  local i
  for ((i = ${#RV_MOUNTED[@]} - 1; i >= 0; i--)); do rv_umount "${RV_MOUNTED[i]}"; done
  rv_report "$(rv_json)"
  rv_poweroff
  exit 0
}

# Only integers, ISO times and base64 go in, so nothing needs escaping.
rv_json() {
  printf '{"version":1,"role":"%s","rank":%d,"attempt":%d,"phase":"%s","exit_code":%d,' \
    "$RV_ROLE" "$RV_RANK" "$RV_ATTEMPT" "$RV_PHASE" "$RV_CODE"
  printf '"attached_at":"%s","started_at":"%s","finished_at":"%s","reused":%s,' \
    "$RV_ATTACHED" "$RV_STARTED" "$RV_FINISHED" "$RV_REUSED"
  printf '"output_b64":"%s","log_tail_b64":"%s","error_b64":"%s","collected":[%s],"missing":[%s],"copied":%d}' \
    "$RV_OUTPUT" "$RV_TAIL" "$(printf %s "$RV_ERROR" | rv_b64)" "$RV_COLLECTED" "$RV_MISSING" "$RV_COPIED"
}

rv_umount() {
  local try
  for try in 1 2 3 4 5 6 7 8 9 10; do
    umount "$1" 2>/dev/null && return
    mountpoint -q "$1" || return
    sleep 0.2
  done
  rv_say "$1 is still busy; its data are synced, and it goes with the node"
  rv_sync "$1"
}

# Sets RV_DEV to the volume's device, which the cloud may still be attaching.
rv_find() {
  local until=$((SECONDS + RV_DEVICE_WAIT))
  until RV_DEV=$(rv_device "${RV_IDS[$1]}") && [ -e "$RV_DEV" ]; do
    ((SECONDS < until)) || rv_die "volume ${RV_NAMES[$1]} (${RV_IDS[$1]}): no device appeared within \
$RV_DEVICE_WAIT s; expected it by its stable id. Look at the attachment of this node, then clear the rank"
    sleep 0.2
  done
}

# What is on block device $1? 0: a filesystem, its type in RV_FS. 2: nothing at all. 1: neither, RV_WHY says what.
# A format of ours that was cut off (rv_format) counts as nothing, too.
# Only a direct probe (-p: not blkid's cache) that says "nothing found" (2) several times in a row, over
# bytes that are all zero, counts as nothing: a stale answer here has cost others their data.
rv_probe() {
  local size try code
  size=$(blockdev --getsize64 "$1" 2>/dev/null) || size=0
  if [ ! -b "$1" ] || [ "$size" -le 0 ]; then
    RV_WHY="$1 is not a block device with a size"
    return 1
  fi
  for try in 1 2 3; do
    RV_FS=$(blkid -p -s TYPE -o value "$1" 2>/dev/null)
    code=$?
    [ "$code" -ne 0 ] || [ -z "$RV_FS" ] || return 0
    if [ "$code" -ne 2 ]; then
      RV_WHY="$1 holds something that is no filesystem (blkid answered $code)"
      return 1
    fi
    [ "$try" = 3 ] || sleep "$RV_PROBE_PAUSE"
  done
  code=$(head -c 1048576 "$1" | tr -d '\0' | head -c 1 | wc -c; exit "${PIPESTATUS[0]}") || code=1
  if [ "$code" -ne 0 ] && ! rv_marked "$1" "$2"; then
    RV_WHY="$1 holds data that blkid does not know"
    return 1
  fi
  return 2
}

# A format that is cut off leaves bytes that look like somebody's data. So the disk's end, which the filesystem leaves
# free, says that we are at it and on which volume, and is blank again before anything is mounted.
rv_mark_at() { printf %d "$(($(blockdev --getsize64 "$1") / 4096 - 16))"; }
rv_marked() {
  [ "$(dd if="$1" bs=4096 skip="$(rv_mark_at "$1")" count=1 status=none | tr -d '\0')" = "$RV_FORMATTING$2" ]
}
rv_mark() {
  { printf %s "$2" && head -c 4096 /dev/zero; } | head -c 4096 |
    dd of="$1" bs=4096 iflag=fullblock seek="$(rv_mark_at "$1")" conv=notrunc,fsync status=none
}
rv_format() {
  rv_mark "$1" "$RV_FORMATTING$2" && mkfs.ext4 -q -m 0 -E nodiscard "$1" "$(($(rv_mark_at "$1") * 4))k" && sync "$1"
}

# Mounts volume $1 at $2. 0: mounted. 2: it is blank and may not be formatted. 1: it cannot be used (RV_WHY).
# XFS refuses a second filesystem of the same UUID, which all volumes from one snapshot have (xfs(5), "nouuid"). Never with
# "norecovery": what is in the log alone would be missing, without a word.
rv_mount() {
  local i=$1 code mode=rw
  RV_AT[i]=$2
  [ "${RV_READ_ONLY[i]}" = 0 ] || mode=ro
  if [ -d "$RV_DEV" ]; then
    RV_DIRECTORIES=1
    rv_mount_dir "$RV_DEV" "$2" "$mode" "$i"
    return
  fi
  rv_probe "$RV_DEV" "${RV_IDS[i]}"
  code=$?
  if [ "$code" = 2 ] && [ "${RV_MAY_FORMAT[i]}" = 1 ] && [ "$mode" = rw ]; then
    rv_say "formatting the new, blank volume ${RV_NAMES[i]} (${RV_IDS[i]}) on $RV_DEV"
    RV_FS=ext4
    if ! RV_WHY=$(rv_format "$RV_DEV" "${RV_IDS[i]}" 2>&1); then
      RV_WHY="$RV_DEV could not be formatted: $RV_WHY"
      return 1
    fi
    code=0
  fi
  [ "$code" = 0 ] || return "$code"
  if [ "${RV_MAY_FORMAT[i]}" = 1 ] && [ "$mode" = rw ] && rv_marked "$RV_DEV" "${RV_IDS[i]}"; then
    rv_mark "$RV_DEV" ''
  fi
  [ "$RV_FS" != xfs ] || mode+=,nouuid
  if ! RV_WHY=$(mkdir -p "$2" 2>&1 && mount -t "$RV_FS" -o "$mode" "$RV_DEV" "$2" 2>&1); then
    RV_WHY="$RV_FS on $RV_DEV could not be mounted at $2: $RV_WHY"
    return 1
  fi
  RV_MOUNTED+=("$2")
}

rv_mount_or_die() {
  rv_find "$1"
  rv_mount "$1" "$2"
  local code=$?
  [ "$code" = 0 ] || rv_unusable "$1" "$code"
}

# Ends the node because volume $1 could not be mounted, for what rv_mount returned.
rv_unusable() {
  local what="volume ${RV_NAMES[$1]} (${RV_IDS[$1]})" next='look at it by hand, or delete it and let the job create it'
  if [ "$RV_ROLE" = gather ]; then
    what="rank ${RV_OF[$1]}: $what cannot be read"
    next='look at it by hand. Only where nothing helps, delete it and clear the whole task group to compute all again'
    [ "$2" != 2 ] || RV_WHY='it is blank'
  elif [ "$2" = 2 ]; then
    rv_die "$what is blank, and may not be formatted because this run did not create it; expected a filesystem. Is it \
the right volume? Format it by hand, or delete it and let the job create it"
  fi
  rv_die "$what: $RV_WHY; expected a filesystem that this node knows. It was not touched: $next"
}

# The record's first bytes say whose it is; ours are written in exactly this form.
rv_record_head() { printf '{"version":1,"identity":"%s","rank":%d,"digest":"%s"' "$RV_IDENTITY" "$1" "$2"; }

# Is the record below directory $1 that of rank $2, complete, and of digest $3 (empty: of any)?
rv_record_is() {
  RV_RECORD=$(head -c 131072 "$1/.rankvol/$RV_KEY/record.json" 2>/dev/null | tr -d '\0')
  local head
  head=$(rv_record_head "$2" "$3")
  [ -n "$3" ] || head=${head%'"'}
  [[ $RV_RECORD == "$head"* && $RV_RECORD == *'}' ]]
}

rv_field() {
  [[ $RV_RECORD =~ \"$1\":\"([A-Za-z0-9+/=:.-]*)\" ]] && printf %s "${BASH_REMATCH[1]}"
}

# Returns an earlier attempt's result instead of computing it again.
rv_reuse() {
  rv_record_is "${RV_AT[0]}" "$RV_RANK" "$RV_DIGEST" || return
  rv_say "this rank's completion record is on its volume already; nothing is computed again"
  RV_PHASE=done RV_CODE=0 RV_REUSED=true
  RV_STARTED=$(rv_field started_at) RV_FINISHED=$(rv_field finished_at)
  RV_OUTPUT=$(rv_field output_b64) RV_TAIL=$(rv_field log_tail_b64)
  rv_end
}

# Brings volumes to the disk: a filesystem of its own as a whole, a directory of this machine's file by file.
rv_sync() {
  local at
  for at in "$@"; do
    if [ -z "$RV_DIRECTORIES" ]; then sync -f "$at"; else find "$at" -xdev -type f -exec sync {} +; fi || return
  done
}

# Written last and atomically, all volumes synced before: who finds it whole knows that the results are on the disk.
rv_write_record() {
  local dir=${RV_AT[0]}/.rankvol/$RV_KEY
  {
    rv_record_head "$RV_RANK" "$RV_DIGEST"
    printf ',"attempt":%d,"started_at":"%s","finished_at":"%s","output_b64":"%s","log_tail_b64":"%s"}\n' \
      "$RV_ATTEMPT" "$RV_STARTED" "$RV_FINISHED" "$RV_OUTPUT" "$RV_TAIL"
  } 2>/dev/null >"$dir/.record.new" && rv_sync "${RV_AT[@]}" && rv_mark_rest &&
    mv -f "$dir/.record.new" "$dir/record.json"
}

# The record lies on the first volume alone. The others tell by a mark that they hold results, too: renaming the file
# that was made at the beginning needs no room.
rv_mark_rest() {
  local i dir
  for ((i = 1; i < ${#RV_AT[@]}; i++)); do
    dir=${RV_AT[i]}/.rankvol/$RV_KEY
    mv -f "$dir/pending" "$dir/record.mark" || { mkdir -p "$dir" && : >"$dir/record.mark"; }
    rv_sync "${RV_AT[i]}"
  done 2>/dev/null
  return 0 # only the reaper looks at it
}

rv_mount_rank() {
  local i
  for i in "${!RV_IDS[@]}"; do rv_mount_or_die "$i" "${RV_PATHS[i]}"; done
  RV_ATTACHED=$(rv_now)
  [ "${#RV_IDS[@]}" -gt 0 ] || return 0
  [ "$RV_REUSE" = 0 ] || rv_reuse
  # A full disk must neither keep the commands from running nor the report from being sent.
  local dir=${RV_AT[0]}/.rankvol/$RV_KEY
  if mkdir -p "$dir" 2>/dev/null; then
    RV_LOG=$dir/log
    [ ! -e "$dir/record.json" ] || mv -f "$dir/record.json" "$dir/record.before.$RV_ATTEMPT.json" ||
      rv_die "the old record $dir/record.json could not be moved aside"
  fi
  for ((i = 1; i < ${#RV_AT[@]}; i++)); do
    dir=${RV_AT[i]}/.rankvol/$RV_KEY
    mkdir -p "$dir" && : >"$dir/pending"
  done 2>/dev/null
  return 0
}

# Lists the ranks whose bits are set in RV_LEFT_OUT.
rv_left_out() {
  local i lost=''
  for ((i = 0; i < 4 * ${#RV_LEFT_OUT}; i++)); do
    (((16#${RV_LEFT_OUT:${#RV_LEFT_OUT}-1-i/4:1} >> i % 4) & 1)) && lost=${lost:+$lost,}$i
  done
  printf %s "$lost"
}

# Mounts the volumes of every rank that succeeded, read-only. Each must have its completion record on its first volume:
# one that lost it, or that cannot be read, is never passed over, or a part would be taken for the whole.
rv_mount_ranks() {
  local i rank code last='' lost='' kept=0
  mkdir -p "$RV_RANKS"
  RV_MISSING=$(rv_left_out)
  for i in "${!RV_IDS[@]}"; do
    rank=${RV_OF[i]}
    if [ "$rank" = "$last" ]; then
      [ "$kept" = 0 ] || rv_mount_or_die "$i" "$RV_RANKS/$rank${RV_PATHS[i]}"
      continue
    fi
    last=$rank kept=0
    rv_find "$i"
    rv_mount "$i" "$RV_RANKS/$rank${RV_PATHS[i]}"
    code=$?
    [ "$code" != 1 ] || rv_unusable "$i" "$code"
    if [ "$code" = 0 ] && rv_record_is "${RV_AT[i]}" "$rank" ''; then
      kept=1 RV_COLLECTED=${RV_COLLECTED:+$RV_COLLECTED,}$rank
      continue
    fi
    [ "$code" = 0 ] || rv_say "rank $rank: its volume ${RV_NAMES[i]} is blank"
    lost=${lost:+$lost,}$rank
  done
  RV_ATTACHED=$(rv_now)
  if [ "$RV_ALLOW_MISSING" = 0 ]; then
    RV_MISSING=${RV_MISSING:+$RV_MISSING${lost:+,}}$lost
  elif [ -n "$lost" ]; then
    RV_MISSING=$lost # what was left out on purpose is no news
  else
    [ -z "$RV_MISSING" ] || rv_say "going on without rank(s) $RV_MISSING, which did not succeed"
    return
  fi
  [ -n "$RV_MISSING" ] || return 0
  RV_PHASE=incomplete RV_CODE=1
  RV_ERROR="rank(s) $RV_MISSING of $RV_NODES have no completion record; the gather commands were not run"
  rv_end
}

rv_fetch_secrets() {
  local i
  for i in "${!RV_SECRET_NAMES[@]}"; do
    RV_SECRETS[i]=$(rv_secret "${RV_SECRET_IDS[i]}" 2>"$RV_HOME/why") || rv_die "the secret for the variable \
${RV_SECRET_NAMES[i]} could not be read from ${RV_SECRET_IDS[i]}. Check that it exists and that this node may read it. \
$(grep . "$RV_HOME/why" | tail -n 1 | tail -c 500)"
  done
}

rv_list() {
  local text='' at
  for at in "$@"; do
    at=${at//\\/\\\\} at=${at//\"/\\\"}
    text+=${text:+, }\"$at\"
  done
  printf '[%s]' "$text"
}

rv_export() { export "$1=$2" "DSTACK_$1=$2"; }

# The environment of the commands; ours comes last, so that nothing shadows it.
rv_job_env() {
  local i name value
  unset RANKVOL_NODE_DIR RANKVOL_NODE_ADDRESS RANKVOL_NODE_MOUNTS
  rv_user_env
  for i in "${!RV_SECRET_NAMES[@]}"; do export "${RV_SECRET_NAMES[i]}=${RV_SECRETS[i]}"; done
  rv_export NODES_NUM "$RV_NODES"
  rv_export NODE_IP "$(rv_ip)"
  rv_export GPUS_PER_NODE "$RV_GPUS"
  rv_export GPUS_NUM "$((RV_GPUS * RV_NODES))"
  if [ "$RV_ROLE" = rank ]; then
    rv_export NODE_RANK "$RV_RANK"
    rv_export VOLUME_PATH "${RV_AT[0]-}"
    rv_export VOLUME_PATHS "$(rv_list "${RV_AT[@]}")"
  else
    rv_export RANKS_PATH "$RV_RANKS"
  fi
  while read -r name value; do
    [[ ! $name =~ ^[A-Z][A-Z0-9_]*$ ]] || rv_export "$name" "$(printf %s "$value" | base64 -d)"
  done <<<"$RV_GO"
  export RANKVOL_RESULT=$RV_RESULT RANKVOL_WORKDIR=$RV_WORK RANKVOL_JOB=$RV_MARK
}

# Kills whatever the commands left behind: their session, and all that still carries their environment.
rv_kill_rest() {
  local try pids
  kill -KILL -- "-$1" 2>/dev/null
  for try in {1..40}; do
    pids=$(grep -lasz "^RANKVOL_JOB=$RV_MARK\$" /proc/[0-9]*/environ)
    [ -n "$pids" ] || return 0
    pids=${pids//\/proc\//} pids=${pids//\/environ/}
    # shellcheck disable=SC2086
    kill -KILL $pids 2>/dev/null
    sleep 0.05
  done
}

# Output goes through pipes of our own, to the log on the volume, the console and the tail of the report: no full
# disk and no process left in the background can hold the node up.
rv_run() {
  local tail tee job dog
  mkfifo "$RV_HOME/out" "$RV_HOME/last"
  tail -c 4096 <"$RV_HOME/last" >"$RV_HOME/tail" &
  tail=$!
  tee -a ${RV_LOG:+"$RV_LOG"} "$RV_HOME/last" <"$RV_HOME/out" &
  tee=$!
  (
    rv_job_env
    cd "$RV_WORK" || exit 126
    exec setsid bash -euo pipefail "$RV_HOME/commands.sh"
  ) </dev/null >"$RV_HOME/out" 2>&1 &
  job=$!
  wait "$job"
  RV_CODE=$?
  rv_kill_rest "$job"
  sleep 10 &
  dog=$!
  wait -n "$tee" "$dog"
  # Not TERM: a copy of this shell that gets it before it has become "sleep" runs the EXIT trap.
  kill -KILL "$dog" "$tee" 2>/dev/null
  wait "$tail" "$dog" "$tee" 2>/dev/null
  RV_FINISHED=$(rv_now)
  RV_TAIL=$(tail -n 50 "$RV_HOME/tail" | rv_b64)
}

# Is file $1 JSON? Asks whatever the node has; where there is nothing to ask, the engine finds out.
rv_is_json() {
  if command -v python3 >/dev/null; then
    # Some JSON no database takes: lone surrogates, NUL, 1e999; nor what is nested too deep (the engine's results.py).
    python3 -I -c 'import json, sys; a = json.load(open(sys.argv[1], encoding="utf-8"), parse_constant=sys.exit)
b, a = json.dumps(a, ensure_ascii=False, allow_nan=False).encode().replace(b"\\\\", b""), [a]
exec("a = [x for v in a if type(v) in (dict, list) for x in (v if type(v) is list else v.values())];"*101)
sys.exit(b"\\u0000" in b or a > [])' "$1"
  elif command -v jq >/dev/null; then
    jq -e 'true' "$1"
  elif perl -MJSON::PP -e 1; then
    perl -MJSON::PP -0777 -ne 'JSON::PP->new->allow_nonref->decode($_)' "$1"
  fi >/dev/null 2>&1
}

rv_take_result() {
  RV_PHASE=failed
  local size=0
  [ ! -f "$RV_RESULT" ] || size=$(stat -L -c %s "$RV_RESULT")
  if [ "$size" -gt 16384 ]; then
    [ "$RV_CODE" != 0 ] || RV_CODE=1 RV_ERROR="\$RANKVOL_RESULT holds $size bytes; at most 16384 are allowed. Keep \
large results on the volume"
  elif grep -q '[^[:space:]]' "$RV_RESULT" 2>/dev/null; then
    RV_OUTPUT=$(rv_b64 <"$RV_RESULT")
    # A record with a result that nobody can read would be returned by every retry.
    [ "$RV_CODE" != 0 ] || rv_is_json "$RV_RESULT" || RV_CODE=1 RV_ERROR="\$RANKVOL_RESULT is not JSON; found \
$(head -c 200 "$RV_RESULT" | tr -c '[:print:]' ' '), expected one JSON value. Write it with json.dump or jq"
  fi
  [ "$RV_CODE" = 0 ] || return 0
  if [ "$RV_ROLE" = rank ] && ! rv_write_record; then
    RV_CODE=1 RV_ERROR="the commands succeeded, but their completion record could not be written to ${RV_AT[0]}: \
$(df -h --output=avail "${RV_AT[0]}" | tail -n 1 | tr -d ' ') are free. Ask for a larger volume, or write less"
    return 0
  fi
  [ -z "${RV_DESTINATION-}" ] || rv_collect
  [ "$RV_CODE" != 0 ] || RV_PHASE=done
}

rv_main() {
  trap 'RV_PHASE=setup RV_CODE=125 RV_ERROR="the bootstrap ended unexpectedly; see the console"; rv_end' EXIT
  rm -rf "$RV_WORK" "$RV_RESULT" "$RV_HOME/out" "$RV_HOME/last"
  mkdir -p "$RV_WORK" || rv_die "the working directory $RV_WORK could not be made"
  rv_arm_lifetime || rv_die "the timer for this node's lifetime could not be set"
  if [ "$RV_ROLE" = rank ]; then rv_mount_rank; else rv_mount_ranks; fi
  RV_WHY=''
  rv_files || rv_die "the job's files could not be written to $RV_WORK${RV_WHY:+: $RV_WHY}"
  rv_fetch_secrets
  if [ "$RV_RENDEZVOUS" = 1 ]; then
    rv_ready || rv_die "this node could not report that it is ready"
    RV_GO=$(rv_wait_go) || rv_die "the message of the other nodes could not be read"
  fi
  RV_STARTED=$(rv_now)
  rv_run
  rv_take_result
  rv_end
}
