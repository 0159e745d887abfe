# With report="ssm" the script runs twice (docs/adr/0012). First as user data: it has Run Command start it once more,
# waits until that is over and its output is where it belongs, and powers off. Then below the SSM agent, with RV_TURN set:
# it does the work, the job's output is its stdout, and its report its stderr, which no command of the job gets.
: "${RV_SSM_WAIT:=300}" "${RV_SSM_START:=300}" "${RV_SSM_UPLOAD:=120}" "${RV_SSM_PAUSE:=3}" "${RV_SSM_TICK:=1}"

rv_main_by_ssm() {
  [ -z "${RV_TURN-}" ] || rv_ssm_job
  trap 'RV_PHASE=setup RV_CODE=125 RV_ERROR="the bootstrap ended unexpectedly; see the console"; rv_end' EXIT
  rv_arm_lifetime || rv_die "the timer for this node's lifetime could not be set"
  RV_TURN=${RV_WORK%/*}/turn
  mkdir -p "$RV_TURN" && cp "$0" "$RV_TURN/script" || rv_die "the job's script could not be kept in $RV_TURN"
  rv_ssm_send
  rv_ssm_wait
  trap - EXIT
  rv_poweroff
  exit 0
}

# What Run Command starts. SendCommand has no token, so a command whose answer was lost is sent again: whoever makes
# the directory runs the job.
rv_ssm_job() {
  export -n RV_TURN
  rv_arm_lifetime() { :; } # the first run has
  rv_report() {
    rv_report_lines "$1" >&"$RV_STDERR"
    rv_report_on_console "$1"
  }
  rv_poweroff() {
    local try
    rm -f "$RV_TURN/running"
    exec >&"$RV_STDERR" 2>&1
    # What the commands printed last is still on its way; whoever kept the pipe open must not hold the node up.
    for try in {1..50}; do
      kill -0 "$RV_SHOWING" 2>/dev/null || break
      sleep 0.1
    done
    [ "$RV_CODE" != 194 ] || exit 1 # to the agent 194 means: restart this machine
    exit "$RV_CODE"
  }
  if ! mkdir "$RV_TURN/taken"; then
    rv_say 'this job has been started before; nothing is done twice' >&"$RV_STDERR"
    exit 0
  fi
  : >"$RV_TURN/running" && printf '%s\n' $$ >"$RV_TURN/pid"
  rv_main
}

# An instance is unknown to SSM until its agent has registered, which takes up to some minutes after it boots. Rights
# that were just given take a moment, too.
rv_ssm_send() {
  local until=$((SECONDS + RV_SSM_WAIT)) left=5 seconds=$RV_LIFETIME
  RV_WHY=''
  RV_REGION=$(rv_imds_wait placement/region) && RV_ID=$(rv_imds_wait instance-id) &&
    RV_NAME=$(rv_imds_wait tags/instance/Name) || rv_die "the metadata service does not say who this node is"
  ((seconds <= 172800)) || seconds=172800 # as long as AWS-RunShellScript takes
  set -- --instance-ids "$RV_ID" --document-name AWS-RunShellScript --comment "$RV_NAME" \
    --timeout-seconds "$RV_SSM_START" --parameters \
    "{\"commands\":[\"RV_TURN=$RV_TURN exec bash $RV_TURN/script\"],\"executionTimeout\":[\"$seconds\"]}"
  [ -z "$RV_SSM_BUCKET" ] ||
    set -- "$@" --output-s3-bucket-name "$RV_SSM_BUCKET" --output-s3-key-prefix "$RV_SSM_PREFIX$RV_NAME"
  [ -z "$RV_SSM_LOG_GROUP" ] || set -- "$@" --cloud-watch-output-config \
    "CloudWatchOutputEnabled=true,CloudWatchLogGroupName=$RV_SSM_LOG_GROUP"
  until RV_WHY=$(rv_aws ssm send-command "$@" --region "$RV_REGION" --query Command.CommandId --output text 2>&1); do
    RV_WHY=$(grep . <<<"$RV_WHY" | tail -n 1 | tail -c 500)
    case $RV_WHY in
      *InvalidInstanceId* | *Throttl* | *RequestLimit*) ;;
      *) ((--left > 0)) && command -v aws >/dev/null || rv_die "the job could not be sent to this node through Run \
Command. May its instance profile call ssm:SendCommand for it? $RV_WHY" ;;
    esac
    ((SECONDS < until)) || rv_die "this node's SSM agent did not register within $RV_SSM_WAIT s. Is it on the image, \
does the instance profile have AmazonSSMManagedInstanceCore, does the subnet lead to SSM's endpoints? $RV_WHY"
    sleep "$RV_SSM_PAUSE"
  done
}

# Waits for the end of the job, then for that of the command: by then the agent has passed on its output.
rv_ssm_wait() {
  local until=$((SECONDS + RV_SSM_START + 30)) pid
  until [ -s "$RV_TURN/pid" ]; do
    # From now on a command that arrives all the same finds the job taken.
    if ((SECONDS >= until)) && mkdir "$RV_TURN/taken" 2>/dev/null; then
      rv_die "Run Command accepted the job, and did not start it within $RV_SSM_START s. Look at the SSM agent"
    fi
    sleep "$RV_SSM_TICK"
  done
  pid=$(<"$RV_TURN/pid")
  while kill -0 "$pid" 2>/dev/null; do sleep "$RV_SSM_TICK"; done
  [ ! -e "$RV_TURN/running" ] ||
    rv_die "the command ended before the job did: somebody cancelled it in Run Command, or ended it on the node"
  until=$((SECONDS + RV_SSM_UPLOAD))
  until rv_ssm_over || ((SECONDS >= until)); do sleep "$RV_SSM_PAUSE"; done
}

rv_ssm_over() {
  local states
  states=$(rv_aws ssm list-command-invocations --instance-id "$RV_ID" --region "$RV_REGION" --output text \
    --query "CommandInvocations[?Comment=='$RV_NAME'].Status" 2>/dev/null) &&
    [ -n "$states" ] && [[ ! $states =~ Pending|InProgress|Delayed|Cancelling ]]
}
