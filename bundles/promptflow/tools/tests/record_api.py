"""Writes api.json beside this file: what promptflow's own tools ask of a service, and what they make of its answers. Needs
promptflow 1.18, promptflow-tools 1.6, openai 3 and the mock of the conformance suite.

    python record_api.py MOCK_OPENAI.PY
"""

import copy
import importlib.util
import json
import pathlib
import sys
import threading
import time

import promptflow.tools.aoai as aoai
import promptflow.tools.openai as openai
from promptflow.connections import AzureOpenAIConnection, OpenAIConnection, ServerlessConnection
from promptflow.contracts.multimedia import Image
from promptflow.tools import aoai_gpt4v, openai_gpt4v
from promptflow.tools.embedding import embedding
from promptflow.tools.llm import llm
from promptflow.tools.llm_vision import llm_vision

spec = importlib.util.spec_from_file_location("mock", sys.argv[1])
mock = importlib.util.module_from_spec(spec)
spec.loader.exec_module(mock)

SEEN, FAULTS, PAUSES = [], [], []


class Handler(mock.H):
    def do_POST(self):
        raw = self.rfile.read(int(self.headers.get("content-length", 0)))
        SEEN.append({"path": self.path, "headers": {k.lower(): v for k, v in self.headers.items()}, "body": json.loads(raw)})
        if FAULTS:
            status, body, headers = FAULTS.pop(0)
            data = body.encode()
            self.send_response(status)
            for name, value in {"content-type": "application/json", "content-length": str(len(data)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)
            return
        self.rfile = __import__("io").BytesIO(raw)
        rfile = self.rfile
        try:
            super().do_POST()
        finally:
            self.close_connection = True
            del rfile


server = mock.http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
URL = f"http://127.0.0.1:{server.server_address[1]}"
time.sleep = PAUSES.append

CONNECTIONS = {
    "azure": AzureOpenAIConnection(api_key="key-a", api_base=URL + "/", api_version="2024-02-01"),
    "openai": OpenAIConnection(api_key="key-o", base_url=URL + "/v1", organization="org"),
    "serverless": ServerlessConnection(api_key="key-s", api_base=URL),
}
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
FUNCTION = {"name": "f", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "string"}}}}
TOOL = {"type": "function", "function": FUNCTION}
U = "user:\n{{ q }}"
AC, AT = "promptflow.tools.aoai.AzureOpenAI.chat", "promptflow.tools.aoai.AzureOpenAI.completion"
OC, OT = "promptflow.tools.openai.OpenAI.chat", "promptflow.tools.openai.OpenAI.completion"
L, LV, E = "promptflow.tools.llm.llm", "promptflow.tools.llm_vision.llm_vision", "promptflow.tools.embedding.embedding"
AV, OV = "promptflow.tools.aoai_gpt4v.AzureOpenAI.chat", "promptflow.tools.openai_gpt4v.OpenAI.chat"
FUNCTIONS = {
    AC: lambda connection, **k: aoai.AzureOpenAI(connection).chat(**k),
    AT: lambda connection, **k: aoai.AzureOpenAI(connection).completion(**k),
    OC: lambda connection, **k: openai.OpenAI(connection).chat(**k),
    OT: lambda connection, **k: openai.OpenAI(connection).completion(**k),
    "promptflow.tools.aoai.chat": aoai.chat, "promptflow.tools.aoai.completion": aoai.completion,
    "promptflow.tools.openai.chat": openai.chat, "promptflow.tools.openai.completion": openai.completion,
    L: llm, LV: llm_vision, E: embedding,
    AV: lambda connection, **k: aoai_gpt4v.AzureOpenAI(connection).chat(**k),
    OV: lambda connection, **k: openai_gpt4v.OpenAI(connection).chat(**k),
}
ALL = {
    "temperature": 0.5, "top_p": 0.25, "stop": ["a", "b"], "max_tokens": 7, "presence_penalty": 0.5, "frequency_penalty": -0.5,
    "logit_bias": {"5": 1}, "user": "u", "response_format": {"type": "text"}, "seed": 3,
}
COMPLETE = {"suffix": "s", "max_tokens": "9", "temperature": "0.5", "top_p": 1, "n": "1", "logprobs": "2", "echo": "True", "stop": ["x"],
            "presence_penalty": 0, "frequency_penalty": "0.25", "best_of": "1", "logit_bias": {"5": 1}, "user": "u"}
