"""What is sent: paths, queries, headers and bodies, for OpenAI and for Azure."""

import os

from service import MESSAGES, ServiceTest, status

import openai
from openai.types.chat import ChatCompletionMessage, ChatCompletionUserMessageParam


class RequestsTest(ServiceTest):
    def client(self, **settings):
        return openai.OpenAI(api_key="k", base_url=self.url + "/v1", **settings)

    def azure(self, **settings):
        return openai.AzureOpenAI(**{"api_key": "k", "azure_endpoint": self.url, "api_version": "v", **settings})

    def test_parameters_go_as_they_are_given(self):
        self.client().chat.completions.create(
            model="m", messages=iter([ChatCompletionUserMessageParam(role="user", content="hé")]), stop=None, own={"a": (1,)},
            seed=openai.NOT_GIVEN, extra_headers={"X-Own": "1", "Authorization": "other"}, extra_body={"model": "n"},
            extra_query={"a": True, "b": [1, 2], "c": {"d": "x y"}},
        )  # fmt: skip
        (asked,) = self.asked
        self.assertEqual(asked.body, {"model": "n", "messages": MESSAGES, "stop": None, "own": {"a": [1]}})
        self.assertEqual((asked.method, asked.path), ("POST", "/v1/chat/completions?a=true&b%5B%5D=1&b%5B%5D=2&c%5Bd%5D=x+y"))
        self.assertEqual((asked.headers["authorization"], asked.headers["x-own"]), ("other", "1"))
        self.assertEqual(asked.headers["content-type"], "application/json")
        self.assertEqual(asked.headers["user-agent"], f"OpenAI/Python {openai.__version__} (flowcell)")

    def test_a_message_of_an_answer_is_one_of_a_request(self):
        message = ChatCompletionMessage(role="assistant", tool_calls=[{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}])
        self.client().chat.completions.create(model="m", messages=[message])
        # What was not given stays away: services refuse members that they do not know.
        self.assertEqual(self.asked[0].body["messages"], [{"role": "assistant", "tool_calls": [
            {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]}])  # fmt: skip

    def test_a_request_that_json_cannot_carry_is_refused(self):
        for value in (object(), b"bytes", float("nan")):
            with self.assertRaises((TypeError, ValueError)):
                self.client().chat.completions.create(model="m", messages=MESSAGES, own=value)
        with self.assertRaises(ValueError):
            self.client().chat.completions.create(model="m", messages=MESSAGES, extra_headers={"x": "a\r\nb: c"})
        with self.assertRaisesRegex(ValueError, "'ftp://x/v1/chat/completions' is no URL of a service"):
            openai.OpenAI(api_key="k", base_url="ftp://x/v1").chat.completions.create(model="m", messages=MESSAGES)
        self.assertEqual(self.asked, [])

    def test_settings_come_from_arguments_then_from_the_environment(self):
        with self.assertRaisesRegex(openai.OpenAIError, "OPENAI_API_KEY"):
            openai.OpenAI()
        os.environ.update(OPENAI_API_KEY="env", OPENAI_BASE_URL=self.url + "/env/", OPENAI_ORG_ID="org", OPENAI_PROJECT_ID="project")
        openai.OpenAI().models.list()
        openai.OpenAI(api_key=lambda: "made", organization="own", default_headers={"X-Own": "1"}, default_query={"q": 1}).models.list()
        first, second = self.asked
        self.assertEqual((first.method, first.path, first.headers["authorization"]), ("GET", "/env/models", "Bearer env"))
        self.assertEqual((first.headers["openai-organization"], first.headers["openai-project"]), ("org", "project"))
        self.assertEqual((second.path, second.headers["authorization"]), ("/env/models?q=1", "Bearer made"))
        self.assertEqual((second.headers["openai-organization"], second.headers["x-own"]), ("own", "1"))

    def test_a_copy_differs_in_what_was_changed(self):
        client = self.client(default_headers={"x-own": "1", "x-other": "1"}, timeout=5, max_retries=4)
        copy = client.with_options(default_headers={"x-own": "2"}, max_retries=0)
        self.assertEqual((copy.timeout, copy.max_retries, client.max_retries, client.copy(timeout=None).timeout), (5, 0, 4, None))
        self.fail_with(status(500))
        with self.assertRaises(openai.InternalServerError):
            copy.chat.completions.create(model="m", messages=MESSAGES)
        (asked,) = self.asked
        self.assertEqual((asked.headers["x-own"], asked.headers["x-other"], asked.headers["authorization"]), ("2", "1", "Bearer k"))
        azure = self.azure(azure_deployment="d").with_options(api_version="w")
        azure.chat.completions.create(model="m", messages=MESSAGES)
        self.assertEqual(self.asked[-1].path, "/openai/deployments/d/chat/completions?api-version=w")

    def test_deployments_of_azure_are_in_the_path(self):
        paths = [
            ({}, "/openai/deployments/m/chat/completions"),
            ({"azure_deployment": "a b"}, "/openai/deployments/a%20b/chat/completions"),
            ({"azure_endpoint": None, "base_url": self.url + "/gateway/deployments/g"}, "/gateway/deployments/g/chat/completions"),
        ]
        for settings, path in paths:
            self.azure(**settings).chat.completions.create(model="m", messages=MESSAGES)
            self.assertEqual(self.asked[-1].path, path + "?api-version=v")
            self.assertEqual(self.asked[-1].headers["api-key"], "k")
            self.assertEqual(self.asked[-1].body["model"], "m")
        self.azure().embeddings.create(model="e", input="a")
        self.azure(azure_deployment="d").models.list()
        self.assertEqual([asked.path for asked in self.asked[-2:]],
                         ["/openai/deployments/e/embeddings?api-version=v", "/openai/models?api-version=v"])  # fmt: skip

    def test_tokens_of_azure_take_the_place_of_keys(self):
        for settings in ({"azure_ad_token": "t"}, {"azure_ad_token_provider": lambda: "t"}):
            self.azure(api_key=None, **settings).models.list()
            self.assertEqual(self.asked[-1].headers["authorization"], "Bearer t")
        with self.assertRaisesRegex(ValueError, "azure_ad_token_provider gives a token, and not 1"):
            self.azure(api_key=None, azure_ad_token_provider=lambda: 1).models.list()

    def test_azure_says_what_is_missing(self):
        for settings, missing in (({"api_key": None}, "AZURE_OPENAI_AD_TOKEN"), ({"api_version": None}, "OPENAI_API_VERSION"),
                                  ({"azure_endpoint": None}, "AZURE_OPENAI_ENDPOINT"), ({"base_url": "http://x"}, "give one of them")):  # fmt: skip
            with self.assertRaisesRegex((ValueError, openai.OpenAIError), missing):
                self.azure(**settings)
        os.environ.update(AZURE_OPENAI_API_KEY="env", AZURE_OPENAI_ENDPOINT=self.url + "/", OPENAI_API_VERSION="w")
        openai.AzureOpenAI().models.list()
        self.assertEqual((self.asked[0].path, self.asked[0].headers["api-key"]), ("/openai/models?api-version=w", "env"))

    def test_the_module_is_a_client(self):
        for name in ("api_key", "base_url", "api_type", "azure_endpoint", "api_version"):
            self.addCleanup(setattr, openai, name, getattr(openai, name))
        openai.api_key, openai.base_url = "mine", self.url + "/mod"
        openai.chat.completions.create(model="m", messages=MESSAGES)
        openai.base_url, openai.azure_endpoint, openai.api_version = None, self.url, "v"
        openai.embeddings.create(model="e", input="a")
        self.assertEqual([asked.path for asked in self.asked], ["/mod/chat/completions", "/openai/deployments/e/embeddings?api-version=v"])
        os.environ["OPENAI_API_KEY"] = "another"
        with self.assertRaisesRegex(openai.OpenAIError, "api_type"):
            openai.chat  # noqa: B018

    def test_what_is_not_here_says_so(self):
        client = self.client()
        for take in (lambda: client.beta.assistants, lambda: client.responses, lambda: client.chat.completions.parse,
                     lambda: openai.files, lambda: openai.OpenAI(api_key="k", http_client=object())):  # fmt: skip
            with self.assertRaisesRegex(openai.OpenAIError, "is not in this package `openai`.* it has chat.completions.create"):
                take()
        self.assertFalse(hasattr(client, "beta"))
        with self.assertRaisesRegex(AttributeError, "versions below 1"):
            openai.ChatCompletion  # noqa: B018
        with self.assertRaisesRegex(TypeError, "unexpected keyword argument 'other'"):
            self.client(other=1)
        with self.assertRaisesRegex(TypeError, "'messages'"):
            client.chat.completions.create(model="m")
