# How results get into a bucket of Cloud Storage: by curl, with the token of the node's service account.
: "${RV_STORAGE:=https://storage.googleapis.com}" "${RV_UPLOAD_PART:=33554432}" "${RV_UPLOADS:=8}"

# Escapes a name for a URL byte by byte.
rv_url_name() {
  local LC_ALL=C i text=''
  for ((i = 0; i < ${#1}; i++)); do
    case ${1:i:1} in
      [A-Za-z0-9._~-]) text+=${1:i:1} ;;
      *) printf -v text '%s%%%02X' "$text" "'${1:i:1}" ;;
    esac
  done
  printf %s "$text"
}

# Copies all files below directory $1 to gs://bucket/prefix $2, several at a time; links are followed.
rv_copy() {
  export RV_METADATA RV_STORAGE RV_UPLOAD_PART
  export -f rv_curl rv_metadata rv_google rv_url_name rv_upload rv_upload_whole rv_upload_parts rv_upload_state
  # shellcheck disable=SC2016 # the inner shell expands them
  (cd "$1" && find -L . -type f -printf '%P\0' | xargs -0 -r -n 16 -P "$RV_UPLOADS" bash -c '
    for name in "${@:2}"; do rv_upload "./$name" "$1/$name" || exit 255; done' rankvol-upload "$2")
}

# Copies file $1 to object $2. What the bucket has then must have the file's MD5.
rv_upload() {
  local place=${2#gs://} size sum url answer try
  size=$(stat -L -c %s "$1") && sum=$(md5sum <"$1") &&
    sum=$(printf %b "$(sed 's/ .*//; s/../\\x&/g' <<<"$sum")" | base64) || return
  url="$RV_STORAGE/upload/storage/v1/b/${place%%/*}/o?name=$(rv_url_name "${place#*/}")"
  for try in 1 2 3 4 5; do
    if ((size <= RV_UPLOAD_PART)); then
      answer=$(rv_upload_whole "$1" "$url" 2>&1)
    else
      answer=$(rv_upload_parts "$1" "$url" "$size" 2>&1)
    fi
    [[ $answer == *'"md5Hash":'*"\"$sum\""* ]] && return
    [[ ! $answer =~ HTTP\ 4[0-9][0-9]: || $answer =~ HTTP\ 4(08|29): ]] || break
    [ "$try" = 5 ] || sleep "$try"
  done
  printf '%s could not be copied to %s: %s\n' "${1#./}" "$2" "${answer:0:300}" >&2
  return 1
}

rv_upload_whole() {
  rv_google "$2&uploadType=media" -X POST -H 'Content-Type: application/octet-stream' -T "$1"
}

# A resumable upload (storage/docs/performing-resumable-uploads): after a part that did not arrive, the bucket says how
# much it has. The session's URL is a password of sorts.
rv_upload_parts() {
  local url=$2 size=$3 head at=0 end found lost=0
  head=$(rv_google "$url&uploadType=resumable" -X POST -H 'Content-Length: 0' -i) || return
  [[ $head =~ [Ll]ocation:\ *([^[:space:]]+) ]] && url=${BASH_REMATCH[1]} || return
  while :; do
    end=$((at + RV_UPLOAD_PART < size ? at + RV_UPLOAD_PART : size))
    found=$(tail -c "+$((at + 1))" "$1" | head -c "$((end - at))" |
      rv_upload_state "$url" -H "Content-Range: bytes $at-$((end - 1))/$size" --data-binary @-)
    case ${found%%$'\n'*} in
      200 | 201) printf %s "${found#*$'\n'}"; return ;;
      308) at=${found#*$'\n'} lost=0 ;;
      *)
        ((++lost <= 4)) || return
        sleep "$lost"
        found=$(rv_upload_state "$url" -H "Content-Range: bytes */$size" -H 'Content-Length: 0')
        case ${found%%$'\n'*} in
          200 | 201) printf %s "${found#*$'\n'}"; return ;;
          308) at=${found#*$'\n'} ;;
        esac ;;
    esac
  done
}

# Prints the status, and on the next line what the bucket has: the object, or how many bytes.
rv_upload_state() {
  local url=$1 answer code
  shift
  answer=$(curl -q -sSg --connect-timeout 10 --speed-limit 1 --speed-time 60 -X PUT -D - -w '\n%{http_code}' \
    -H Expect: "$@" -K <(printf 'url = "%s"\n' "$url"))
  code=${answer##*$'\n'}
  if [ "$code" = 308 ]; then
    [[ $answer =~ [Rr]ange:\ *bytes=0-([0-9]+) ]] && printf '308\n%d' "$((BASH_REMATCH[1] + 1))" || printf '308\n0'
  else
    printf '%s\n%s' "$code" "${answer%$'\n'*}"
  fi
}
