"""Records what promptflow's own services answer, for tests/tests/contracts.rs to compare flowcell with.

Run by hand, with an interpreter that has promptflow 1.18.5 and uvicorn:

    python tests/contracts/record.py

It writes one file for each flow into tests/contracts/recorded. The flows run from a temporary copy; {flow} in a
request stands for its folder.
"""

import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
FLOWS = {
    "bench": ROOT / "benches/flow",
    "agg": ROOT / "tests/conformance/agg",
    "one": HERE / "flows/one",
    "values": HERE / "flows/values",
    "fails": HERE / "flows/fails",
    "stream": HERE / "flows/stream",
}


def get(path, **headers):
    return {"method": "GET", "path": path, "headers": headers, "body": None}


def post(path, body, **headers):
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    if not isinstance(body, str):
        body = json.dumps(body)
    headers.setdefault("content-type", "application/json")
    return {"method": "POST", "path": path, "headers": headers, "body": body}


BASE = {"working_dir": "{flow}", "flow_file": "flow.dag.yaml", "output_dir": "{flow}/.out", "log_path": "{flow}/log.txt"}


def flow(run, inputs, **more):
    return post("/execution/flow", BASE | {"run_id": run, "inputs": inputs} | more)


def node(run, name, inputs, outputs=None, **more):
    body = {"run_id": run, "node_name": name, "flow_inputs": inputs, "dependency_nodes_outputs": outputs or {}}
    return post("/execution/node", BASE | body | more)


def line(run, number, inputs):
    return post("/execution", {"run_id": run, "line_number": number, "inputs": inputs})


def meta(**tools):
    return post("/tool/meta", {"working_dir": "{flow}", "tools": {k.replace("__", "."): v for k, v in tools.items()}})


PY, LLM, PROMPT = {"tool_type": "python"}, {"tool_type": "llm"}, {"tool_type": "prompt"}

SERVE = {
    "bench": [
        get("/health"),
        get("/version"),
        get("/swagger.json"),
        get("/nowhere"),
        get("/score"),
        post("/score", {"text": "one two two", "top": 2}),
        post("/score", {"top": "2", "text": "a b a", "unknown": 1}, accept="application/json"),
        post("/score", {}),
        post("/score", {"text": "a"}, accept="text/html"),
        post("/score", {"text": "a"}, accept="text/event-stream"),
        post("/score", {"text": "a"}, accept="text/event-stream, application/json"),
        post("/score", "not json", content_type="text/plain"),
        post("/score", {"text": "a", "top": "many"}),
        post("/score", "[1]"),
        post("/score", "3"),
        post("/score", {"text": "a"}, x_request_id="req-1", x_ms_client_request_id="client-1"),
        post("/feedback", {"good": True}),
        post("/feedback?flatten=true", {"good": True}),
        post("/feedback", "just text", content_type="text/plain"),
    ],
    "agg": [
        get("/swagger.json"),
        post("/score", {"a": "x"}),
        post("/score", {}),
        post("/score", {"w": 1}),
        post("/score", {"b": "'", "c": [None, True, 1.50, "ü"]}),
        post("/score", {"a": "bad"}),
    ],
    "one": [
        get("/swagger.json"),
        post("/score", {"text": "hello"}),
        post("/score", "plain wörds", content_type="text/plain"),
        post("/score", "", content_type="text/plain"),
        post("/score", '"quoted"'),
        post("/score", '"the text of it"'),
        post("/score", "12"),
        post("/score", {"text": 12}),
        post("/score", {"text": None}),
    ],
    "values": [
        get("/swagger.json"),
        post("/score", {}),
        post("/score", {"number": -1}),
        post("/score", '{"number": NaN, "items": "[3]"}'),
        post("/score", {"items": "[3"}),
        post("/score", {"items": 3}),
    ],
    "fails": [
        post("/score", {"how": "raise"}),
        post("/score", {"how": "set"}),
        post("/score", {"how": "x", "count": "many"}),
        post("/score", {"how": "x", "count": 2}),
    ],
    "stream": [
        post("/score", {"text": "a b c"}),
        post("/score", {"text": "a b c"}, accept="text/event-stream"),
        post("/score", {"text": "a b c"}, accept="text/event-stream, application/json"),
        post("/score", {"text": "a b c"}, accept="text/html"),
    ],
}

