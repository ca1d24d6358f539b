"""Reads mail by poplib.

Arguments: the ports of pop3 and pop3s, the file of the trusted certificate,
how many messages bob has, and who sent them.
"""

import email
import email.policy
import poplib
import ssl
import sys

pop3, pop3s, trusted, count, sender = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4]), sys.argv[5]
trust = ssl.create_default_context(cafile=trusted)


def fails(code, call, *args):
    try:
        answer = call(*args)
    except poplib.error_proto as e:
        assert code in e.args[0], e.args[0]
        return
    raise AssertionError(answer)


client = poplib.POP3("localhost", pop3, timeout=120)
capabilities = client.capa()
assert "STLS" in capabilities and "USER" not in capabilities, capabilities
fails(b"[AUTH]", client.user, "bob")
client.stls(context=trust)
capabilities = client.capa()
assert "PLAIN" in capabilities["SASL"], capabilities
client.user("bob")
fails(b"[AUTH]", client.pass_, "wrong")
client.user("bob@example.com")
client.pass_("bob-secret")
assert client.capa()["EXPIRE"] == ["NEVER"], client.capa()
messages, octets = client.stat()
assert messages == count, messages
sizes = [int(line.split()[1]) for line in client.list()[1]]
names = [line.split()[1] for line in client.uidl()[1]]
assert sum(sizes) == octets and len(set(names)) == count, (sizes, octets, names)
for number, size in enumerate(sizes, 1):
    _, lines, _ = client.retr(number)
    assert sum(len(line) + 2 for line in lines) == size, (number, size)
    parsed = email.message_from_bytes(b"\r\n".join(lines), policy=email.policy.default)
    assert parsed["Return-Path"] == f"<{sender}>", parsed["Return-Path"]
    assert client.top(number, 0)[1] == lines[: lines.index(b"") + 1]
    assert client.uidl(number).split()[2] == names[number - 1]

second = poplib.POP3_SSL("localhost", pop3s, context=trust, timeout=120)
second.user("bob")
fails(b"[IN-USE]", second.pass_, "bob-secret")
client.dele(1)
fails(b"-ERR", client.retr, 1)
client.rset()
client.dele(count)
client.quit()
second.user("bob")
second.pass_("bob-secret")
assert second.stat()[0] == count - 1
assert [line.split()[1] for line in second.uidl()[1]] == names[: count - 1]
second.quit()
print("ok")
