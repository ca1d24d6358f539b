// Package imapd is the IMAP server: sessions over mailboxes of mailstore.
//
// What comes in: connections from mail programs. What goes out: IMAP4rev1
// (RFC 3501) and IMAP4rev2 (RFC 9051) with the extensions that Capability names. What it guarantees:
//
//   - The octets of a refused literal are consumed or the connection is closed;
//     they are never read as commands.
//   - A session's sequence numbers follow one immutable View; a client that
//     applies the untagged responses in order holds that View exactly. EXPUNGE
//     is never sent while a command with sequence numbers is under way
//     (RFC 3501 section 7.4.1).
//   - A mailbox opened with EXAMINE cannot be changed; one place decides that.
//   - Everything a stranger can grow is bounded, and every read and write has a
//     deadline.
//   - An outage is "NO [UNAVAILABLE]"; only a verifier's clear no is
//     "NO [AUTHENTICATIONFAILED]".
//
// What it leaves to others: who may log in (Authenticator), where an account
// lives (Accounts), and everything durable (mailstore).
//
// A command is read whole into memory, but for the messages of APPEND and
// REPLACE, which stream into the store; then it is parsed, then run. The parser
// is pure and works on the octets of one command.
//
// RFCs: 2177 IDLE, 2342 NAMESPACE, 2971 ID, 3348 CHILDREN, 3502 MULTIAPPEND,
// 3516 BINARY, 3691 UNSELECT, 4315 UIDPLUS, 4469 CATENATE, 4731 ESEARCH, 4959
// SASL-IR, 5032 WITHIN, 5161 ENABLE, 5182 SEARCHRES, 5256 SORT and THREAD, 5258
// LIST-EXTENDED, 5267 ESORT and CONTEXT, 5530 response codes, 5819 LIST-STATUS,
// 5957 SORT=DISPLAY, 6154 SPECIAL-USE, 6203 SEARCH=FUZZY, 6851 MOVE, 7162
// CONDSTORE and QRESYNC, 7377 MULTISEARCH, 7888 LITERAL+, 7889 APPENDLIMIT, 8438
// STATUS=SIZE, 8474 OBJECTID, 8508 REPLACE, 8514 SAVEDATE, 8970 PREVIEW, 9394
// PARTIAL; docs/rfc.md has the whole list.
package imapd
