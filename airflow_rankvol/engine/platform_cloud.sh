# What the platforms of clouds have in common: a machine of its own with a serial console, whose script runs as root.
# Who started this may have closed stdin and set next to nothing.
exec </dev/null
export HOME="${HOME:-/root}" LANG="${LANG:-C.UTF-8}" PATH="${PATH:-/usr/bin}:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
: "${RV_CONSOLE:=/dev/console}" "${RV_SYSTEMD:=/run/systemd/system}" "${RV_GRACE:=90}"
# What the commands write into their working directory must not keep their result and the log's end from being kept.
: "${RV_HOME:=$(mktemp -d /run/rankvol.XXXXXX || mktemp -d)}"
: "${RV_WORK:=$(mktemp -d /var/lib/rankvol.XXXXXX || mktemp -d)/work}"
# That the console closes must end nothing (":" and not "", which the commands would inherit).
trap : PIPE
# Shut down from outside (a spot instance is taken back, the lifetime is over): what the cloud says of it is the report.
trap 'trap - EXIT; sync; exit 143' TERM

# Ends the node even when this script was killed. One --force ends all processes and unmounts, but waits for nobody.
rv_arm_lifetime() {
  if [ -d "$RV_SYSTEMD" ]; then
    timeout 30 systemd-run --quiet --collect --on-active="$RV_LIFETIME" --timer-property=AccuracySec=1s \
      systemctl --force poweroff && return
    shutdown -h "+$(((RV_LIFETIME + 59) / 60))" && return
  fi
  # shellcheck disable=SC2016 # the inner shell expands them
  setsid bash -c 'sleep "$1"; shutdown -h now; sleep "$2"; poweroff -f' rankvol-lifetime "$RV_LIFETIME" "$RV_GRACE" \
    {RV_STDOUT}>&- >/dev/null 2>&1 &
}

# Metadata services are asked directly, whatever proxy the image has.
rv_curl() { curl -q -sf -m 5 --noproxy '*' "$@"; }

# The host's first address, for when its cloud does not tell.
rv_own_ip() {
  local all
  all=$(hostname -I) && printf %s "${all%% *}"
}

# One line of the serial console by one write, so that no other process' output gets into it; the kernel's can. Bash
# writes a line of more than 1008 bytes in parts.
rv_console() {
  { [ -e "$RV_CONSOLE" ] && printf '%s\n' "$1" >>"$RV_CONSOLE"; } 2>/dev/null || printf '%s\n' "$1" >&"$RV_STDOUT"
}

# Prints the variables of a message to nodes: base64 of gzip of names and values, each ended by NUL.
rv_print_go() {
  local name value
  printf %s "$1" | base64 -d | gzip -dc | while IFS= read -r -d '' name && IFS= read -r -d '' value; do
    printf '%s %s\n' "$name" "$(printf %s "$value" | rv_b64)"
  done
}

# Several times, because the kernel's messages may go right through a line; twice where it is long: a console keeps
# 64 KB on EC2. Nothing here needs room on a disk.
rv_report_on_console() {
  local lines line copy copies=3
  mapfile -t lines < <(rv_report_lines "$1")
  ((${#lines[@]} <= 6)) || copies=2
  for ((copy = 1; copy <= copies; copy++)); do
    for line in "${lines[@]}"; do rv_console "$line"; done
    ((copy == copies)) || sleep 0.3
  done
}
rv_report_lines() {
  local LC_ALL=C text sum n i
  text=$(printf '%s\n' "$1" | gzip -9nc | rv_b64)
  sum=$(printf %s "$text" | sha256sum)
  n=$(((${#text} + 799) / 800))
  for ((i = 0; i < n; i++)); do
    printf 'RANKVOL-REPORT %s.%d %d/%d %s\n' "${sum:0:16}" "${#text}" "$((i + 1))" "$n" "${text:i*800:800}"
  done
}

# shutdown asks init, which may hang on a service or a mount.
rv_poweroff() {
  shutdown -h now
  sleep "$RV_GRACE"
  poweroff -f
  sleep "$RV_GRACE"
  poweroff -ff
}