EXECUTOR = {
    "bench": [
        get("/health"),
        get("/version"),
        post("/execution", {"run_id": "early", "line_number": 0, "inputs": {}}),
        post("/aggregation", {"run_id": "early", "batch_inputs": {}, "aggregation_inputs": {}}),
        post("/finalize", ""),
        flow("run1", {"text": "one two two", "top": 2}),
        flow("run2", {"text": "a b", "top": "x"}),
        flow("run3", None),
        node("run4", "stats", {"top": 1}, {"tokenize": ["a", "b", "a"]}),
        node("run5", "nowhere", {}),
        node("run6", "stats", {"top": 1}, {}),
        post("/execution/cancel", {"run_id": "unknown"}),
        post("/execution/cancel", {}),
        post("/execution/flow", {}),
        post("/execution/flow", "{"),
        post("/execution/flow", BASE | {"run_id": 3, "inputs": []}),
        post("/execution/flow", BASE | {"run_id": "r", "inputs": {}, "working_dir": "relative"}),
        post("/execution/flow", BASE | {"run_id": "r", "inputs": {}, "flow_file": "../x/flow.dag.yaml"}),
        post("/execution", {"run_id": "r", "line_number": "x", "inputs": {}}),
        get("/nowhere"),
        get("/execution/flow"),
        meta(tokenize_text__py=PY, stats__py=PY, gone__py=PY),
    ],
    "agg": [
        flow("run1", {"a": "x"}),
        flow("run2", {"a": "bad"}),
        flow("run3", {}),
        post("/initialize", BASE | {"worker_count": 1, "line_timeout_sec": 60}),
        line("batch", 0, {"a": "x"}),
        line("batch", 1, {"a": "y", "w": 5, "line_number": 1}),
        line("batch", 2, {"a": "bad"}),
        line("batch", 3, {}),
        post(
            "/aggregation",
            {
                "run_id": "batch",
                "batch_inputs": {"a": ["x", "y"], "w": [2, 5]},
                "aggregation_inputs": {"${n1.output}": ["X", "Y"]},
            },
        ),
        post(
            "/aggregation",
            {"run_id": "batch", "batch_inputs": {"a": ["x"]}, "aggregation_inputs": {"${n1.output}": ["X", "Y"]}},
        ),
        post("/finalize", ""),
        node("run5", "ag", {"a": "x"}, {"n1": "X"}),
    ],
    "one": [
        flow("run1", {"text": "hello"}),
        node("run2", "shout", {"text": "hello"}),
        node("run3", "shout", {}),
        meta(shout__py=PY),
    ],
    "values": [
        flow("run0", {}),
        flow("run1", {}, environment_variables={"GREETING": "hello"}),
        flow("run2", {"number": -1}, environment_variables={"GREETING": "hello"}),
        flow("run3", {}, environment_variables={"GREETING": "salut"}),
        node("run4", "say", {"question": "q"}, {"make": {"label": "L"}}),
        meta(make__py=PY, say__jinja2=PROMPT),
        post("/initialize", BASE | {"worker_count": 1, "environment_variables": {"GREETING": "hello"}}),
        line("batch", 0, {"number": 99}),
        post("/aggregation", {"run_id": "batch", "batch_inputs": {}, "aggregation_inputs": {}}),
        post("/finalize", ""),
    ],
    "fails": [
        flow("run1", {"how": "raise"}),
        flow("run2", {"how": "set"}),
        flow("run3", {"how": "x", "count": 2}),
        node("run4", "first", {"how": "raise"}),
        meta(
            first__py=PY,
            broken__py=PY,
            two__py=PY,
            broken__jinja2=PROMPT,
            chat__jinja2=LLM,
            gone__jinja2=PROMPT,
            second__py={},
        ),
        post("/tool/meta", {"working_dir": "{flow}", "tools": {"first.py": {"tool_type": "csharp"}}}),
        post("/tool/meta", {"working_dir": "{flow}", "tools": {"first.py": {"tool_type": "odd"}}}),
        post("/tool/meta", {"tools": []}),
    ],
    "stream": [flow("run1", {"text": "a b c"})],
}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    def __init__(self, command, port, folder, home):
        environment = os.environ | {"PF_TELEMETRY": "0", "PF_HOME_DIRECTORY": home, "HOME": home, "PYTHONUNBUFFERED": "1"}
        self.log = open(f"{home}/{port}.log", "w")
        self.process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=self.log, stderr=self.log, start_new_session=True
        )
        self.port = port
        end = time.time() + 120
        while True:
            try:
                self.ask(get("/health"))
                return
            except OSError:
                if self.process.poll() is not None or time.time() > end:
                    raise SystemExit(Path(self.log.name).read_text()[-3000:])
                time.sleep(0.3)

    def ask(self, request):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        body = request["body"]
        connection.request(
            request["method"], request["path"], None if body is None else body.encode(), request["headers"]
        )
        response = connection.getresponse()
        text = response.read().decode()
        headers = {name.lower(): value for name, value in response.getheaders()}
        for name in ["date", "server", "content-length", "connection"]:
            headers.pop(name, None)
        return {"status": response.status, "headers": headers, "body": text}

    def end(self):
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def filled(request, folder):
    return request if request["body"] is None else request | {"body": request["body"].replace("{flow}", folder)}


