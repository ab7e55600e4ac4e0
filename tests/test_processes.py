"""Programs that start processes: their errors are clear, and none is left."""

import ast
import importlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import nbformat
import pytest
import torch
from jupyter_client import KernelManager
from torch import nn

from utils.processes import ProcessError, run

ROOT = Path(__file__).resolve().parent.parent
TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]
HERE = ["--standalone", "--local-addr=127.0.0.1"]
# Starts a process in a session of its own, as torchrun does; both sleep.
PARENT = """
import subprocess, sys, time
sleep = [sys.executable, "-c", "import time; time.sleep(600)", sys.argv[1]]
subprocess.Popen(sleep, start_new_session=True)
print("started", file=sys.stderr)
time.sleep(float(sys.argv[2]))
"""
DIES = """
import os, sys, time
if os.environ["RANK"] == "1":
    {end}
time.sleep(600)
"""


def alive(mark: object) -> int:
    """How many processes have this text in their command."""
    ps = subprocess.run(["ps", "-A", "-ww", "-o", "args="], capture_output=True)
    return sum(str(mark).encode() in line for line in ps.stdout.splitlines())


def wait_until(condition, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def parent(mark: object, seconds: float) -> list:
    return [sys.executable, "-c", PARENT, mark, seconds]


def test_returns_what_it_prints_and_gives_each_process_one_thread():
    print_threads = "import os; print(os.environ['OMP_NUM_THREADS'])"
    assert run([sys.executable, "-c", print_threads], 20) == "1\n"


def test_a_failure_says_what_and_why():
    program = "import sys; print('about to', file=sys.stderr); sys.exit('no memory')"
    with pytest.raises(ProcessError, match="(?s)exit code 1.*about to.*no memory"):
        run([sys.executable, "-c", program], 20)


def test_too_slow_is_an_error_and_leaves_nothing(tmp_path):
    with pytest.raises(ProcessError, match="(?s)not ended after 1 s.*started"):
        run(parent(tmp_path, 600), 1)
    assert alive(tmp_path) == 0


def test_orphans_are_killed(tmp_path):
    run(parent(tmp_path, 0), 20)
    assert alive(tmp_path) == 0


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_interrupted_or_killed_leaves_nothing(tmp_path, how):
    program = f"from utils.processes import run; run({parent(str(tmp_path), 600)}, 99)"
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE) as process:
        # The program, the watcher, what it runs, and what that has started.
        wait_until(lambda: alive(tmp_path) == 4)
        process.send_signal(how)
        process.wait(20)
        if how == signal.SIGINT:  # by the time we hear of it they are gone
            assert b"KeyboardInterrupt" in process.stderr.read()
            assert alive(tmp_path) == 0
    wait_until(lambda: alive(tmp_path) == 0)


def test_an_interrupted_kernel_leaves_nothing_and_goes_on(tmp_path):
    manager = KernelManager()
    manager.start_kernel(cwd=ROOT, stderr=subprocess.DEVNULL)
    client = manager.blocking_client()
    try:
        client.start_channels()
        client.wait_for_ready(60)
        call = f"from utils.processes import run; run({parent(str(tmp_path), 600)}, 99)"
        asked = client.execute(call)
        wait_until(lambda: alive(tmp_path) == 3)
        manager.interrupt_kernel()
        reply = {"parent_header": {}}
        while reply["parent_header"].get("msg_id") != asked:  # a late hello comes
            reply = client.get_shell_msg(timeout=20)  # first on a busy machine
        assert reply["content"]["ename"] == "KeyboardInterrupt"
        assert alive(tmp_path) == 0
        assert client.execute_interactive("1 + 1", timeout=20, output_hook=print)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


@pytest.mark.parametrize(
    ("end", "said"),
    [
        ("sys.exit(3)", "exitcode  : 3"),
        ("raise OSError('no disk')", "no disk"),
        ("os.kill(os.getpid(), 9)", "Signal 9"),
    ],
)
def test_a_rank_that_dies_ends_all(tmp_path, end, said):
    script = tmp_path / "dies.py"
    script.write_text(DIES.format(end=end))
    with pytest.raises(ProcessError) as caught:
        run([*TORCHRUN, *HERE, "--nproc-per-node=3", script], 60)
    assert said in str(caught.value)
    assert "had not ended" not in str(caught.value)
    assert alive(tmp_path) == 0


def test_too_small_a_world_ends_with_an_error(tmp_path):
    """Two machines are announced, and one comes."""
    script = tmp_path / "waits.py"
    script.write_text(DIES.format(end="pass"))
    two = ["--nnodes=2", "--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0"]
    with pytest.raises(ProcessError, match="RendezvousTimeoutError"):
        run([*TORCHRUN, *two, "--rdzv-conf=join_timeout=1", script], 60)
    static = ["--nnodes=2", "--node-rank=0", "--master-addr=127.0.0.1"]
    with pytest.raises(ProcessError, match="had not ended after 4 s"):
        run([*TORCHRUN, *static, f"--master-port={free_port()}", script], 4)
    assert alive(tmp_path) == 0


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def written(cell: str) -> list[tuple[str, str]]:
    """The files, with their text, that a cell of chapter 09 adds to."""
    first, _, rest = cell.partition("\n")
    if first.startswith("%%writefile"):
        return [(first.partition("}/")[2], rest + "\n")]
    calls = [node for node in ast.walk(ast.parse(cell)) if isinstance(node, ast.Call)]
    calls = [call for call in calls if getattr(call.func, "id", "") == "write"]
    return [tuple(arg.value for arg in call.args) for call in calls]


