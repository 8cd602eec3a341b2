"""Fine-tunes with several workers: here as processes of this machine, in earnest one on each of several machines.

    python examples/multi_worker.py photos --out runs/shared [--workers 2] [--set epochs=5 --set ema=0]

Every worker runs the same command, and TF_CONFIG says which of them it is. What is not known here goes to `tfdeit
train`. The first worker evaluates and writes; if one is lost, the others end, and the same command goes on.
"""

import argparse
import json
import os
import socket
import subprocess
import sys


def free_addresses(count: int) -> list[str]:
    """Returns host:port of ports that nobody listens on."""
    sockets = [socket.create_server(("localhost", 0)) for _ in range(count)]
    addresses = [f"localhost:{server.getsockname()[1]}" for server in sockets]
    for server in sockets:
        server.close()
    return addresses


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--out", required=True, help="directory of the run, which all workers see")
    parser.add_argument("--model", default="deit_micro_cifar10")
    parser.add_argument("--workers", type=int, default=2)
    args, options = parser.parse_known_args()

    command = [sys.executable, "-m", "tfdeit", "train", "--recipe", "finetune", "--data", args.data]
    command += ["--model", args.model, "--out", args.out, "--resume", *options]
    cluster, workers = {"worker": free_addresses(args.workers)}, []
    for index in range(args.workers):
        config = json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}})
        workers.append(subprocess.Popen(command, env={**os.environ, "TF_CONFIG": config}))
    try:
        sys.exit(max(worker.wait() for worker in workers))
    finally:
        for worker in workers:
            worker.terminate()


if __name__ == "__main__":
    main()
