"""Stands in for Amazon's SSM agent on a node of the double: gets commands, runs them, passes on what they print.

Runs on the node, so it has the standard library alone, the node's metadata service and its aws command.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.request

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

ENDPOINT = os.environ["AWS_ENDPOINT_URL"]
IMDS = "http://169.254.169.254/latest"
PAUSE_S = 0.1
# More of a stream than GetCommandInvocation shows is not sent back; the bucket has all of it.
KEPT = 24_000


def ask(verb: str, **fields: Any) -> Any:
    """Ask the double."""
    request = urllib.request.Request(f"{ENDPOINT}/_double/agent_{verb}", json.dumps(fields).encode())
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def metadata(path: str) -> str:
    """Return what the metadata service says; nothing where it has nothing."""
    headers = {"X-aws-ec2-metadata-token-ttl-seconds": "60"}
    try:
        with urllib.request.urlopen(urllib.request.Request(f"{IMDS}/api/token", None, headers, method="PUT")) as answer:
            token = answer.read().decode()
        headers = {"X-aws-ec2-metadata-token": token}
        with urllib.request.urlopen(urllib.request.Request(f"{IMDS}/meta-data/{path}", None, headers)) as answer:
            return str(answer.read().decode())
    except (urllib.error.HTTPError, OSError):
        return ""


def run(instance: str, message: dict[str, Any]) -> None:
    """Run one command to its end, pass on its output, and say what became of it: in that order."""
    command = message["command"]
    folder = f"/var/lib/amazon/ssm/{instance}/document/orchestration/{command}/awsrunShellScript/0.awsrunShellScript"
    os.makedirs(folder)
    script = f"{folder}/_script.sh"
    with open(script, "w", encoding="utf-8") as file:
        file.write("\n".join(message["commands"]) + "\n")
    os.chmod(script, 0o700)
    with open(f"{folder}/stdout", "wb") as out, open(f"{folder}/stderr", "wb") as err:
        job = subprocess.Popen(["sh", "-c", script], stdin=subprocess.DEVNULL, stdout=out, stderr=err, process_group=0)
        try:
            code = job.wait(message["execution_s"])
        except subprocess.TimeoutExpired:
            os.killpg(job.pid, signal.SIGKILL)
            code = 137
    shown = {}
    for stream in ("stdout", "stderr"):
        with open(f"{folder}/{stream}", encoding="utf-8", errors="replace") as text:
            shown[stream] = text.read(KEPT)
        if not shown[stream]:
            continue
        if target := message["uploads"].get(stream):
            aws("s3", "cp", "--only-show-errors", f"{folder}/{stream}", target)
        if message["log_group"]:
            log(message["log_group"], f"{command}/{instance}/aws-runShellScript/{stream}", shown[stream])
    ask("reply", instance=instance, command=command, code=code if code >= 0 else 128 - code, **shown)


def log(group: str, stream: str, text: str) -> None:
    """Write to a group of CloudWatch's that is there; the real agent makes one where it may."""
    where = ("--log-group-name", group, "--log-stream-name", stream)
    aws("logs", "create-log-stream", *where)
    events = [{"timestamp": int(time.time() * 1000), "message": line} for line in text.splitlines() if line]
    aws("logs", "put-log-events", *where, "--log-events", json.dumps(events))


def aws(*arguments: str) -> None:
    """Call AWS with the instance's profile; a refusal is in the agent's own log only."""
    subprocess.run(["aws", *arguments], check=False, stdin=subprocess.DEVNULL)


def main() -> None:
    """Register once there is a profile, then carry out what comes."""
    while not (metadata("iam/security-credentials/") and ask("register", instance=metadata("instance-id"))):
        time.sleep(0.5)
    instance = metadata("instance-id")
    while True:
        for message in ask("messages", instance=instance):
            threading.Thread(target=run, args=(instance, message)).start()
        time.sleep(PAUSE_S)


if __name__ == "__main__":
    main()
