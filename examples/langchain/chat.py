"""LangChain against TrustGate: a chain, a stream, and what was used.

pip install langchain-openai, then: OPENAI_BASE_URL=http://127.0.0.1:4010/v1 OPENAI_API_KEY=tgk_… python chat.py
"""

import os

from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_openai import ChatOpenAI

# The address and the key are in the environment. The headers of an answer have the receipt's id.
model = ChatOpenAI(model=os.environ.get("MODEL", "trustgate/echo"), include_response_headers=True, stream_usage=True)
prompt = ChatPromptTemplate.from_messages([("user", "Hello from LangChain, {name}!")])

answer = (prompt | model).invoke({"name": "Ada"})
print("answer: ", answer.content)
print("tokens: ", answer.usage_metadata["total_tokens"])
print("receipt:", answer.response_metadata["headers"]["x-trustgate-receipt"])

print("stream:  ", end="")
for part in (prompt | model | StrOutputParser()).stream({"name": "Grace"}):
    print(part, end="", flush=True)
print()
