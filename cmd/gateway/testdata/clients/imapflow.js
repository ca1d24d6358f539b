// Works with a mailbox by imapflow, over STARTTLS and over TLS, with two
// connections that change the same messages.
//
// Arguments: the ports of imap and imaps, the file of the trusted certificate,
// login and password.

"use strict";
const assert = require("node:assert/strict");
const fs = require("node:fs");
const { once } = require("node:events");
const { ImapFlow } = require("imapflow");

const [imap, imaps, trusted, user, pass] = process.argv.slice(2);

/** said has all commands of all connections; what the library warns of ends the test. */
const said = [];
const alarm = entry => {
  throw new Error("imapflow complains: " + JSON.stringify(entry, (key, v) => (typeof v === "bigint" ? `${v}` : v)));
};
const logger = {
  trace() {},
  info() {},
  debug: entry => entry.src === "s" || (entry.msg && said.push(entry.msg)),
  warn: alarm,
  error: alarm,
};

async function connect(options) {
  const client = new ImapFlow({
    host: "localhost", port: imaps, secure: true, disableAutoIdle: true, greetingTimeout: 100000,
    auth: { user, pass }, tls: { ca: fs.readFileSync(trusted) }, logger, ...options,
  });
  client.told = [];
  client.on("exists", e => client.told.push(`exists ${e.prevCount} to ${e.count}`));
  client.on("expunge", e => client.told.push(`expunge ${e.vanished ? `uid ${e.uid}` : `number ${e.seq}`}${e.earlier ? " earlier" : ""}`));
  client.on("flags", e => client.told.push(`flags ${e.uid ?? "of " + e.seq}: ${[...e.flags].sort().join(" ")}`));
  await client.connect();
  return client;
}

/** hears waits until a connection was told these things, in this order. */
async function hears(client, ...want) {
  const signal = AbortSignal.timeout(100000);
  while (client.told.length < want.length) {
    await Promise.race(["exists", "expunge", "flags"].map(event => once(client, event, { signal })));
  }
  assert.deepEqual(client.told.splice(0), want);
}

/** hearsOfDeletion is hears of a message that went: that it was marked before may be told, or be over. */
async function hearsOfDeletion(client, marked, gone) {
  const signal = AbortSignal.timeout(100000);
  while (!client.told.some(word => word.startsWith("expunge")))
    await Promise.race(["expunge", "flags"].map(event => once(client, event, { signal })));
  assert.deepEqual(client.told.splice(0).filter(word => word !== marked), [gone]);
}

const letter = (subject, body) =>
  `From: Alice <alice@example.com>\r\nTo: bob@example.com\r\nSubject: ${subject}\r\nMessage-ID: <${subject}@example.com>\r\n` +
  `Date: Tue, 3 Mar 2026 10:00:00 +0100\r\n\r\n${body}\r\n`;

const attached = [
  "From: Alice <alice@example.com>", "To: bob@example.com", "Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=", "MIME-Version: 1.0",
  "Content-Type: multipart/mixed; boundary=b", "", "--b", "Content-Type: text/plain; charset=iso-8859-1",
  "Content-Transfer-Encoding: quoted-printable", "", "sch=F6n", "--b",
  "Content-Type: application/octet-stream; name=data", "Content-Disposition: attachment; filename=data",
  "Content-Transfer-Encoding: base64", "", Buffer.from([0, 1, 2, 253, 254, 255]).toString("base64"), "--b--", "",
].join("\r\n");

const flagsOf = async (client, range = "1:*") => {
  const found = [];
  for (const m of await client.fetchAll(range, { uid: true, flags: true })) found.push(`${m.uid} ${[...m.flags].sort().join(" ")}`.trim());
  return found;
};

const read = async download => {
  const chunks = [];
  for await (const chunk of download.content) chunks.push(chunk);
  return Buffer.concat(chunks);
};

async function mailboxes(a) {
  const list = await a.list({ statusQuery: { messages: true, uidNext: true } });
  assert.deepEqual(list.map(m => m.path).sort(), ["Drafts", "INBOX", "Junk", "Sent", "Trash"]);
  assert.deepEqual(list.map(m => m.specialUse).sort(), ["\\Drafts", "\\Inbox", "\\Junk", "\\Sent", "\\Trash"]);
  assert.equal(list.find(m => m.path === "INBOX").status.messages, 0);

  assert.equal((await a.mailboxCreate(["Büro", "Post"])).created, true);
  assert.equal((await a.mailboxCreate("Büro/Post")).created, false);
  assert.equal((await a.mailboxRename("Büro/Post", "Büro/Ablage")).newPath, "Büro/Ablage");
  await a.mailboxSubscribe("Büro/Ablage");
  const made = (await a.list()).find(m => m.path === "Büro/Ablage");
  assert.deepEqual([made.name, made.delimiter, made.subscribed, made.parent], ["Ablage", "/", true, ["Büro"]]);
  await a.mailboxCreate("weg");
  await a.mailboxDelete("weg");
  assert.deepEqual(await a.getQuota("INBOX"), { path: "INBOX" }); // nothing is limited
}

