"""A real ComfyUI server on this machine's CPU, with this pack and tiny_pack, which has models to try it with."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

# Another copy of the pack can be tested, such as an unpacked release.
PACK = Path(os.environ.get("HAPAX_PACK", Path(__file__).resolve().parents[2]))
START_SECONDS = 900
RUN_SECONDS = 600


class ServerError(RuntimeError):
    """A server that did not start, or a prompt that it refused or failed at."""


def checkouts() -> list[Path]:
    """ComfyUI folders: those that COMFYUI_PATH names, else those under ~/comfy."""
    named = os.environ.get("COMFYUI_PATH")
    if named is not None:
        return [Path(each).expanduser() for each in named.split(os.pathsep) if each]
    return sorted(main.parent for main in Path.home().glob("comfy/*/main.py") if python_of(main.parent).exists())


def python_of(checkout: Path) -> Path:
    """The Python that a checkout was installed with."""
    return checkout / ".venv" / "bin" / "python"


class Server:
    """A context manager: started by `with`, stopped by its process id at the end.

    `base` receives models/, input/, output/ and custom_nodes/; the log is in base/server.log.
    """

    def __init__(self, checkout: Path, base: Path) -> None:
        self.checkout = checkout
        self.base = base
        self.log = base / "server.log"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen | None = None

    @property
    def has_demo_model(self) -> bool:
        """Whether the pack that it runs holds the emoji model's weights."""
        return (PACK / "core" / "emoji" / "model" / "model_index.json").is_file()

    def __enter__(self) -> Server:
        """Start, and wait until it answers."""
        self._prepare()
        self._start()
        return self

    def restart(self) -> None:
        """Stop it, and start another process on the same folders and port."""
        self.__exit__()
        self._start()

    def _start(self) -> None:
        command = [str(python_of(self.checkout)), "main.py", "--cpu", "--listen", "127.0.0.1", "--port", str(self.port)]
        command += ["--disable-auto-launch", "--disable-api-nodes", "--base-directory", str(self.base)]
        command += ["--database-url", f"sqlite:///{self.base}/user/comfyui.db"]
        # One thread: on a busy machine the default's spinning threads take tens of times as long.
        quiet = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command, cwd=self.checkout, env=quiet, stdout=log, stderr=subprocess.STDOUT
            )
        try:
            self._wait_until_up()
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *_: object) -> None:
        """Stop it."""
        assert self._process is not None
        self._process.terminate()
        try:
            self._process.wait(15)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def get(self, path: str) -> Any:
        """The JSON at `path`."""
        return json.loads(self.get_bytes(path))

    def get_bytes(self, path: str) -> bytes:
        """What is at `path`, as it comes."""
        with urllib.request.urlopen(self.url + path, timeout=60) as answer:
            return answer.read()

    def post(self, path: str, body: object) -> Any:
        """The JSON that comes back for `body`.

        Raises:
            ServerError: the server refused it; the text says why (`node_errors` of an invalid prompt).
        """
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.url + path, json.dumps(body).encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:
            raise ServerError(error.read().decode()) from error

    def run(self, prompt: dict[str, Any], seconds: float = RUN_SECONDS) -> dict[str, Any]:
        """Run a prompt in the API's form to its end and return {node id: its ui outputs}.

        Raises:
            ServerError: it was invalid, failed (the message is the node's own) or took longer than `seconds`.
        """
        entry = self.wait(self.queue(prompt), seconds)
        if entry["status"]["status_str"] != "success":
            raise ServerError(error_of(entry))
        return entry["outputs"]

    def queue(self, prompt: dict[str, Any]) -> str:
        """Queue a prompt in the API's form and return its id."""
        return self.post("/prompt", {"prompt": prompt})["prompt_id"]

    def wait(self, prompt_id: str, seconds: float = RUN_SECONDS) -> dict[str, Any]:
        """The history entry of a prompt, once it has ended, well or not."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            entry = self.get(f"/history/{prompt_id}").get(prompt_id)
            if entry:
                return entry
            time.sleep(0.2)
        raise ServerError(f"The prompt was still running after {seconds} s; the log ends:\n{self.log_tail()}")

    def file(self, output: dict[str, str]) -> bytes:
        """The bytes of an output such as {"filename": ..., "subfolder": ..., "type": ...}."""
        return self.get_bytes("/view?" + urllib.parse.urlencode(output))

    def log_tail(self, lines: int = 40) -> str:
        """The end of what the server printed."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def _prepare(self) -> None:
        (self.base / "custom_nodes").mkdir(parents=True)
        for name, pack in (("hapax", PACK), ("tiny", Path(__file__).resolve().with_name("tiny_pack"))):
            (self.base / "custom_nodes" / name).symlink_to(pack, target_is_directory=True)
        settings = self.base / "user" / "default" / "comfy.settings.json"
        settings.parent.mkdir(parents=True)
        # A first visit opens a dialog over the page.
        settings.write_text(json.dumps({"Comfy.TutorialCompleted": True}))

    def _wait_until_up(self) -> None:
        assert self._process is not None
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end and self._process.poll() is None:
            with contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError):
                self.get("/system_stats")
                return
            time.sleep(0.3)
        raise ServerError(f"ComfyUI at {self.checkout} did not start; its log ends:\n{self.log_tail()}")


def error_of(entry: dict[str, Any]) -> str:
    """The sentence that a failed run shows on its red node."""
    for name, data in entry["status"]["messages"]:
        if name == "execution_error":
            return f"{data['node_type']}: {data['exception_message'].strip()}"
    return json.dumps(entry["status"])
