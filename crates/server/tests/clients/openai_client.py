"""An exchange of OpenAI's Python client with a server of the embedded model: openai_client.py URL."""

import json
import sys
import time
import urllib.request

import openai


def main(url):
    client = openai.OpenAI(base_url=url, api_key="none", max_retries=0)
    assert [model.id for model in client.models.list()] == ["base", "twin"]
    assert client.models.retrieve("twin").id == "twin"

    ask = dict(model="base", prompt="The river", max_tokens=24, temperature=1, seed=7)
    whole = client.completions.create(**ask)
    again = client.completions.create(**ask)
    assert whole.choices[0].text == again.choices[0].text, "a seed gives the same text again"
    other = client.completions.create(**{**ask, "seed": 8, "temperature": 5})
    assert other.choices[0].text != whole.choices[0].text
    pieces = list(client.completions.create(**ask, stream=True, stream_options={"include_usage": True}))
    assert "".join(piece.choices[0].text for piece in pieces if piece.choices) == whole.choices[0].text
    assert pieces[-1].usage == whole.usage and not pieces[-1].choices
    assert pieces[-2].choices[0].finish_reason == whole.choices[0].finish_reason

    stop = whole.choices[0].text[5:8]
    stopped = client.completions.create(**ask, stop=[stop])
    assert stopped.choices[0].text == whole.choices[0].text.split(stop)[0]
    assert stopped.choices[0].finish_reason == "stop"

    several = client.completions.create(**ask, n=3)
    assert [choice.index for choice in several.choices] == [0, 1, 2]
    assert several.choices[0].text == whole.choices[0].text

    scored = client.completions.create(model="base", prompt="The river runs", max_tokens=1, temperature=0, echo=True, logprobs=1)
    told = scored.choices[0].logprobs
    assert told.token_logprobs[0] is None and all(x <= 0 for x in told.token_logprobs[1:])
    assert len(told.tokens) == len(told.text_offset) == len(told.top_logprobs) == scored.usage.prompt_tokens + 1
    assert scored.choices[0].text.startswith("The river runs")

    messages = [{"role": "user", "content": "Who are you?"}]
    chat = dict(model="base", messages=messages, max_completion_tokens=16, temperature=0, logprobs=True, top_logprobs=2)
    try:
        answer = client.chat.completions.create(**chat)
    except openai.BadRequestError as error:
        assert "no chat template" in str(error), error
    else:
        pieces = list(client.chat.completions.create(**chat, stream=True))
        text = "".join(piece.choices[0].delta.content or "" for piece in pieces)
        assert text == answer.choices[0].message.content
        content = answer.choices[0].logprobs.content
        assert all(len(token.top_logprobs) == 2 for token in content)
        told = [token for piece in pieces if piece.choices[0].logprobs for token in piece.choices[0].logprobs.content]
        assert told == content
        assert pieces[0].choices[0].delta.role == "assistant"

    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"], "additionalProperties": False}
    said = client.completions.create(
        model="base", prompt="Say", max_tokens=30, seed=1,
        extra_body={"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}},
    )
    assert list(json.loads(said.choices[0].text)) == ["ok"]

    for wrong, kind in [
        (dict(model="none", prompt="a"), openai.NotFoundError),
        (dict(model="base", prompt="a", max_tokens=10**6), openai.BadRequestError),
        (dict(model="base", prompt="a", frequency_penalty=1), openai.BadRequestError),
    ]:
        try:
            client.completions.create(**wrong)
        except kind as error:
            assert error.body["message"], error
        else:
            raise AssertionError(f"{wrong} was answered")

    def left():
        text = urllib.request.urlopen(url.removesuffix("/v1") + "/metrics").read().decode()
        return int(next(line.split()[1] for line in text.splitlines() if line.startswith("harness_generations_left_total ")))

    before = left()
    stream = client.completions.create(**{**ask, "temperature": 50, "max_tokens": 200, "n": 32}, stream=True)
    next(iter(stream))
    stream.close()
    deadline = time.monotonic() + 60
    while left() == before:
        assert time.monotonic() < deadline, "who left was not noticed"
    print("openai", openai.__version__, "exchanged")


main(sys.argv[1])
