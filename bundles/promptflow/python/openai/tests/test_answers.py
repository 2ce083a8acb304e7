"""What comes back: objects, streams, and the limits of both."""

import copy
import importlib.metadata
import pathlib
import pickle
import threading
import unittest

from service import CHAT, MESSAGES, USAGE, ServiceTest, chunk, events, status

import openai
from openai import _streaming, _wire
from openai.types import CompletionUsage
from openai.types.chat import ChatCompletion, ChatCompletionMessage, ChatCompletionMessageCustomToolCall


class AnswersTest(ServiceTest):
    def setUp(self):
        super().setUp()
        self.client = openai.OpenAI(api_key="k", base_url=self.url + "/v1", max_retries=0)

    def chat(self, **parameters):
        return self.client.chat.completions.create(model="m", messages=MESSAGES, **parameters)

    def limit(self, module, name, value):
        self.addCleanup(setattr, module, name, getattr(module, name))
        setattr(module, name, value)

    def test_an_answer_is_an_object(self):
        answer = self.chat()
        self.assertIsInstance(answer, ChatCompletion)
        self.assertEqual((answer.choices[0].message.content, answer.usage.total_tokens, answer._request_id), ("höllo", 3, "req_1"))
        # What the API may leave out is None, and what the class does not know is there all the same.
        self.assertIsNone(answer.choices[0].message.tool_calls)
        self.assertEqual(answer.choices[0].content_filter_results["hate"], {"filtered": False})
        self.assertEqual(answer.to_dict(), CHAT)
        self.assertEqual(answer.model_dump()["choices"][0]["message"], {
            "content": "höllo", "refusal": None, "role": "assistant", "annotations": None, "audio": None, "function_call": None,
            "tool_calls": None})  # fmt: skip
        self.assertEqual(dict(answer)["usage"], CompletionUsage(**USAGE))
        self.assertEqual(answer.usage.model_dump_json(exclude_none=True), '{"completion_tokens":2,"prompt_tokens":1,"total_tokens":3}')
        self.assertEqual(answer.model_dump(include={"id", "model"}), {"id": "c1", "model": "m-1"})
        with self.assertRaisesRegex(AttributeError, "'ChatCompletion' object has no attribute 'nothing'"):
            answer.nothing  # noqa: B018

    def test_objects_can_be_made_copied_and_pickled(self):
        message = ChatCompletionMessage(role="assistant", content="a", own=[1])
        self.assertEqual(repr(ChatCompletionMessage(role="assistant", content="a")),
            "ChatCompletionMessage(content='a', refusal=None, role='assistant', annotations=None, audio=None, function_call=None, tool_calls=None)")  # fmt: skip
        for same in (copy.copy(message), copy.deepcopy(message), pickle.loads(pickle.dumps(message)), message.model_copy()):
            self.assertEqual(same, message)
            self.assertEqual(same.to_dict(), {"role": "assistant", "content": "a", "own": [1]})
        message.refusal = "no"
        self.assertEqual(message.to_dict(), {"content": "a", "refusal": "no", "role": "assistant", "own": [1]})
        self.assertNotEqual(same, message)

    def test_calls_of_tools_are_told_apart(self):
        calls = [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}},
                 {"id": "2", "type": "custom", "custom": {"name": "g", "input": "x"}}]  # fmt: skip
        first, second = ChatCompletionMessage(role="assistant", tool_calls=calls).tool_calls
        self.assertEqual((first.function.arguments, second.custom.input), ("{}", "x"))
        self.assertIsInstance(second, ChatCompletionMessageCustomToolCall)

    def test_completions_embeddings_and_models(self):
        self.assertEqual(self.client.completions.create(model="m", prompt="p").choices[0].text, "abc")
        self.assertEqual(self.client.embeddings.create(model="e", input=["a"]).data[0].embedding, [0.5, -1.25])
        asked = [self.client.embeddings.create(model="e", input=["a"], encoding_format=form) for form in ("float", "base64")]
        self.assertEqual([answer.data[0].embedding for answer in asked], [[0.5, -1.25], "AAAAPwAAoL8="])
        self.assertEqual([model.id for model in self.client.models.list()], ["m"])
        self.assertEqual(self.client.post("/chat/completions", body={"model": "m"}, cast_to=object), CHAT)

    def test_vectors_that_are_none(self):
        for vector in ("AAA=", "AAAAA", "AAAA"):
            self.fail_with(status(200, {"data": [{"embedding": vector}]}))
            with self.assertRaises(openai.APIResponseValidationError):
                self.client.embeddings.create(model="e", input="a")

    def test_a_raw_answer_has_its_head(self):
        raw = self.client.chat.completions.with_raw_response.create(model="m", messages=MESSAGES)
        self.assertEqual((raw.status_code, raw.headers.get("X-Request-ID"), raw.parse().id, raw.json()), (200, "req_1", "c1", CHAT))

    def test_an_answer_that_is_none_of_the_api(self):
        for answer in (b"<html>", b"[1]", b"", b"[" * 100_000):
            self.fail_with(status(200, answer))
            with self.assertRaises(openai.APIResponseValidationError) as raised:
                self.chat()
            self.assertEqual(raised.exception.status_code, 200)

    def test_an_answer_is_read_up_to_a_limit(self):
        self.limit(_wire, "MAX_ANSWER", 1 << 20)
        for answer in (lambda handler, _: handler.whole(200, b" " * (1 << 20) + b"x"),
                       lambda handler, _: handler.stream(*[b" " * (1 << 18)] * 5)):  # fmt: skip
            self.fail_with(answer)
            with self.assertRaisesRegex(openai.APIError, "the answer has more than 1 MiB, which is the limit"):
                self.chat()
        self.fail_with(status(200, events(CHAT)[6:].ljust(1 << 20)))
        self.assertEqual(self.chat().id, "c1")

    def test_a_stream_gives_its_parts(self):
        stream = self.chat(stream=True)
        self.assertEqual([part.choices[0].delta.content for part in stream], ["", "hé", "llo"])
        self.assertEqual(list(stream), [])
        self.assertIs(self.asked[0].body["stream"], True)

    def test_a_stream_that_is_left_closes_its_connection(self):
        for leave in (lambda stream: stream.close(), lambda stream: stream.__exit__(None, None, None)):
            left = threading.Event()
            self.fail_with(lambda handler, _: handler.stream_without_end(left))
            stream = self.chat(stream=True)
            self.assertEqual(next(stream).choices[0].delta.content, "x")
            leave(stream)
            self.assertEqual(list(stream), [])
            self.assertTrue(left.wait(timeout=60))

    def test_events_as_services_write_them(self):
        first, second = (events(chunk(content=text))[:-2] for text in "ab")
        text = b": a comment\r\n\r\nevent: x\r\nid: 1\r\n" + first + b"\r\n\r\n" + second + b"\r\r" + b"data:[DONE]\n\n" + events({"error": "late"})
        for size in (1, 7, len(text)):
            self.fail_with(lambda handler, _: handler.stream(*(text[start : start + size] for start in range(0, len(text), size))))
            self.assertEqual([part.choices[0].delta.content for part in self.chat(stream=True)], ["a", "b"])
        # One in several lines, and one that is not whole.
        self.fail_with(lambda handler, _: handler.stream(b'data: {"id":\ndata: "x"}\n\ndata: {"id": "y"}'))
        self.assertEqual([part.id for part in self.chat(stream=True)], ["x"])

    def test_an_event_is_read_up_to_a_limit(self):
        self.limit(_streaming, "MAX_EVENT", 1 << 20)
        for pieces in ([b"data: " + b"x" * (1 << 18)] * 5, [b"data: " + b"x" * (1 << 18) + b"\n"] * 5):
            self.fail_with(lambda handler, _: handler.stream(*pieces))
            with self.assertRaisesRegex(openai.APIError, "an event of the answer has more than 1 MiB"):
                list(self.chat(stream=True))
        # Many of them are not one.
        self.fail_with(lambda handler, _: handler.stream(*[events(chunk(content="x" * (1 << 18)))] * 8))
        self.assertEqual(len(list(self.chat(stream=True))), 8)

    def test_errors_in_a_stream(self):
        for sent, expected in (
            ((events({"error": {"message": "mid", "code": "c"}}),), (openai.APIError, "mid", "c")),
            ((events({"error": "words"}),), (openai.APIError, "An error occurred during streaming", None)),
            ((b"data: {\n\n",), (openai.APIResponseValidationError, "The answer is not the JSON that this API gives.", None)),
        ):
            self.fail_with(lambda handler, _: handler.stream(*sent))
            with self.assertRaises(openai.APIError) as raised:
                list(self.chat(stream=True))
            self.assertEqual((type(raised.exception), raised.exception.message, raised.exception.code), expected)
        self.fail_with(lambda handler, _: handler.stream(events(chunk(content="a")), is_whole=False))
        stream = self.chat(stream=True)
        next(stream)
        with self.assertRaises(openai.APIConnectionError):
            next(stream)


class PackageTest(unittest.TestCase):
    def test_installers_find_it_by_its_version(self):
        (found,) = importlib.metadata.distributions(path=[str(pathlib.Path(openai.__file__).parents[1])])
        self.assertEqual((found.metadata["Name"], found.version), ("openai", openai.__version__))
        self.assertEqual(found.requires, None)
