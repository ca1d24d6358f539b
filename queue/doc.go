// Package queue keeps mail between its acceptance and its delivery.
//
// What comes in: an envelope and a staged message from a session, or a report
// of our own. What goes out: delivery attempts through a Transport, and
// reports to senders. What it guarantees: when Accept returns nil the message
// and every recipient survive a power cut, and each recipient ends delivered,
// reported, or thrown away by an operator's or the null reverse-path's word;
// all of it audited. A delivery interrupted between the next hop's answer and
// our commit is repeated with the same delivery id. What it leaves to others:
// where mail goes (delivery), what reports look like (delivery/dsn).
//
// A message's recipients are split into groups that share a destination; a
// group is what is scheduled, attempted and deferred. docs/queue.md tells the
// layout of the records, the states, and what a crash at each point leaves.
package queue
