"""The asynchronous clients: the same, awaited, and several at once."""

import asyncio
import threading
import unittest.mock

from service import MESSAGES, ServiceTest, status

import openai
from openai import _wire


class AsyncTest(ServiceTest):
    def setUp(self):
        super().setUp()
        original = asyncio.sleep

        async def sleep(seconds, *result):
            if seconds:
                self.slept.append(seconds)
            return await original(0, *result)

        patch = unittest.mock.patch("asyncio.sleep", sleep)
        patch.start()
        self.addCleanup(patch.stop)

    async def chat(self, max_retries=2, timeout=openai.NOT_GIVEN, **parameters):
        async with openai.AsyncOpenAI(api_key="k", base_url=self.url + "/v1", max_retries=max_retries, timeout=timeout) as client:
            return await client.chat.completions.create(model="m", messages=MESSAGES, **parameters)

    def failure(self, *faults, **settings):
        self.fail_with(*faults)
        with self.assertRaises(openai.APIError) as raised:
            asyncio.run(self.chat(**settings))
        return raised.exception

    def test_several_are_asked_at_once(self):
        # None gets an answer before all have been asked.
        all_there = threading.Barrier(5)

        def together(handler, asked):
            all_there.wait(timeout=60)
            handler.whole(200, {"id": asked.body["n"]})

        async def ask():
            return [answer.id for answer in await asyncio.gather(*(self.chat(n=number) for number in range(5)))]

        self.fail_with(*[together] * 5)
        self.assertEqual(asyncio.run(ask()), list(range(5)))

    def test_streams(self):
        async def read():
            return [part.choices[0].delta.content async for part in await self.chat(stream=True)]

        async def leave():
            async with await self.chat(stream=True) as stream:
                first = await anext(stream)
            return first.choices[0].delta.role, [part async for part in stream]

        self.assertEqual(asyncio.run(read()), ["", "hé", "llo"])
        self.assertEqual(asyncio.run(leave()), ("assistant", []))

    def test_a_stream_that_is_cancelled_closes_its_connection(self):
        left = threading.Event()

        async def read():
            begun = asyncio.Event()

            async def go_through():
                async for _ in await self.chat(stream=True):
                    begun.set()
                    await asyncio.sleep(0)

            task = asyncio.create_task(go_through())
            await begun.wait()
            task.cancel()
            with self.assertRaises(asyncio.CancelledError):
                await task

        self.fail_with(lambda handler, _: handler.stream_without_end(left))
        asyncio.run(read())
        self.assertTrue(left.wait(timeout=60))

    def test_other_resources(self):
        async def ask():
            client = openai.AsyncOpenAI(api_key="k", base_url=self.url + "/v1")
            vectors = await client.embeddings.create(model="e", input="a")
            text = await client.completions.create(model="m", prompt="p")
            raw = await client.chat.completions.with_raw_response.create(model="m", messages=MESSAGES)
            models = [model.id async for model in client.models.list()] + [model.id for model in await client.models.list()]
            return vectors.data[0].embedding, text.choices[0].text, raw.headers["x-request-id"], models

        self.assertEqual(asyncio.run(ask()), ([0.5, -1.25], "abc", "req_1", ["m", "m"]))

    def test_azure_with_a_token_that_is_awaited(self):
        async def token():
            return "t"

        async def ask():
            client = openai.AsyncAzureOpenAI(azure_endpoint=self.url, api_version="v", azure_ad_token_provider=token)
            return (await client.chat.completions.create(model="m x", messages=MESSAGES)).id

        self.assertEqual(asyncio.run(ask()), "c1")
        (asked,) = self.asked
        self.assertEqual((asked.path, asked.headers["authorization"]), ("/openai/deployments/m%20x/chat/completions?api-version=v", "Bearer t"))

    def test_failures_and_retries(self):
        self.assertIs(type(self.failure(status(400))), openai.BadRequestError)
        self.fail_with(status(429, retry_after="2"), status(500))
        self.assertEqual(asyncio.run(self.chat()).id, "c1")
        self.assertEqual(self.slept, [2.0, 1.0])

    def test_connections_that_break_or_make_no_sense(self):
        def raw(text):
            def answer(handler, asked):
                handler.wfile.write(text)
                handler.drop()

            return answer

        head = b"HTTP/1.1 200 OK\r\n"
        for text in (
            b"", head, b"SSH-2.0 x\r\n\r\n", head + b"content-length: 9\r\n\r\n{", head + b"content-length: -1\r\n\r\n{",
            head + b"transfer-encoding: chunked\r\n\r\n5\r\n{", head + b"transfer-encoding: chunked\r\n\r\n-5\r\n{}",
            head + b"x: " + b"y" * (1 << 20) + b"\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n" * 20,
        ):  # fmt: skip
            error = self.failure(raw(text), max_retries=0)
            self.assertIs(type(error), openai.APIConnectionError, text[:60])
        # Without a length it ends with the connection.
        self.fail_with(raw(b"HTTP/1.1 100 Continue\r\n\r\n" + head + b'\r\n{"id": "x"}'))
        self.assertEqual(asyncio.run(self.chat()).id, "x")

    def test_limits(self):
        self.addCleanup(setattr, _wire, "MAX_ANSWER", _wire.MAX_ANSWER)
        _wire.MAX_ANSWER = 1 << 20
        error = self.failure(lambda handler, _: handler.stream(*[b" " * (1 << 18)] * 5))
        self.assertEqual(str(error), "the answer has more than 1 MiB, which is the limit")
        may_go = threading.Event()
        self.addCleanup(may_go.set)
        error = self.failure(lambda handler, _: may_go.wait() and handler.drop(), max_retries=0, timeout=0.01)
        self.assertIs(type(error), openai.APITimeoutError)
        with self.assertRaises(ValueError):
            asyncio.run(self.chat(extra_headers={"x": "a\r\nb: c"}))
