// Package milter asks mail filters that speak Sendmail's milter protocol:
// OpenDKIM, ClamAV's milter, rspamd's proxy worker and many others.
//
// A Milter is one configured filter. As a stage of the content list it attends
// sessions from their beginning: it is told the connection, HELO, MAIL, each
// recipient that the lists accepted, DATA, and at its place in the list the
// message; what filters and stages before it changed is what it sees. Its
// verdicts and edits are returned, never applied here, and edits only when the
// filter finished: one that dies in the middle of its edits leaves the message
// as it was.
//
// Protocol versions 2 to 6 are spoken, the highest that the filter knows, with
// all actions and protocol steps of version 6: steps and replies a filter does
// without, lists of macros it asks for, progress, skipping of the body. The
// fields that this server wrote itself are not shown.
//
// Everything a filter sends is bounded: the length of a packet, the number and
// size of edits, the body it gives instead, which beyond a mebibyte lies in an
// unlinked file, the time for each reply and for the message. A filter that is
// down, slow or out of its mind leads to what the configuration says, and never
// to a permanent refusal. After failures in a row it is left alone for a while.
//
// There is no RFC; the protocol is that of Sendmail's libmilter.
package milter
