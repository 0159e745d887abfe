"""The supervisor of one node on this machine: a process of its own that outlives the task which started it.

Run by ``start_supervisor`` with nothing but the standard library, because every node waits for it. It gives
the node its loop devices and, where the machine allows it, a mount and a pid namespace; runs the bootstrap
there; ends it when its lifetime is over. When it dies, whatever the reason, the kernel takes all of it away:
the node's first process dies with it (PR_SET_PDEATHSIG), the pid namespace with that, the mounts with the
namespace, and the loop devices when their last user is gone (LO_FLAGS_AUTOCLEAR).
"""

from __future__ import annotations

import os
import signal
import sys
import time

TYPE_CHECKING = False  # typing takes longer to import than all the rest
if TYPE_CHECKING or __package__:
    from typing import NoReturn

    from airflow_rankvol.backends import _local_linux as linux
else:  # run as a script, see COMMAND
    import _local_linux as linux

#: What ``python -I -S -c`` runs; the arguments follow: the folder of this file, then those of ``main``.
COMMAND = """
import sys
sys.path.insert(0, sys.argv[1])
import _local_node
sys.path.pop(0)
_local_node.main(*sys.argv[2:])
"""


class Supervisor:
    """Runs one node to its end."""

    def __init__(self, node_dir: str, lifetime_s: float, address: str, isolation: str) -> None:
        self.node_dir = node_dir
        self.deadline = time.monotonic() + lifetime_s
        self.address = address
        self.isolation = isolation
        self.loops: list[int] = []  # open for as long as the node lives, or the kernel would clear them
        self.points: list[str] = []
        # Looked for now: in a user namespace, even Python's own modules may be out of reach.
        folders = os.environ["PATH"].split(os.pathsep)
        self.bash = next(f"{folder}/bash" for folder in folders if os.access(f"{folder}/bash", os.X_OK))

    def run(self) -> None:
        """Give the node what it needs, run it, and take everything away again."""
        images = self._provide()
        namespace = self.isolation != "process"
        if namespace and self.isolation == "auto" and not images:
            reason = linux.rehearse(self.node_dir, self.points, linux.check_interpreter)
            namespace = not reason
            if reason:
                say(f"no namespaces here, so this node is a plain process group: {reason}")
        reason = self._wait(self._spawn(namespace))
        if not namespace:
            end_children()
        linux.write(f"{self.node_dir}/end", reason)

    def _provide(self) -> bool:
        """Write where each volume is; say whether one of them is an image."""
        lines = []
        images = False
        with open(f"{self.node_dir}/wanted", encoding="utf-8") as file:
            wanted = [line.rstrip("\n").split("\t") for line in file]
        for volume_id, kind, source, point in wanted:
            self.points.append(point)
            images = images or kind == "image"
            try:
                at = self._loop(source) if kind == "image" else source
            except OSError as exc:
                say(f"no loop device for volume {volume_id}: {exc}")
                continue
            lines.append(f"{volume_id}\t{at}\n")
        linux.write(f"{self.node_dir}/devices", "".join(lines))
        return images

    def _loop(self, image: str) -> str:
        loop, device = linux.open_loop(image)
        self.loops.append(loop)
        return device

    def _spawn(self, namespace: bool) -> int:
        """Start the bootstrap, held back until it is on record: nothing runs that cannot be found."""
        go, start = os.pipe()
        if namespace:
            linux.unshare_pids()
        else:
            linux.call("prctl", linux.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        child = os.fork()
        if child == 0:
            os.close(start)
            self._become_node(go, namespace)
        kind = "namespace" if namespace else "process"
        linux.write(f"{self.node_dir}/child", linux.identity(child).replace("}", f', "isolation": "{kind}"}}'))
        os.write(start, b"!")  # and stays open, see linux.has_writer
        os.close(go)
        return child

    def _become_node(self, go: int, namespace: bool) -> NoReturn:
        try:
            linux.call("prctl", linux.PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            # A supervisor that died before the call above sends no signal any more.
            if os.read(go, 1) != b"!" or not linux.has_writer(go):
                os._exit(1)
            os.setsid()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
            home = self.node_dir
            if namespace:
                linux.enter_namespace(self.node_dir, self.points)
                home = linux.INSIDE
            else:
                os.chdir(home)
            env = {
                **os.environ,
                "RANKVOL_NODE_DIR": home,
                "RANKVOL_NODE_MOUNTS": "1" if namespace else "0",
                "RANKVOL_NODE_ADDRESS": self.address,
                "HOME": f"{home}/work",
                "TMPDIR": f"{home}/tmp",  # noqa: S108 - the node's own
            }
            os.execve(self.bash, ["bash", f"{home}/bootstrap"], env)  # noqa: S606 - becoming it is the point
        except BaseException as exc:  # noqa: BLE001 - a forked copy must end here, whatever happens
            say(f"the node could not be started: {exc}")
        os._exit(125)

    def _wait(self, child: int) -> str:
        """Wait for the node's end, at most for its lifetime; return why it ended without a report."""
        while True:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                code = os.waitstatus_to_exitcode(status)
                return "killed" if code < 0 else f"the bootstrap ended with status {code}, see the console"
            left = self.deadline - time.monotonic()
            if left <= 0:
                say("the node's lifetime is over")
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                return "lifetime"
            signal.sigtimedwait({signal.SIGCHLD}, min(left, 3600))


def end_children() -> None:
    """Kill what a plain process group left behind; as its sub-reaper, orphans of any session come to us."""
    me = os.getpid()
    while True:
        with open(f"/proc/self/task/{me}/children", encoding="ascii") as file:
            for child in file.read().split():
                os.kill(int(child), signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def say(text: str) -> None:
    """Write a line to the node's console."""
    print(f"rankvol: {text}", flush=True)  # noqa: T201 - stdout is the console


def probe(folder: str) -> None:
    """Exit with 0 when an image can be formatted and mounted on this machine, else say why not."""
    image = f"{folder}/disk.img"
    with open(image, "wb") as file:
        file.truncate(4 << 20)
    loop, device = linux.open_loop(image)
    script = (
        f"mkfs.ext4 -q -m 0 {device} && [ $(blkid -p -s TYPE -o value {device}) = ext4 ] && "
        f"mount -t ext4 {device} /rankvol-probe && umount /rankvol-probe"
    )

    def become_trial() -> None:
        os.execvp("bash", ["bash", "-euo", "pipefail", "-c", script])  # noqa: S606 - becoming it is the point

    reason = linux.rehearse(folder, ["/rankvol-probe"], become_trial)
    os.close(loop)
    sys.exit(reason or 0)


def main(node_dir: str, lifetime_s: str = "", address: str = "", isolation: str = "") -> None:
    """Detach, put this process on record, and run the node; with a folder alone, probe."""
    os.umask(0o077)
    if not lifetime_s:
        return probe(node_dir)
    read, write_ = os.pipe()
    if os.fork():
        os.close(write_)
        os._exit(0 if os.read(read, 1) else 1)
    os.setsid()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    # Made by whoever comes first: this process, or one that found the node's creator dead and gave its volumes away.
    if not linux.claim(f"{node_dir}/process", linux.identity(os.getpid())):
        say("this node was given up before it started")
        os._exit(1)
    os.write(write_, b"!")
    os.close(write_)
    os.close(read)
    Supervisor(node_dir, float(lifetime_s), address, isolation).run()
    return None