async function messages(a) {
  const when = new Date("2026-02-01T08:00:00Z");
  for (const [i, subject] of ["m1", "m2", "m3", "m4"].entries()) {
    const added = await a.append("INBOX", letter(subject, `number ${i + 1}`), i === 0 ? ["\\Seen", "$Work"] : [], when);
    assert.equal(added.uid, i + 1);
    assert.ok(added.uidValidity > 0n);
  }
  await a.append("INBOX", attached, [], when);
  const box = await a.mailboxOpen("INBOX");
  assert.deepEqual([box.exists, box.uidNext, box.readOnly], [5, 6, false]);
  assert.ok(box.highestModseq > 0n && box.mailboxId);

  const [one] = await a.fetchAll("1", {
    uid: true, flags: true, envelope: true, bodyStructure: true, internalDate: true, size: true, emailId: true, threadId: true,
    headers: ["subject", "date"], source: true,
  });
  assert.equal(one.envelope.subject, "m1");
  assert.deepEqual(one.envelope.from, [{ name: "Alice", address: "alice@example.com" }]);
  assert.equal(one.envelope.messageId, "<m1@example.com>");
  assert.deepEqual([...one.flags].sort(), ["$Work", "\\Seen"]);
  assert.equal(one.internalDate.getTime(), when.getTime());
  assert.equal(one.size, one.source.length);
  assert.equal(one.source.toString(), letter("m1", "number 1"));
  assert.match(one.headers.toString(), /^Subject: m1\r\nDate: .*\r\n\r\n$/);
  assert.ok(one.emailId && one.threadId && one.bodyStructure.type === "text/plain");

  const five = await a.fetchOne("5", { envelope: true, bodyStructure: true });
  assert.equal(five.envelope.subject, "Grüße");
  assert.deepEqual(five.bodyStructure.childNodes.map(n => [n.part, n.type, n.disposition]),
    [["1", "text/plain", undefined], ["2", "application/octet-stream", "attachment"]]);
  assert.equal((await read(await a.download("5", "1"))).toString().trim(), "schön");
  const file = await a.download("5", "2");
  assert.equal(file.meta.filename, "data");
  assert.deepEqual([...(await read(file))], [0, 1, 2, 253, 254, 255]);
  assert.equal((await read(await a.download("5"))).toString(), attached);
  const many = await a.downloadMany("5", ["1", "2"]);
  assert.deepEqual([...many["2"].content], [0, 1, 2, 253, 254, 255]);
}

async function searches(a) {
  assert.deepEqual(await a.search({ subject: "M2" }), [2]);
  assert.deepEqual(await a.search({ subject: "GRÜ" }), [5]);
  assert.deepEqual(await a.search({ body: "schön" }), [5]);
  assert.deepEqual(await a.search({ seen: true }), [1]);
  assert.deepEqual(await a.search({ keyword: "$Work" }), [1]);
  assert.deepEqual(await a.search({ or: [{ subject: "m3" }, { header: { "message-id": "<m4@" } }] }), [3, 4]);
  assert.deepEqual(await a.search({ not: { from: "alice" } }), []);
  assert.deepEqual(await a.search({ before: "2026-02-02", larger: 10 }, { uid: true }), [1, 2, 3, 4, 5]);
  const counted = await a.search({ all: true }, { uid: true, returnOptions: ["MIN", "MAX", "COUNT"] });
  assert.deepEqual([counted.min, counted.max, counted.count], [1, 5, 5]);
}