@pytest.fixture
def scripts(tmp_path, monkeypatch) -> Path:
    """The files that chapter 09 writes."""
    chapter = nbformat.read(ROOT / "chapters" / "09_many_devices.ipynb", as_version=4)
    for cell in chapter.cells:
        if cell.cell_type == "code":
            for name, text in written(cell.source):
                with open(tmp_path / name, "a") as file:
                    file.write(text)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_the_script_of_chapter_09_runs_unchanged_on_two_machines(scripts):
    """Two torchruns with two processes each meet at one address."""
    meet = ["--nnodes=2", "--rdzv-backend=c10d", "--local-addr=127.0.0.1"]
    meet.append(f"--rdzv-endpoint=127.0.0.1:{free_port()}")
    errors = []

    def machine(name: str) -> None:
        program = [scripts / "devices.py", scripts / name, 5]
        try:
            run([*TORCHRUN, *meet, "--nproc-per-node=2", *program], 100)
        except ProcessError as error:
            errors.append(error)

    threads = [threading.Thread(target=machine, args=[name]) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors, errors[0]
    written = [name for name in "ab" if (scripts / name).exists()]
    assert len(written) == 1  # rank 0 writes, wherever it is
    processes = torch.load(scripts / written[0])
    assert len(processes) == 4
    loop = importlib.import_module("ddp_loop")
    for job, n in [("sync, 1 each", 4), ("sync, unequal", 7), ("sync, 2 each", 8)]:
        alone = loop.train(loop.net(nn.BatchNorm1d, 5), [n])
        seen = [results[job][0] for results in processes]
        for what in ("gradient", "weights", "running statistics"):
            for one in seen:
                torch.testing.assert_close(one[what], alone[what])
        outputs = torch.cat([one["outputs"] for one in seen])
        torch.testing.assert_close(outputs, alone["outputs"])
    assert alive(scripts) == 0
    assert os.environ.get("RANK") is None


RESNET = """
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from sync_norm import SyncNorm
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from tests.resnet import resnet18_like


def synchronised(model):  # in place; what PyTorch's conversion does on GPUs
    for name, layer in [*model.named_modules()]:
        if isinstance(layer, nn.BatchNorm2d):
            new = SyncNorm(layer.num_features).to(layer.weight)
            new.load_state_dict(layer.state_dict())
            owner, _, last = name.rpartition(".")
            setattr(model.get_submodule(owner), last, new)
    return model


def make_model():
    return synchronised(resnet18_like(4).double())


def train(model, batches):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for x, y in batches:
        loss = cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return getattr(model, "module", model).state_dict()


torch.manual_seed(0)
x, y = torch.randn(128, 3, 32, 32).double(), torch.randint(10, (128,))
data = TensorDataset(x, y)
exec(Path(sys.argv[1]).read_text())  # the lines to copy
assert len(loader) == 2
together = train(model, loader)
shares = [DistributedSampler(data, 2, rank) for rank in range(2)]
halves = [DataLoader(data, 32, sampler=share) for share in shares]
whole = [[torch.cat(pair) for pair in zip(*parts)] for parts in zip(*halves)]
alone = train(resnet18_like(4).double(), whole)
for name, tensor in alone.items():
    if tensor.is_floating_point():
        torch.testing.assert_close(together[name], tensor, rtol=0, atol=1e-10)
print("agrees")
dist.destroy_process_group()
"""


def test_the_code_to_copy_trains_a_resnet_as_one_process_would(scripts, monkeypatch):
    """Two processes with 32 images each, against one with 64."""
    chapter = nbformat.read(ROOT / "chapters" / "09_many_devices.ipynb", as_version=4)
    (use,) = [cell.source for cell in chapter.cells if cell.id == "script-use"]
    (scripts / "use.py").write_text(use.split("```")[1].removeprefix("python\n"))
    (scripts / "resnet_script.py").write_text(RESNET)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    program = [scripts / "resnet_script.py", scripts / "use.py"]
    said = run([*TORCHRUN, *HERE, "--nproc-per-node=2", *program], 100)
    assert said.count("agrees") == 2
    assert alive(scripts) == 0


def test_the_launcher_of_chapter_09_ends_all_when_one_dies(scripts):
    script = scripts / "dies.py"
    script.write_text(DIES.format(end="sys.exit(3)"))
    with pytest.raises(ProcessError, match="exit code 3"):
        run([sys.executable, scripts / "start.py", 3, script], 60)
    assert alive(scripts) == 0
