# The platform functions of a node on Compute Engine, where the guest agent runs the startup script as root, on every boot
# (gce/instances/startup-scripts: "a startup script … runs each time the VM boots"). Also needs curl, which Google's
# Debian images have; neither python, jq nor gcloud.
: "${RV_METADATA:=http://169.254.169.254}" "${RV_METADATA_WAIT:=60}" "${RV_TRIES:=5}" "${RV_LINGER:=60}"
: "${RV_SHOWN:=65536}" "${RV_SHOWN_PER_S:=8192}" "${RV_SHOW_PAUSE:=2}" "${RV_ONCE:=/var/lib/rankvol}"
RV_ONCE=$RV_ONCE/$RV_KEY.$RV_ROLE.$RV_RANK.$RV_ATTEMPT

# Puts the output on serial port 1 line by line, marked, so that it can be told from the system's messages and followed
# while it comes. A serial port takes some 10 KB a second, and blocks who writes more: what comes faster for long is
# left out here.
rv_show() {
  trap '' PIPE TERM
  local LC_ALL=C line dropped left=$RV_SHOWN at=$SECONDS
  while :; do
    while ((left > 0)); do
      IFS= read -r -n 800 line || [ -n "$line" ] || return 0
      rv_console "RANKVOL-LOG $line"
      ((left += (SECONDS - at) * RV_SHOWN_PER_S - ${#line} - 14))
      at=$SECONDS
      ((left <= RV_SHOWN)) || left=$RV_SHOWN
    done
    dropped=$(timeout -s KILL "$RV_SHOW_PAUSE" cat | wc -c && exit "${PIPESTATUS[0]}") && [ "$dropped" = 0 ] && return
    left=$((RV_SHOW_PAUSE * RV_SHOWN_PER_S)) at=$SECONDS
    [ "$dropped" != 0 ] || continue
    rv_console "RANKVOL-LOG rankvol: $dropped bytes are left out here; the log on the volume is whole"
    IFS= read -r -t 0.1 line # what is left of the last line
  done
}
exec {RV_STDOUT}>&1
exec > >(rv_show) 2>&1

# The metadata server tells by this header that who asks knows whom; its address needs no name service.
rv_metadata() { rv_curl -H 'Metadata-Flavor: Google' "$RV_METADATA/computeMetadata/v1/$1"; }
# The same for what is always there; at boot the server may be slow.
rv_metadata_wait() {
  local until=$((SECONDS + RV_METADATA_WAIT))
  until rv_metadata "$1"; do
    ((SECONDS < until)) || return
    sleep 1
  done
}

rv_ip() { rv_metadata_wait instance/network-interfaces/0/ip || rv_own_ip; }

# A volume's id ends with the disk's name, which is its device's name on the node as well.
rv_device() { printf /dev/disk/by-id/google-%s "${1##*/}"; }

# Asks an API of Google's with the rights of the node's service account: $1 is the URL, the rest is curl's. Prints the
# answer; the token is on no command line.
rv_google() {
  local url=$1 token answer code
  shift
  token=$(rv_metadata instance/service-accounts/default/token)
  if ! [[ $token =~ \"access_token\":\ *\"([^\"]+)\" ]]; then
    echo 'this node has no service account, or no token of it' >&2
    return 1
  fi
  token=${BASH_REMATCH[1]}
  answer=$(curl -q -sSg --connect-timeout 10 --speed-limit 1 --speed-time 60 -w '\n%{http_code}' \
    -H Expect: -H @<(printf 'Authorization: Bearer %s\n' "$token") "$@" "$url") || return
  code=${answer##*$'\n'} answer=${answer%$'\n'*}
  if [[ $code != 2?? ]]; then
    [[ $answer =~ \"message\":\ *\"([^\"]*)\" ]] && answer=${BASH_REMATCH[1]}
    printf 'HTTP %s: %s\n' "$code" "${answer:0:300}" >&2
    return 1
  fi
  printf %s "$answer"
}

# Rights that were just given take a moment to reach the node.
rv_secret() {
  local path=$1 answer try host=secretmanager
  [[ $path != secretmanager:* ]] || path=projects//secrets/${path#secretmanager:}
  if ! [[ $path =~ ^projects/([^/]*)/(locations/([a-z0-9-]+)/)?secrets/[A-Za-z0-9_-]+(/versions/[A-Za-z0-9_-]+)?$ ]]; then
    echo 'expected projects/PROJECT/secrets/NAME/versions/VERSION, or secretmanager:NAME' >&2
    return 1
  fi
  # Secrets of a region lie behind an endpoint of their own (secret-manager/regional-secrets).
  [ -z "${BASH_REMATCH[3]}" ] || host=secretmanager.${BASH_REMATCH[3]}.rep
  [ -n "${BASH_REMATCH[4]}" ] || path=$path/versions/latest
  [[ $path != projects//* ]] || path=projects/$(rv_metadata_wait project/project-id)/${path#projects//} || return
  for try in 1 2 3 4; do
    answer=$(rv_google "${RV_SECRETMANAGER:-https://$host.googleapis.com}/v1/$path:access") &&
      [[ $answer =~ \"data\":\ *\"([A-Za-z0-9+/=]+)\" ]] && printf %s "${BASH_REMATCH[1]}" | base64 -d && return
    [ "$try" = 4 ] || sleep "$try"
  done
  return 1
}

# A guest attribute: the cloud keeps it when the node has stopped. At most 10 a minute and 3 a second; who writes faster
# may lose them (gce/metadata/manage-guest-attributes, "When to use guest attributes").
rv_attribute() {
  local try
  for ((try = 1; try <= RV_TRIES; try++)); do
    printf %s "$2" | rv_curl -X PUT -H 'Metadata-Flavor: Google' --data-binary @- -o /dev/null \
      "$RV_METADATA/computeMetadata/v1/instance/guest-attributes/rankvol/$1" && return
    [ "$try" = "$RV_TRIES" ] || sleep "$try"
  done
  return 1
}

# For people: the backend takes a node for ready as soon as it runs, and a message that comes before the node waits for it
# stays.
rv_ready() {
  rv_console RANKVOL-READY
  rv_attribute state ready || return 0
}

# backends/_gcp_wire.py wrote the message: what its text's SHA-256 begins with, and the text.
rv_wait_go() {
  local go sum
  until go=$(rv_metadata instance/attributes/rankvol-go) && sum=$(printf %s "${go#* }" | sha256sum) &&
    [ "${go%% *}" = "${sum:0:16}" ]; do
    sleep 2
  done
  rv_print_go "${go#* }"
}

# As guest attributes, ten lines in each (nobody says how much one holds), and on the serial port, which can be read only
# while the node runs: so it runs on for a while where the attributes could not be written.
rv_report() {
  local lines at
  { printf %s "$1" >"$RV_ONCE/report.new" && sync "$RV_ONCE/report.new" && mv -f "$RV_ONCE/report.new" "$RV_ONCE/report"; } \
    2>/dev/null
  rv_report_on_console "$1"
  mapfile -t lines < <(rv_report_lines "$1")
  for ((at = 0; at < ${#lines[@]}; at += 10)); do
    [ "$at" = 0 ] || sleep 0.4
    if ! rv_attribute "report-$((at / 10))" "$(printf '%s\n' "${lines[@]:at:10}")"; then
      rv_say "the report could not be written to the guest attributes; it is on this serial port"
      sleep "$RV_LINGER"
      return
    fi
  done
}

# A node does its work once, on its first boot. When it boots again, it says once more what it reported, or that it was
# cut off, and powers off.
rv_main_once() {
  local report
  if mkdir -p "${RV_ONCE%/*}" && ! mkdir "$RV_ONCE" && [ -d "$RV_ONCE" ]; then
    report=$(cat "$RV_ONCE/report" 2>/dev/null) && [ -n "$report" ] || rv_die "this node was started again: it or \
its host had failed, or somebody did it. What it was doing was cut off, and a node begins only once"
    rv_report "$report"
    rv_poweroff
    exit 0
  fi 2>/dev/null
  sync -f "$RV_ONCE" 2>/dev/null
  rv_main
}