IMAGE = {"data:image/png;base64": PNG}

# (tool, connection, inputs, faults)
CASES = [
    (AC, "azure", {"prompt": U, "q": "hi", "deployment_name": "d"}, []),
    (AC, "azure", {"prompt": U, "q": "hi", "deployment_name": "d", "n": 2, **ALL}, []),
    (AC, "azure", {"prompt": U, "q": ["a", {"b": ["c"]}], "deployment_name": "d"}, []),
    (AC, "azure", {"prompt": U, "q": "hi", "deployment_name": "d", "tools": [TOOL]}, []),
    (AC, "azure", {"prompt": U, "q": "hi", "deployment_name": "d", "tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "f"}}}, []),
    (AC, "azure", {"prompt": U, "q": "hi", "deployment_name": "d", "functions": [FUNCTION], "function_call": {"name": "f"}}, []),
    (AC, "azure", {"prompt": U, "q": "hi", "deployment_name": "d", "functions": [FUNCTION], "function_call": {}}, []),
    (AC, "azure", {"prompt": U, "q": "hi", "deployment_name": "d", "functions": [FUNCTION], "function_call": 3}, []),
    (AC, "azure", {"prompt": U, "q": "hi", "deployment_name": "d", "functions": [{"name": "f", "parameters": {"type": "x", "properties": {}}}]}, []),
    (AC, "azure", {"prompt": U, "q": "hi", "deployment_name": "d", "functions": [{"name": "f", "parameters": 3}]}, []),
    (AC, "azure", {"prompt": U, "q": "hi", "deployment_name": "d", "functions": ["f"]}, []),
    (AC, "azure", {"prompt": U, "q": "hi", "deployment_name": "d", "tools": [{"type": "function"}]}, []),
    (AC, "azure", {"prompt": U, "q": "hi", "deployment_name": "d", "tools": ["f"]}, []),
    (AC, "azure", {"prompt": U, "q": "hi", "deployment_name": "d", "tools": [TOOL], "tool_choice": {"function": 1}}, []),
    (AC, "azure", {"prompt": U, "q": "hi", "deployment_name": "d", "tools": [TOOL], "tool_choice": {"type": 1, "function": 1}}, []),
    (AC, "azure", {"prompt": U, "q": "hi", "deployment_name": "d", "tools": [TOOL], "tool_choice": {"type": 1, "function": {}}}, []),
    (AC, "azure", {"prompt": U, "q": "hi", "deployment_name": "d", "stream": True}, []),
    (AC, "azure", {"prompt": U, "q": "hi", "deployment_name": "d", "max_tokens": "inf"}, []),
    (AC, "azure", {"prompt": U, "q": "hi", "deployment_name": "d", "max_tokens": "x"}, []),
    (AC, "azure", {"prompt": U, "q": "hi"}, []),
    (AC, "azure", {"prompt": U, "q": "hi", "deployment_name": "my gpt/4ä"}, []),
    (AT, "azure", {"prompt": "{{ q }}", "q": "hi", "deployment_name": "d"}, []),
    (AT, "azure", {"prompt": "{{ q }}", "q": "hi", "deployment_name": "d", **COMPLETE}, []),
    (AT, "azure", {"prompt": "{{ q }}", "q": "hi", "deployment_name": "d", "temperature": "warm"}, []),
    (OC, "openai", {"prompt": U, "q": "hi"}, []),
    (OC, "openai", {"prompt": U, "q": "hi", "model": "m", "n": 3, **ALL}, []),
    (OC, "openai", {"prompt": U, "q": ["a", {"b": ["c"]}], "model": "m"}, []),
    (OC, "openai", {"prompt": U, "q": "hi", "model": "m", "tools": [TOOL]}, []),
    (OC, "openai", {"prompt": U, "q": "hi", "model": "m", "tools": [{}], "tool_choice": "auto"}, []),
    (OC, "openai", {"prompt": U, "q": "hi", "model": "m", "functions": [FUNCTION]}, []),
    (OC, "openai", {"prompt": U, "q": "hi", "model": "m", "functions": [FUNCTION], "stream": "true"}, []),
    (OC, "openai", {"prompt": U, "q": "hi", "model": "m", "temperature": None, "stop": [], "user": "", "logit_bias": {}}, []),
    (OC, "serverless", {"prompt": U, "q": "hi", "model": "m"}, []),
    (OC, "openai", {"prompt": "{{ q }", "q": "hi"}, []),
    (OC, "openai", {"prompt": "no role", "q": "hi"}, []),
    (OT, "openai", {"prompt": "{{ q }}", "q": "hi"}, []),
    (OT, "openai", {"prompt": "{{ q }}", "q": "hi", "model": "m", **COMPLETE}, []),
    (OT, "openai", {"prompt": "{{ q }}", "q": "hi", "model": "m", "max_tokens": None, "stream": True}, []),
    ("promptflow.tools.aoai.chat", "azure", {"prompt": U, "q": "hi", "deployment_name": "d"}, []),
    ("promptflow.tools.aoai.completion", "azure", {"prompt": "{{ q }}", "q": "hi", "deployment_name": "d"}, []),
    ("promptflow.tools.openai.chat", "openai", {"prompt": U, "q": "hi", "model": "m"}, []),
    ("promptflow.tools.openai.completion", "openai", {"prompt": "{{ q }}", "q": "hi"}, []),
    (L, "azure", {"prompt": U, "q": "hi", "deployment_name": "d", "seed": 1}, []),
    (L, "azure", {"prompt": U, "q": "hi", "deployment_name": "d", "api": "completion", "suffix": "s"}, []),
    (L, "openai", {"prompt": U, "q": "hi", "model": "m", "n": 2, "user": "u"}, []),
    (L, "openai", {"prompt": U, "q": "hi", "model": "m", "api": "completion", "logprobs": 1}, []),
    (L, "serverless", {"prompt": U, "q": "hi", "tools": [TOOL]}, []),
    (E, "azure", {"input": "hi", "deployment_name": "d"}, []),
    (E, "openai", {"input": "hi"}, []),
    (E, "serverless", {"input": "hi", "model": "m"}, []),
    (E, "openai", {"input": "hi", "x": 1}, []),
    (AV, "azure", {"prompt": "user:\n![image]({{i}})\n{{ detail }} {{ q }}", "q": "hi", "i": IMAGE, "deployment_name": "d", "detail": "low"}, []),
    (AV, "azure", {"prompt": "user:\nx ![ image ]({{ i }}) y", "i": IMAGE, "deployment_name": "d", "stop": ["a"], "max_tokens": 5, "seed": 2}, []),
    (OV, "openai", {"prompt": "user:\n{% for p in l %}{{ p }}\n{% endfor %}", "l": ["look", IMAGE, {"k": IMAGE}]}, []),
    (LV, "openai", {"prompt": U, "q": IMAGE, "model": "m"}, []),
    (LV, "azure", {"prompt": U, "q": "hi", "deployment_name": "d", "stream": True}, []),
    (LV, "serverless", {"prompt": U, "q": "hi"}, []),
    (OC, "openai", {"prompt": U, "q": IMAGE, "model": "m"}, []),
    (OC, "openai", {"prompt": U, "q": "hi"}, [(401, '{"error": {"message": "bad key", "type": "auth", "code": "invalid_api_key"}}', {})]),
    (OC, "openai", {"prompt": U, "q": "hi"}, [(400, '{"message": "flat"}', {})]),
    (OC, "openai", {"prompt": U, "q": "hi"}, [(400, '{"error": "text"}', {})]),
    (OC, "openai", {"prompt": U, "q": "hi"}, [(404, "not json", {})]),
    (OC, "openai", {"prompt": U, "q": "hi"}, [(403, "", {})]),
    (OC, "openai", {"prompt": U, "q": "hi"}, [(418, "[1]", {})]),
    (OC, "openai", {"prompt": U, "q": "hi"}, [(409, "{}", {})]),
    (OC, "openai", {"prompt": U, "q": "hi"}, [(400, '{"error": {"message": "extra fields not permitted"}}', {})]),
    (OT, "openai", {"prompt": U, "q": "hi"}, [(400, '{"error": {"message": "The completion operation does not work with the specified model, x"}}', {})]),
    (OC, "openai", {"prompt": U, "q": "hi"}, [(400, '{"error": {"message": "Unrecognized request argument supplied: functions"}}', {})]),
    (OC, "openai", {"prompt": U, "q": "hi"}, [(400, '{"error": {"message": "logprobs, best_of and echo parameters are not available on x"}}', {})]),
    (OC, "openai", {"prompt": U, "q": "hi"}, [(400, '{"error": {"message": "Invalid content type. image_url is only supported by certain models"}}', {})]),
    (OC, "openai", {"prompt": U, "q": "hi"}, [(400, '{"error": {"message": "\'response_format\' of type \'x\' is not supported with this model."}}', {})]),
    (OC, "openai", {"prompt": U, "q": "hi"}, [(401, '{"error": {"message": "Principal does not have access to API/Operation"}}', {})]),
    (OC, "openai", {"prompt": U, "q": "hi"}, [(400, '{"error": {"message": "messages with role \'tool\' must be a response to x"}}', {})]),
    (OC, "openai", {"prompt": U, "q": "hi"}, [(429, '{"error": {"message": "slow"}}', {"retry-after": "2"}), (500, "oh", {}), (429, "{}", {"retry-after": ""})]),
    (OC, "openai", {"prompt": U, "q": "hi"}, [(429, '{"error": {"message": "quota", "type": "insufficient_quota"}}', {})]),
    (OC, "openai", {"prompt": U, "q": "hi"}, [(422, '{"error": {"message": "odd"}}', {})] * 3),
    (OC, "openai", {"prompt": U, "q": "hi"}, [(503, '{"error": {"message": "down"}}', {})] * 101),
    (OC, "openai", {"prompt": U, "q": "hi"}, [(200, "{}", {})]),
    (OC, "openai", {"prompt": U, "q": "hi"}, [(200, '{"choices": []}', {})]),
    (OC, "openai", {"prompt": U, "q": "hi"}, [(200, '{"choices": [{"message": {"role": "assistant"}}]}', {})]),
    (OC, "openai", {"prompt": U, "q": "hi", "functions": [FUNCTION]}, [(200, '{"choices": [{"message": {"role": "assistant", "content": "c", "x": [1]}}]}', {})]),
    (OC, "openai", {"prompt": U, "q": "hi"}, [(200, "<html>", {})]),
    (OC, "openai", {"prompt": U, "q": "hi"}, [(200, "", {})]),
    (E, "openai", {"input": "hi"}, [(200, '{"data": [{"embedding": "AAAAPwAAgL8="}]}', {})]),
    (E, "openai", {"input": "hi"}, [(200, '{"data": []}', {})]),
]
HEADERS = ["authorization", "api-key", "content-type", "accept", "openai-organization", "ms-azure-ai-promptflow-called-from"]


def with_images(value):
    if isinstance(value, dict):
        if list(value) == list(IMAGE):
            import base64
            return Image(base64.b64decode(PNG), mime_type="image/png")
        return {name: with_images(member) for name, member in value.items()}
    return [with_images(item) for item in value] if isinstance(value, list) else value


def answer(tool, connection, inputs):
    try:
        made = FUNCTIONS[tool](connection=CONNECTIONS[connection], **with_images(copy.deepcopy(inputs)))
        if hasattr(made, "__next__"):
            made = "".join(made)
        return {"answer": made}
    except Exception as error:
        return {"error": type(error).__name__, "message": getattr(error, "message", str(error))}


recorded = []
for tool, connection, inputs, faults in CASES:
    SEEN.clear(), PAUSES.clear()
    FAULTS[:] = faults
    outcome = answer(tool, connection, inputs)
    first = SEEN[0] if SEEN else None
    recorded.append({
        "tool": tool, "connection": connection, "inputs": inputs, "faults": faults, **outcome, "asked": len(SEEN), "pauses": list(PAUSES),
        "request": first and {"path": first["path"], "body": first["body"], "headers": {n: first["headers"][n] for n in HEADERS if n in first["headers"]}},
    })
path = pathlib.Path(__file__).with_name("api.json")
path.write_text(json.dumps(recorded, indent=1) + "\n")
print(path.name, len(recorded))
