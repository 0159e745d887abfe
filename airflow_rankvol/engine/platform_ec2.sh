# The platform functions of a node on EC2, where cloud-init runs the script as root. Also needs curl and, for secrets,
# the aws command, which are part of Amazon Linux.
# Passes the first RV_SHOWN bytes on at once (head would wait for a full buffer), and drops the rest.
rv_show() {
  trap '' PIPE TERM
  local LC_ALL=C line left=$RV_SHOWN
  while ((left > 0)) && { IFS= read -r -n 800 line || [ -n "$line" ]; }; do
    printf '%s\n' "$line"
    ((left -= ${#line} + 1))
  done
  ((left > 0)) || [ "$(head -c 1 | wc -c)" = 0 ] ||
    printf 'rankvol: the console shows no more; the log on the volume is whole\n'
  exec cat >/dev/null
}

# Who started this may have closed stdin and set next to nothing.
exec </dev/null
export HOME="${HOME:-/root}" LANG="${LANG:-C.UTF-8}" PATH="${PATH:-/usr/bin}:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
: "${RV_IMDS:=http://169.254.169.254}" "${RV_IMDS_WAIT:=60}" "${RV_CONSOLE:=/dev/console}" "${RV_SHOWN:=32768}"
: "${RV_SYSTEMD:=/run/systemd/system}" "${RV_GRACE:=90}"
# What the commands write into their working directory must not keep their result and the log's end from being kept.
: "${RV_HOME:=$(mktemp -d /run/rankvol.XXXXXX || mktemp -d)}"
: "${RV_WORK:=$(mktemp -d /var/lib/rankvol.XXXXXX || mktemp -d)/work}"
# A serial console takes some 10 KB a second, and blocks who writes more: it shows only how the output begins. That it
# closes must end nothing either (":" and not "", which the commands would inherit).
trap : PIPE
exec {RV_STDOUT}>&1 > >("${RV_SHOW:-rv_show}") 2>&1
RV_SHOWING=$!
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

# Version 2 of the metadata service: every request needs a token.
rv_curl() { curl -q -sf -m 5 --noproxy '*' "$@"; }
rv_imds() {
  local token
  token=$(rv_curl -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 300' "$RV_IMDS/latest/api/token") &&
    rv_curl -H "X-aws-ec2-metadata-token: $token" "$RV_IMDS/latest/meta-data/$1"
}
# The same for what is always there; at boot the service may be slow.
rv_imds_wait() {
  local until=$((SECONDS + RV_IMDS_WAIT))
  until rv_imds "$1"; do
    ((SECONDS < until)) || return
    sleep 1
  done
}

rv_ip() {
  rv_imds_wait local-ipv4 && return
  local all
  all=$(hostname -I) && printf %s "${all%% *}"
}

rv_device() { printf /dev/disk/by-id/nvme-Amazon_Elastic_Block_Store_%s "${1/-/}"; }

# With the rights of the instance profile.
rv_aws() {
  if ! command -v aws >/dev/null; then
    echo 'this image has no aws command' >&2
    return 1
  fi
  AWS_PAGER='' AWS_METADATA_SERVICE_TIMEOUT=5 AWS_METADATA_SERVICE_NUM_ATTEMPTS=5 aws "$@"
}

# It sends several files, and the parts of large ones, at a time.
rv_copy() {
  local region
  region=$(rv_imds_wait placement/region) && rv_aws s3 cp --recursive --only-show-errors --region "$region" "$1" "$2"
}

# Rights that were just given take a moment to reach the node.
rv_secret() {
  local id=$1 region='' value try
  [[ $id != arn:* ]] || { region=${id#arn:*:*:} && region=${region%%:*}; }
  [ -n "$region" ] || region=$(rv_imds_wait placement/region) || return
  case $id in
    arn:*:secretsmanager:* | secretsmanager:*)
      set -- secretsmanager get-secret-value --secret-id "${id#secretsmanager:}" --query '[SecretString][?@]' ;;
    arn:*:ssm:* | ssm:* | /*) set -- ssm get-parameter --with-decryption --name "${id#ssm:}" --query Parameter.Value ;;
    *)
      echo 'expected an ARN, secretsmanager:NAME, ssm:NAME or /NAME' >&2
      return 1 ;;
  esac
  for try in 1 2 3 4; do
    value=$(rv_aws "$@" --region "$region" --output text) && [ -n "$value" ] && printf %s "$value" && return
    command -v aws >/dev/null || return
    [ "$try" = 4 ] || sleep "$try"
  done
  return 1
}

# One line of the serial console by one write, so that no other process' output gets into it; the kernel's can. Bash
# writes a line of more than 1008 bytes in parts.
rv_console() {
  { [ -e "$RV_CONSOLE" ] && printf '%s\n' "$1" >>"$RV_CONSOLE"; } 2>/dev/null || printf '%s\n' "$1" >&"$RV_STDOUT"
}

# For people: the backend takes a node for ready as soon as it runs and has its volumes, and a message that comes before
# the node waits for it stays.
rv_ready() { rv_console RANKVOL-READY; }

# backends/_aws_wire.py wrote the tags: rankvol:go says how many parts there are and what their SHA-256 begins with.
rv_wait_go() {
  local parts sum text name value
  until parts=$(rv_go) && sum=$(printf %s "${parts#* }" | sha256sum) && [ "${parts%% *}" = "${sum:0:16}" ]; do
    sleep 2
  done
  text=${parts#* }
  printf %s "$text" | base64 -d | gzip -dc | while IFS= read -r -d '' name && IFS= read -r -d '' value; do
    printf '%s %s\n' "$name" "$(printf %s "$value" | rv_b64)"
  done
}
rv_go() {
  local head i text=''
  head=$(rv_imds tags/instance/rankvol:go) && [[ $head =~ ^([1-9][0-9]?)\ ([0-9a-f]{16})$ ]] || return
  for ((i = 0; i < BASH_REMATCH[1]; i++)); do text+=$(rv_imds "tags/instance/rankvol:go:$i") || return; done
  printf '%s %s' "${head#* }" "$text"
}

# Several times, because the kernel's messages may go right through a line; twice where it is long: GetConsoleOutput
# returns 64 KB. Nothing here needs room on a disk.
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
rv_report() { rv_report_on_console "$1"; }

# shutdown asks init, which may hang on a service or a mount.
rv_poweroff() {
  shutdown -h now
  sleep "$RV_GRACE"
  poweroff -f
  sleep "$RV_GRACE"
  poweroff -ff
}
