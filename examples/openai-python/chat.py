"""OpenAI's Python client against TrustGate: an answer, its receipt, a stream, a refusal.

pip install openai, then: OPENAI_BASE_URL=http://127.0.0.1:4010/v1 OPENAI_API_KEY=tgk_… python chat.py
"""

import os

import openai

MODEL = os.environ.get("MODEL", "trustgate/echo")

client = openai.OpenAI()  # the address and the key are in the environment

# An answer. The raw response has the headers, and with them the receipt's id.
raw = client.chat.completions.with_raw_response.create(
    model=MODEL, messages=[{"role": "user", "content": "Hello from Python!"}]
)
answer = raw.parse()
print("answer: ", answer.choices[0].message.content)
print("tokens: ", answer.usage.total_tokens if answer.usage else "not told")
print("receipt:", raw.headers["x-trustgate-receipt"])

# A stream: each part as it comes, the usage at the end.
print("stream:  ", end="")
with client.chat.completions.create(
    model=MODEL,
    messages=[{"role": "user", "content": "Hello, word by word!"}],
    stream=True,
    stream_options={"include_usage": True},
) as stream:
    for chunk in stream:
        if chunk.choices:
            print(chunk.choices[0].delta.content or "", end="", flush=True)
        elif chunk.usage:
            print(f" ({chunk.usage.total_tokens} tokens)")

# A refusal: OpenAI's own exceptions, with a code that says why.
try:
    openai.OpenAI(api_key="tgk_wrong").models.list()
except openai.AuthenticationError as error:
    print("refused:", error.status_code, error.code)