FRAMES = re.compile(r'("(?:stackTrace|traceback)"\s*:\s*)"(?:[^"\\]|\\.)*"')


def record(server, requests, folder):
    exchanges = []
    for request in requests:
        started = time.time()
        try:
            answer = server.ask(filled(request, folder))
        except (OSError, http.client.HTTPException) as error:
            answer = {"status": 0, "headers": {}, "body": repr(error)}
        print(f"  {request['method']} {request['path']} {answer['status']} {time.time() - started:.1f} s", flush=True)
        answer = json.loads(json.dumps(answer).replace(folder, "{flow}"))
        # Frames of promptflow's own code: they say where it is installed, and are compared with nothing.
        answer["body"] = FRAMES.sub(r'\1"{traceback}"', answer["body"])
        exchanges.append({"request": request, "answer": answer})
    return exchanges


def main():
    chosen = sys.argv[1:] or list(FLOWS)
    python = sys.executable
    for name in chosen:
        print(name)
        with tempfile.TemporaryDirectory() as temporary:
            folder = f"{temporary}/{name}"
            shutil.copytree(FLOWS[name], folder, ignore=shutil.ignore_patterns("__pycache__", ".promptflow"))
            home = f"{temporary}/home"
            os.mkdir(home)
            recorded = {}
            port = free_port()
            cli = [python, "-m", "promptflow._cli._pf.entry", "flow", "serve"]
            server = Server(
                [*cli, "--source", folder, "--port", str(port), "--host", "127.0.0.1", "--skip-open-browser"],
                port, folder, home,
            )
            try:
                recorded["serve"] = record(server, SERVE[name], folder)
            finally:
                server.end()
            port = free_port()
            command = [python, "-m", "uvicorn", "promptflow.executor._service.app:app", "--host", "127.0.0.1"]
            server = Server([*command, "--port", str(port)], port, folder, home)
            try:
                recorded["executor"] = record(server, EXECUTOR[name], folder)
            finally:
                server.end()
            target = HERE / "recorded" / f"{name}.json"
            target.parent.mkdir(exist_ok=True)
            target.write_text(json.dumps(recorded, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