/** Two connections: what one does the other is told, and fetches by mod-sequence. */
async function changes(a, b) {
  const before = a.mailbox.highestModseq;
  assert.deepEqual(a.told.splice(0), []);
  await b.mailboxOpen("INBOX");
  assert.equal(await b.messageFlagsAdd("2", ["\\Flagged"], { uid: true, silent: true }), true);
  assert.equal(await b.messageFlagsSet("3", ["\\Answered", "$Done"], { uid: true }), true);
  assert.equal(await b.messageFlagsRemove("1", ["$Work"], { uid: true }), true);
  assert.equal(await b.messageDelete("4", { uid: true }), true);
  b.told.length = 0;
  await a.noop();
  assert.deepEqual(a.told.splice(0).sort(),
    ["expunge number 4", "flags 1: \\Seen", "flags 2: \\Flagged", "flags 3: $Done \\Answered"]);
  const changed = [];
  for await (const m of a.fetch("1:*", { uid: true, flags: true }, { changedSince: before })) {
    assert.ok(m.modseq > before);
    changed.push(m.uid);
  }
  assert.deepEqual(changed, [1, 2, 3]);
  assert.deepEqual(await flagsOf(a), ["1 \\Seen", "2 \\Flagged", "3 $Done \\Answered", "5"]);

  const copied = await a.messageCopy("1:2", "Büro/Ablage", { uid: true });
  assert.deepEqual([...copied.uidMap], [[1, 1], [2, 2]]);
  const moved = await a.messageMove("3", "Büro/Ablage", { uid: true });
  assert.deepEqual([...moved.uidMap], [[3, 3]]);
  await b.noop();
  a.told.length = b.told.length = 0;
  assert.equal((await b.status("Büro/Ablage", { messages: true, unseen: true })).messages, 3);
}

async function idles(a, b) {
  const idling = a.idle();
  await b.append("INBOX", letter("m6", "pushed"));
  await hears(a, "exists 3 to 4");
  await b.noop();
  await b.messageFlagsAdd("6", ["\\Seen"], { uid: true });
  await hears(a, "flags 6: \\Seen");
  await b.messageDelete("1", { uid: true });
  await hearsOfDeletion(a, "flags 1: \\Deleted \\Seen", "expunge number 1");
  await a.noop(); // which ends it
  await idling;
  a.told.length = 0;
}

/** A connection that comes back is told what happened meanwhile. */
async function resyncs(a) {
  const first = await connect({ qresync: true });
  const { uidValidity, highestModseq } = await first.mailboxOpen("INBOX");
  assert.deepEqual(await flagsOf(first), ["2 \\Flagged", "5", "6 \\Seen"]);
  await first.logout();

  await a.messageFlagsAdd("5", ["$Seen2"], { uid: true });
  await a.messageDelete("2", { uid: true });
  await a.append("INBOX", letter("m7", "meanwhile"));
  const again = await connect({ qresync: true });
  const box = await again.mailboxOpen("INBOX", { uidValidity, changedSince: highestModseq });
  assert.deepEqual([box.qresync, box.exists], [true, 3]);
  assert.deepEqual(again.told.splice(0), ["expunge uid 2 earlier", "flags 5: $Seen2", "flags 7: "]);
  const none = await again.mailboxOpen("INBOX", { uidValidity, changedSince: box.highestModseq });
  assert.deepEqual([none.qresync, again.told.length], [true, 0]);
  const other = await again.mailboxOpen("Büro/Ablage", { uidValidity: uidValidity + 1n, changedSince: 1n });
  assert.deepEqual([other.qresync, again.told.length], [false, 0]); // another UIDVALIDITY, so nothing is told
  await again.mailboxOpen("INBOX");
  const idling = again.idle();
  await a.messageDelete("7", { uid: true });
  await hearsOfDeletion(again, "flags 7: \\Deleted", "expunge uid 7");
  await again.noop();
  await idling;
  await again.logout();
}

async function main() {
  const a = await connect({ port: imap, secure: false, doSTARTTLS: true });
  const b = await connect({});
  assert.deepEqual([a.secureConnection, b.secureConnection], [true, true]);
  assert.deepEqual([...a.enabled].sort(), ["CONDSTORE", "IMAP4REV2", "UTF8=ACCEPT"]);
  await mailboxes(a);
  await messages(a);
  await searches(a);
  await changes(a, b);
  await idles(a, b);
  await resyncs(a);
  const old = await connect({ disableIMAP4rev2: true, disableCompression: true });
  await old.mailboxOpen("Büro/Ablage", { readOnly: true });
  assert.deepEqual(await old.search({ flagged: true }), [2]);
  assert.deepEqual(await flagsOf(old), ["1 \\Seen", "2 \\Flagged", "3 $Done \\Answered"]);
  for (const client of [old, a, b]) await client.logout();
  for (const command of ["STARTTLS", "COMPRESS DEFLATE", "ENABLE", "IDLE", "UID MOVE", "CHANGEDSINCE", "(QRESYNC ("])
    assert.ok(said.some(line => line.includes(command)), `imapflow never said ${command}`);
}

main().catch(err => {
  console.error(err, "\nthe last commands:\n" + said.slice(-20).join("\n"));
  process.exit(1);
});
