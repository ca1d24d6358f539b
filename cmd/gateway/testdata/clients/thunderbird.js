// What a person does with Thunderbird, by the interfaces its windows use. It is
// run once in the program, with the rights of its own code, and leaves the
// functions for the steps of a test. Paths are names of folders with slashes
// between them; messages are named by their subjects.

const { MailServices } = ChromeUtils.importESModule("resource:///modules/MailServices.sys.mjs");
const { setTimeout } = ChromeUtils.importESModule("resource://gre/modules/Timer.sys.mjs");

const account = MailServices.accounts.accounts[0];
const server = account.incomingServer;
const root = server.rootFolder;

/** until waits until look returns something, and returns that. */
async function until(what, look, seconds = 120) {
  for (const end = Date.now() + 1000 * seconds; ; await new Promise(done => setTimeout(done, 50))) {
    const found = look();
    if (found) return found;
    if (Date.now() > end) throw new Error(`waited in vain for ${what()}`);
  }
}

/** ended makes a promise of one of the program's listeners. */
function ended(what, start) {
  return new Promise((resolve, reject) => {
    const end = status =>
      Components.isSuccessCode(status) ? resolve() : reject(new Error(`${what}: 0x${status.toString(16)}`));
    start({
      QueryInterface: ChromeUtils.generateQI(["nsIUrlListener", "nsIMsgCopyServiceListener", "nsIMsgSendListener"]),
      OnStartRunningUrl() {},
      OnStopRunningUrl: (url, status) => end(status),
      onStartCopy() {},
      onProgress() {},
      setMessageKey() {},
      getMessageId: () => null,
      onStopCopy: end,
      onStartSending() {},
      onSendProgress() {},
      onStatus() {},
      onGetDraftFolderURI() {},
      onTransportSecurityError() {},
      onSendNotPerformed: (id, status) => reject(new Error(`${what} was not done: 0x${status.toString(16)}`)),
      onStopSending(id, status) {
        if (!Components.isSuccessCode(status)) end(status); // else the copy follows
      },
    });
  });
}

const child = (parent, name) =>
  parent && [...parent.subFolders].find(f => [f.name, f.name.toUpperCase()].includes(name));
const find = path => path.split("/").reduce(child, root);
const open = path => until(() => `folder ${path}; there are ${folders()}`, () => find(path));

function folders() {
  const path = f => (f.parent === root ? "" : path(f.parent) + "/") + f.name;
  return [...root.descendants].map(path).sort();
}

/** describe is a message's subject and all that is set. */
function describe(message) {
  const words = [message.mime2DecodedSubject];
  if (message.isRead) words.push("read");
  if (message.isFlagged) words.push("starred");
  if (message.flags & Ci.nsMsgMessageFlags.Replied) words.push("replied");
  if (message.flags & Ci.nsMsgMessageFlags.IMAPDeleted) words.push("deleted");
  return words.concat(message.getStringProperty("keywords").split(" ").sort()).filter(Boolean).join(" ");
}

const list = path => [...find(path).messages].sort((a, b) => a.messageKey - b.messageKey).map(describe);

function pick(path, subjects) {
  return subjects.map(subject => {
    const found = [...find(path).messages].find(m => m.mime2DecodedSubject === subject);
    if (!found) throw new Error(`${path} has no ${subject}, but ${list(path)}`);
    return found;
  });
}

/** sees waits until a folder shows just these messages, without asking for them. */
async function sees(path, want) {
  await open(path);
  await until(
    () => `${JSON.stringify(want)} in ${path}, which has ${JSON.stringify(list(path))}`,
    () => JSON.stringify(list(path)) === JSON.stringify(want),
  );
}

/** shows clicks on a folder until it shows just these messages. */
async function shows(path, want) {
  const folder = await open(path);
  let clicked = 0;
  await until(
    () => `${JSON.stringify(want)} in ${path}, which has ${JSON.stringify(list(path))}`,
    () => {
      if (Date.now() - clicked > 2000) {
        clicked = Date.now();
        folder.updateFolder(null);
      }
      return JSON.stringify(list(path)) === JSON.stringify(want);
    },
  );
}

function trust(pem, ports) {
  const authorities = Cc["@mozilla.org/security/x509certdb;1"].getService(Ci.nsIX509CertDB);
  const certificate = authorities.constructX509FromBase64(pem.replace(/-----[A-Z ]+-----|\s/g, ""));
  const exceptions = Cc["@mozilla.org/security/certoverride;1"].getService(Ci.nsICertOverrideService);
  for (const port of ports) exceptions.rememberValidityOverride("localhost", port, {}, certificate, false);
}

async function remember(login, password) {
  for (const origin of ["imap://localhost", "smtp://localhost"]) {
    const info = Cc["@mozilla.org/login-manager/loginInfo;1"].createInstance(Ci.nsILoginInfo);
    info.init(origin, null, origin, login, password, "", "");
    await Services.logins.addLoginAsync(info);
  }
}

/** discover opens the account, and waits for its folders. */
async function discover(paths) {
  (await open("INBOX")).updateFolder(null);
  for (const path of paths) await open(path);
}

async function create(path) {
  const parent = path.split("/").slice(0, -1).reduce(child, root);
  parent.createSubfolder(path.split("/").at(-1), null);
  await open(path);
}

