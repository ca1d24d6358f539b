"""Submits by smtplib: STARTTLS and TLS from the start, PLAIN and LOGIN, UTF-8.

Arguments: the ports of submission and submissions, the file of the trusted
certificate.
"""

import email.policy
import smtplib
import ssl
import sys
from email.message import EmailMessage


def letter(subject):
    message = EmailMessage()
    message["From"] = "Alice Anders <alice@example.com>"
    message["To"] = "bob@example.com, info@example.com"
    message["Subject"] = subject
    message.set_content("Grüße\n.\n..\nvom Punkt\n")
    return message


def refused(expected, call, *args):
    try:
        call(*args)
    except smtplib.SMTPResponseException as reply:
        assert reply.smtp_code == expected, reply
    else:
        raise AssertionError(f"{args} was taken, want {expected}")


submission, submissions, trusted = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
trust = ssl.create_default_context(cafile=trusted)

with smtplib.SMTP("localhost", submission, timeout=120) as client:
    client.ehlo()
    assert not client.has_extn("auth"), "logins are offered in the clear"
    client.starttls(context=trust)
    client.ehlo()
    for extension in ("size", "8bitmime", "smtputf8", "dsn", "pipelining", "enhancedstatuscodes", "chunking"):
        assert client.has_extn(extension), extension
    refused(535, client.login, "alice", "wrong")
    client.login("alice", "alice-secret")
    assert client.send_message(letter("smtplib with STARTTLS")) == {}

with smtplib.SMTP_SSL("localhost", submissions, context=trust, timeout=120) as client:
    client.ehlo()
    client.user, client.password = "alice@example.com", "alice-secret"
    client.auth("LOGIN", client.auth_login)
    problems = client.sendmail(
        "alice@example.com",
        ["bob@example.com", "nobody@example.com"],
        letter("smtplib over TLS").as_bytes(policy=email.policy.SMTP),
        mail_options=["BODY=8BITMIME"],
        rcpt_options=["NOTIFY=FAILURE"],
    )
    assert list(problems) == ["nobody@example.com"] and problems["nobody@example.com"][0] == 550, problems
    # One session, a second message, and one that is given up.
    client.mail("alice@example.com")
    client.rcpt("bob@example.com")
    client.rset()
    client.send_message(letter("smtplib again"))
print("ok")
