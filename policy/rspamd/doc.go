// Package rspamd asks rspamd about messages in its own protocol, HTTP with
// /checkv2, as a step of the content list: no milter proxy stands between.
//
// What the server knows of client and envelope goes along in header fields of
// the request, the message behind it as a stream; fields this server wrote
// itself are left out. Of the answer the action, the score and the symbols
// count, and the changes that rspamd wants milters to make. All of it is
// returned as verdict, edits and findings; nothing is done here.
//
// Several servers are asked in order, each with its own memory of failures. An
// answer is bounded in size and time. No answer is never a permanent refusal:
// mail from elsewhere is put off, mail of people who logged in goes on with a
// mark, unless the step's on_error says otherwise.
package rspamd
