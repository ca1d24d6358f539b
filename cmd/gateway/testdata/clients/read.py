"""Reads and files mail by imaplib.

Arguments: the ports of imap and imaps, the file of the trusted certificate,
and the subjects that must be in bob's INBOX.
"""

import email
import email.policy
import imaplib
import ssl
import sys

imap, imaps, trusted, subjects = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4:]
trust = ssl.create_default_context(cafile=trusted)


def ok(answer):
    assert answer[0] == "OK", answer
    return answer[1]


def fails(call, *args):
    try:
        answer = call(*args)
    except imaplib.IMAP4.error:
        return
    assert answer[0] == "NO", answer


with imaplib.IMAP4("localhost", imap, timeout=120) as client:
    assert "LOGINDISABLED" in client.capabilities, client.capabilities
    fails(client.login, "bob", "bob-secret")
    client.starttls(ssl_context=trust)
    fails(client.login, "bob", "wrong")
    ok(client.login("bob", "bob-secret"))
    folders = b" ".join(ok(client.list()))
    for name in (b"INBOX", b"Drafts", b"Sent", b"Junk", b"Trash"):
        assert name in folders, folders

with imaplib.IMAP4_SSL("localhost", imaps, ssl_context=trust, timeout=120) as client:
    ok(client.authenticate("PLAIN", lambda _: b"\0bob@example.com\0bob-secret"))
    ok(client.select("INBOX"))
    for subject in subjects:
        (found,) = ok(client.uid("SEARCH", "SUBJECT", f'"{subject}"'))
        assert len(found.split()) == 1, (subject, found)
        message = ok(client.uid("FETCH", found.decode(), "(UID FLAGS RFC822.SIZE BODY.PEEK[])"))[0][1]
        parsed = email.message_from_bytes(message, policy=email.policy.default)
        assert parsed["Subject"] == subject, parsed["Subject"]
        assert parsed["Return-Path"] == "<alice@example.com>", parsed["Return-Path"]
        assert parsed.get_content().splitlines() == ["Grüße", ".", "..", "vom Punkt"], parsed.get_content()

    # A folder with a name in another script: made, filled, searched, emptied.
    folder = '"&ZeVnLIqe-/2026"'
    ok(client.create(folder))
    ok(client.append(folder, r"(\Seen)", None, b"Subject: filed\r\n\r\nby APPEND\r\n"))
    ok(client.copy("1", folder))
    ok(client.select(folder))
    assert ok(client.search(None, "SEEN")) == [b"1"]
    ok(client.store("2", "+FLAGS", r"(\Flagged \Deleted $Important)"))
    assert ok(client.expunge()) == [b"2"]
    ok(client.close())
    ok(client.delete(folder))
    fails(client.select, folder)
print("ok")
