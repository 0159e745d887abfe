# Copies what the job's globs match on the ranks' volumes to its destination; part of the scripts of gather nodes whose
# job has one. Also needs findutils and the platform's rv_copy DIRECTORY DESTINATION, which follows links.
RV_FILES=() RV_COUNT=0 RV_BYTES=0 RV_TEXT='' RV_TREE=${RV_WORK%/*}/collect

# Sets RV_TEXT to $1 as a JSON text, without the quotes around it.
rv_json_text() {
  local i char escape
  RV_TEXT=${1//\\/\\\\} RV_TEXT=${RV_TEXT//\"/\\\"}
  [[ $RV_TEXT == *[[:cntrl:]]* ]] || return 0
  for i in {1..31}; do
    printf -v escape '\\%03o' "$i"
    # shellcheck disable=SC2059
    printf -v char "$escape"
    printf -v escape '\\u%04x' "$i"
    RV_TEXT=${RV_TEXT//"$char"/"$escape"}
  done
}

# Sets RV_FILES to the regular files of this directory that a glob matches, each once. Ours are left out unless a glob
# names them; links are never followed, because they lead anywhere.
rv_match() {
  local pattern file IFS=
  local -A seen=()
  RV_FILES=()
  shopt -s globstar nullglob dotglob
  for pattern in "${RV_COLLECT[@]}"; do
    # shellcheck disable=SC2231 # to be expanded is what a pattern is for
    for file in $pattern; do
      [[ $file != .rankvol/* || $pattern == .rankvol/* ]] || continue
      if [ -f "$file" ] && [ ! -L "$file" ] && [ -z "${seen[x$file]-}" ]; then seen[x$file]=1 RV_FILES+=("$file"); fi
    done
  done
  shopt -u globstar nullglob dotglob
}

# Links the files $3… into directory $1 of the tree of what is copied.
rv_link() {
  local to=$1
  shift
  [ "$#" -gt 0 ] || return 0
  mkdir -p "$to" && printf '%s\0' "$@" | xargs -0 ln -st "$to" --
}

# Puts this directory's RV_FILES into the tree below $1, and into the list with sizes and sums.
rv_collect_files() {
  local i file folder last='' bad sizes sums batch=()
  printf '%s\0' "${RV_FILES[@]}" >"$RV_TREE/names"
  bad=$(LC_ALL=C.UTF-8 grep -zavxm 1 '.*' "$RV_TREE/names" | tr -d '\0' | base64 -w0)
  if [ -n "$bad" ]; then
    echo "a file's name is not UTF-8 (in base64: $bad)" >&2
    return 1
  fi
  xargs -0 stat --printf '%s\0' -- <"$RV_TREE/names" >"$RV_TREE/sizes" || return
  xargs -0 sha256sum -z -- <"$RV_TREE/names" >"$RV_TREE/sums" || return
  mapfile -d '' -t sizes <"$RV_TREE/sizes"
  mapfile -d '' -t sums <"$RV_TREE/sums"
  for i in "${!RV_FILES[@]}"; do
    file=${RV_FILES[i]} folder=.
    [[ $file != */* ]] || folder=${file%/*}
    if [ "$folder" != "$last" ]; then
      rv_link "$RV_TREE/files/$1/$last" "${batch[@]}" || return
      last=$folder batch=()
    fi
    batch+=("$PWD/$file")
    rv_json_text "$1/$file"
    [ "$RV_COUNT" = 0 ] || printf ',\n'
    printf '{"path":"%s","size":%d,"sha256":"%s"}' "$RV_TEXT" "${sizes[i]}" "${sums[i]%% *}"
    RV_COUNT=$((RV_COUNT + 1)) RV_BYTES=$((RV_BYTES + sizes[i]))
  done >>"$RV_TREE/list"
  rv_link "$RV_TREE/files/$1/$last" "${batch[@]}"
}

# The manifest comes last: who finds it knows that all files in it are there.
rv_copy_all() {
  local i place manifest=manifest.json copied
  rm -rf "$RV_TREE"
  mkdir -p "$RV_TREE/files" "$RV_TREE/manifest" && : >"$RV_TREE/list" || return
  for i in "${!RV_IDS[@]}"; do
    cd "${RV_AT[i]}" || return
    rv_match
    printf -v place 'rank=%03d%s' "${RV_OF[i]}" "${RV_PATHS[i]}"
    [ "${#RV_FILES[@]}" = 0 ] || rv_collect_files "$place" || return
  done
  cd / || return
  if [ "$RV_COUNT" -gt 0 ]; then
    rv_say "copying $RV_COUNT files ($RV_BYTES bytes) to $RV_DESTINATION"
    rv_copy "$RV_TREE/files" "$RV_DESTINATION" || return
  elif [ -n "$(find -H "${RV_AT[@]}" -xdev -name .rankvol -prune -o -type f -print -quit)" ]; then
    # Of several parts another one may have what is looked for: who reads all their reports judges.
    if [ "$RV_PARTS" = 1 ]; then
      echo "collect matches no file on any volume, although there are some" >&2
      return 1
    fi
    copied=-1
  fi
  [ "$RV_PARTS" = 1 ] || manifest=manifest-$((-1 - RV_RANK)).json
  rv_json_text "$RV_DESTINATION"
  {
    printf '{"version":1,"key":"%s","destination":"%s","part":%d,"parts":%d,"ranks":[%s],"missing":[%s],' \
      "$RV_KEY" "$RV_TEXT" "$((-1 - RV_RANK))" "$RV_PARTS" "$RV_COLLECTED" "$RV_MISSING"
    printf '"bytes":%d,"files":[\n' "$RV_BYTES"
    cat "$RV_TREE/list"
    printf '\n]}\n'
  } >"$RV_TREE/manifest/$manifest" && rv_copy "$RV_TREE/manifest" "$RV_DESTINATION" || return
  [ -n "$RV_OUTPUT" ] || RV_OUTPUT=$(printf '{"destination":"%s","files":%d,"bytes":%d,"manifest":"%s"}' \
    "$RV_TEXT" "$RV_COUNT" "$RV_BYTES" "$RV_TEXT/$manifest" | rv_b64)
  RV_COPIED=${copied:-$RV_COUNT}
}

rv_collect() {
  local code=0
  rv_copy_all 2>"$RV_HOME/why" || code=1
  RV_FINISHED=$(rv_now)
  [ "$code" = 1 ] || return 0
  RV_CODE=1 RV_ERROR="the results could not be copied to $RV_DESTINATION: $(grep . "$RV_HOME/why" | tail -n 3 |
    tail -c 600). The volumes are kept: mend that, then clear gather"
}