async function rename(path, name) {
  find(path).rename(name, null);
  await until(() => `${name}; there are ${folders()}`, () => !find(path) && find(path.replace(/[^/]*$/, name)));
}

/** discard moves a folder to the trash, as deleting one does. */
async function discard(path) {
  await ended("discard", listener => MailServices.copy.copyFolder(find(path), find("Trash"), true, listener, null));
  await open("Trash/" + path);
}

const subscribe = (path, on) =>
  ended("subscribe", listener => {
    const service = MailServices.imap;
    on ? service.subscribeFolder(root, path, listener) : service.unsubscribeFolder(root, path, listener);
  });

const transfer = (from, subjects, to, move) =>
  ended("transfer", listener =>
    MailServices.copy.copyMessages(find(from), pick(from, subjects), find(to), move, listener, null, false));

const remove = (path, subjects) => find(path).deleteMessages(pick(path, subjects), null, false, false, null, true);
const compact = path => ended("compact", listener => find(path).compact(listener, null));
const emptyTrash = () => ended("empty trash", listener => find("Trash").emptyTrash(listener));

const read = (path, subjects, on = true) => find(path).markMessagesRead(pick(path, subjects), on);
const star = (path, subjects, on = true) => find(path).markMessagesFlagged(pick(path, subjects), on);
const tag = (path, subjects, word) => find(path).addKeywordsToMessages(pick(path, subjects), word);
const untag = (path, subjects, word) => find(path).removeKeywordsFromMessages(pick(path, subjects), word);

function replied(path, subjects) {
  for (const message of pick(path, subjects))
    find(path).addMessageDispositionState(message, Ci.nsIMsgFolder.nsMsgDispositionState_Replied);
}

/** search has the server search, and returns subjects. */
function search(path, attribute, operator, text) {
  const session = Cc["@mozilla.org/messenger/searchSession;1"].createInstance(Ci.nsIMsgSearchSession);
  session.addScopeTerm(Ci.nsMsgSearchScope.onlineMail, find(path));
  const term = session.createTerm();
  term.attrib = Ci.nsMsgSearchAttrib[attribute];
  term.op = Ci.nsMsgSearchOp[operator];
  const value = term.value;
  value.attrib = term.attrib;
  value.str = text;
  term.value = value;
  term.booleanAnd = true;
  session.appendTerm(term);
  return new Promise((resolve, reject) => {
    const hits = [];
    session.registerListener({
      QueryInterface: ChromeUtils.generateQI(["nsIMsgSearchNotify"]),
      onNewSearch() {},
      onSearchHit: message => hits.push(message.mime2DecodedSubject),
      onSearchDone: status =>
        Components.isSuccessCode(status) ? resolve(hits.sort()) : reject(new Error(`search: 0x${status.toString(16)}`)),
    });
    session.search(null);
  });
}

/** write composes a message, and saves or sends it by mode. */
function write(mode, to, subject, body) {
  const identity = account.defaultIdentity;
  const fields = Cc["@mozilla.org/messengercompose/composefields;1"].createInstance(Ci.nsIMsgCompFields);
  fields.from = identity.email;
  fields.to = to;
  fields.subject = subject;
  const send = Cc["@mozilla.org/messengercompose/send;1"].createInstance(Ci.nsIMsgSend);
  return ended(mode, listener =>
    send.createAndSendMessage(null, identity, account.key, fields, false, false, Ci.nsIMsgSend[mode], null,
      "text/plain", body, null, null, listener, "", "", Ci.nsIMsgCompType.New));
}

/** source is a message as it came, from the disk alone where local is set. */
function source(path, subject, local) {
  const folder = find(path);
  const uri = folder.getUriForMsg(pick(path, [subject])[0]);
  return new Promise((resolve, reject) => {
    let text = "";
    MailServices.messageServiceFromURI(uri).streamMessage(uri, {
      QueryInterface: ChromeUtils.generateQI(["nsIStreamListener", "nsIRequestObserver"]),
      onStartRequest() {},
      onDataAvailable(request, stream, offset, count) {
        const reader = Cc["@mozilla.org/scriptableinputstream;1"].createInstance(Ci.nsIScriptableInputStream);
        reader.init(stream);
        text += reader.read(count);
      },
      onStopRequest: (request, status) =>
        Components.isSuccessCode(status) ? resolve(text) : reject(new Error(`source: 0x${status.toString(16)}`)),
    }, null, null, false, "", local);
  });
}

/** keep downloads a folder, to be read without the server. */
async function keep(path) {
  const folder = find(path);
  folder.setFlag(Ci.nsMsgFolderFlags.Offline);
  folder.downloadAllForOffline(null, null);
  await until(() => `all of ${path} on the disk`, () =>
    [...folder.messages].every(m => m.flags & Ci.nsMsgMessageFlags.Offline));
}

function goOffline() {
  server.closeCachedConnections();
  Services.io.offline = true;
}

function goOnline() {
  const manager = Cc["@mozilla.org/messenger/offline-manager;1"].getService(Ci.nsIMsgOfflineManager);
  manager.goOnline(false, true, null);
}


Object.assign(globalThis, {
  MailServices, server, trust, remember, discover, folders, create, rename, discard, subscribe, list, sees, shows,
  transfer, remove, compact, emptyTrash, read, star, tag, untag, replied, search, write, source, keep, goOffline, goOnline,
});
