"""The OpenAI-compatible API of the fleet: what it takes, who answers, and how it is said.

api        the endpoints: a request's way through the parts below
chat, completions, embeddings, fields    what may be in a body, and the document of an answer
models     names of models: BASE, BASE:ADAPTER, MODEL@SELECTOR
routing    which device answers (pure)
roster     what is known of the devices, asked for when somebody wants it
prefixes   where the beginning of a conversation was read last
relay      one question to a device, and to another one as long as nothing was answered
errors     the error document and its status code
"""
