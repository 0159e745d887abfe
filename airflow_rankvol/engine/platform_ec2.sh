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

# EC2 may start a node again after its host has failed: then neither this script nor its timer runs, but what lies here,
# which cloud-init runs with every boot before the script of the first one. The link leads to this instance's own place:
# one of an image that somebody makes of this node has none.
: "${RV_INIT:=/var/lib/cloud}"
[ -d "$RV_INIT/instance" ] && printf '#!/bin/sh\nshutdown -h now' | install /dev/stdin "$RV_INIT/instance/rankvol" &&
ln -sf "$RV_INIT/instance/rankvol" "$RV_INIT/scripts/per-boot"
: "${RV_IMDS:=http://169.254.169.254}" "${RV_IMDS_WAIT:=60}" "${RV_SHOWN:=32768}"
# A serial console takes some 10 KB a second, and blocks who writes more: it shows only how the output begins.
exec {RV_STDOUT}>&1 > >("${RV_SHOW:-rv_show}") 2>&1
RV_SHOWING=$!

# Version 2 of the metadata service: every request needs a token.
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
  rv_imds_wait local-ipv4 || rv_own_ip
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

# For people: the backend takes a node for ready as soon as it runs and has its volumes, and a message that comes before
# the node waits for it stays.
rv_ready() { rv_console RANKVOL-READY; }

# backends/_aws_wire.py wrote the tags: rankvol:go says how many parts there are and what their SHA-256 begins with.
rv_wait_go() {
  local parts sum
  until parts=$(rv_go) && sum=$(printf %s "${parts#* }" | sha256sum) && [ "${parts%% *}" = "${sum:0:16}" ]; do
    sleep 2
  done
  rv_print_go "${parts#* }"
}
rv_go() {
  local head i text=''
  head=$(rv_imds tags/instance/rankvol:go) && [[ $head =~ ^([1-9][0-9]?)\ ([0-9a-f]{16})$ ]] || return
  for ((i = 0; i < BASH_REMATCH[1]; i++)); do text+=$(rv_imds "tags/instance/rankvol:go:$i") || return; done
  printf '%s %s' "${head#* }" "$text"
}

rv_report() { rv_report_on_console "$1"; }
