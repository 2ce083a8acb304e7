"""What goes wrong, what is tried again, and after which time."""

import email.utils
import pickle
import threading
import unittest.mock

from service import MESSAGES, ServiceTest, status

import openai


class FailuresTest(ServiceTest):
    def chat(self, **settings):
        client = openai.OpenAI(api_key="k", base_url=self.url + "/v1", **settings)
        return client.chat.completions.create(model="m", messages=MESSAGES)

    def failure(self, *faults, **settings):
        del self.asked[:], self.slept[:]
        self.fail_with(*faults)
        with self.assertRaises(openai.APIError) as raised:
            self.chat(**settings)
        self.server.faults.clear()
        return raised.exception

    def test_each_status_has_its_class(self):
        for code, kind, attempts in (
            (400, openai.BadRequestError, 1), (401, openai.AuthenticationError, 1), (403, openai.PermissionDeniedError, 1),
            (404, openai.NotFoundError, 1), (409, openai.ConflictError, 3), (422, openai.UnprocessableEntityError, 1),
            (429, openai.RateLimitError, 3), (500, openai.InternalServerError, 3), (503, openai.InternalServerError, 3),
            (408, openai.APIStatusError, 3), (418, openai.APIStatusError, 1), (307, openai.APIStatusError, 1),
        ):  # fmt: skip
            error = self.failure(*[status(code, x_request_id="req_9")] * 3)
            self.assertIs(type(error), kind)
            self.assertEqual(len(self.asked), attempts, code)
            self.assertEqual(str(error), f"Error code: {code} - {{'error': {{'message': 'bad', 'type': 't', 'param': 'p', 'code': 'c'}}}}")
            self.assertEqual((error.status_code, error.code, error.param, error.type, error.request_id), (code, "c", "p", "t", "req_9"))
            self.assertEqual(error.body, {"message": "bad", "type": "t", "param": "p", "code": "c"})
            self.assertEqual((error.response.status_code, error.response.headers["x-request-id"]), (code, "req_9"))
            self.assertEqual((error.request.method, error.request.url), ("POST", self.url + "/v1/chat/completions"))

    def test_errors_without_an_error_object(self):
        for body, message, kept in ((b" no way\n", "no way", "no way"), (b"", "Error code: 400", ""), ([1], "Error code: 400 - [1]", [1]),
                                    ({"error": "words"}, "Error code: 400 - {'error': 'words'}", "words")):  # fmt: skip
            error = self.failure(status(400, body))
            self.assertEqual((error.message, error.body, error.code), (message, kept, None))

    def test_errors_can_be_pickled(self):
        error = self.failure(status(400))
        # As far as they are values: what came by a connection stays with it.
        error.response = error.request = None
        same = pickle.loads(pickle.dumps(error))
        self.assertEqual((type(same), str(same), same.code, same.body), (type(error), str(error), "c", error.body))

    def test_what_passes_is_tried_again_after_a_while(self):
        self.failure(*[status(429)] * 5, max_retries=4)
        self.assertEqual(self.slept, [0.5, 1.0, 2.0, 4.0])
        self.failure(*[status(500)] * 3, max_retries=0)
        self.assertEqual((len(self.asked), self.slept), (1, []))
        del self.asked[:]
        self.fail_with(status(429, retry_after="3"), status(503, retry_after_ms="1500"))
        self.assertEqual(self.chat().id, "c1")
        self.assertEqual((len(self.asked), self.slept), (3, [3.0, 1.5]))

    def test_the_service_says_when_within_limits(self):
        with unittest.mock.patch("time.time", lambda: 1_000_000.0):
            for said, waited in (("300", 0.5), ("-1", 0.5), ("0", 0.5), ("soon", 0.5), ("nan", 0.5), ("60", 60.0),
                                 (email.utils.formatdate(1_000_020.0), 20.0)):  # fmt: skip
                self.slept.clear()
                self.fail_with(status(429, retry_after=said))
                self.chat()
                self.assertEqual(self.slept, [waited], said)
        self.fail_with(status(400, x_should_retry="true"))
        self.chat()
        self.assertEqual(len(self.failure(status(500, x_should_retry="false")).args), 1)
        self.assertEqual(len(self.asked), 1)

    def test_connections_that_break(self):
        def nothing(handler, asked):
            handler.drop()

        def half(handler, asked):
            handler.whole(200, b'{"id"', {"content-length": "1000"})
            handler.drop()

        def chunks(handler, asked):
            handler.stream(b'{"id"', is_whole=False)

        for fault in (nothing, half, chunks):
            error = self.failure(*[fault] * 3)
            self.assertEqual((type(error), str(error), error.code), (openai.APIConnectionError, "Connection error.", None))
            self.assertEqual((len(self.asked), self.slept), (3, [0.5, 1.0]))
            self.assertIsNotNone(error.__cause__)
            self.fail_with(fault)
            self.assertEqual(self.chat().id, "c1")

    def test_answers_that_do_not_come(self):
        may_go = threading.Event()
        self.addCleanup(may_go.set)
        for settings in ({"timeout": 0.01}, {"timeout": openai.Timeout(60, read=0.01)}):
            error = self.failure(*[lambda handler, asked: may_go.wait() and handler.drop()] * 2, max_retries=1, **settings)
            self.assertEqual((type(error), str(error), len(self.slept)), (openai.APITimeoutError, "Request timed out.", 1))
            self.assertIsInstance(error, openai.APIConnectionError)

    def test_what_may_not_be_asked_is_not_asked_again(self):
        with unittest.mock.patch("openai._wire.send", side_effect=PermissionError("the session may not make this request")):
            error = self.failure()
        self.assertEqual((type(error), self.slept), (openai.APIConnectionError, []))
        self.assertIsInstance(error.__cause__, PermissionError)


