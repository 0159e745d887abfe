#!/bin/sh
# Installed as shutdown, poweroff, halt, reboot and systemctl: asks the node's pid 1, as they ask systemd.
name=${0##*/}

ask() {
  { printf '%s\n' "$*" >/run/initctl; } 2>/dev/null && return
  echo "$name: Interactive authentication required." >&2
  exit 1
}
refuse() {
  echo "$name: this node does not provide: $name $*" >&2
  exit 1
}

shut_down() {
  action=poweroff when=
  for word; do
    case $word in
      -c) action=cancel ;;
      -h | -P | -H | --poweroff | --halt | --no-wall) ;;
      -*) refuse "$@" ;;
      *) when=${when:-$word} ;;
    esac
  done
  [ "$action" = poweroff ] || { ask cancel; return; }
  case ${when:=+1} in
    now | +0) ask poweroff ;;
    +*[!0-9]* | +) refuse "$@" ;;
    +*)
      ask poweroff "${when#+}"
      echo "Shutdown scheduled in ${when#+} minute(s), use 'shutdown -c' to cancel." >&2
      ;;
    *) refuse "$@" ;;
  esac
}

case $name in
  shutdown) shut_down "$@" ;;
  poweroff | halt) ask poweroff ;;
  systemctl)
    verb=
    for word; do
      case $word in -*) ;; *) verb=${verb:-$word} ;; esac
    done
    case $verb in
      poweroff | halt) ask poweroff ;;
      *) refuse "$@" ;;
    esac
    ;;
  *) refuse "$@" ;;
esac
