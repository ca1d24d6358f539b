package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"
)

// The people of the cases of one large mailbox.
const (
	reader   = 0 // whose INBOX is the large one
	appender = 1 // the first of those whose mailboxes are appended to
)

// fillBatch is how many messages one command adds to the large mailbox.
const fillBatch = 50

// startMailbox brings up the systems and fills a mailbox of each.
func startMailbox(ctx context.Context, o options, dir string) (systems []*system, missing string, err error) {
	systems, missing, err = start(ctx, o, dir)
	for _, s := range systems {
		if err == nil {
			err = fill(ctx, s, o.mailbox)
		}
	}
	return systems, missing, err
}

// fill gives the reader's INBOX so many messages.
func fill(ctx context.Context, s *system, n int) error {
	c, err := dialBulk(s.imap, reader)
	if err != nil {
		return err
	}
	for at := 0; at < n; at += fillBatch {
		var texts [][]byte
		for i := at; i < min(n, at+fillBatch); i++ {
			texts = append(texts, letter(i))
		}
		if err := errors.Join(ctx.Err(), c.add("INBOX", texts)); err != nil {
			_ = c.close() // the other error tells more
			return fmt.Errorf("%s: fill the mailbox: %w", s.name, err)
		}
	}
	return c.close()
}

// mailboxCases are operations of one client on a mailbox of 50 000 messages.
var mailboxCases = []benchCase{
	{name: "SELECT", measure: inARow(selectsInARow, reselect)},
	{name: "FETCH 1:* (UID FLAGS)", measure: operation(say("FETCH 1:* (UID FLAGS)"))},
	{name: "FETCH 1:* (ENVELOPE)", measure: operation(say("FETCH 1:* (ENVELOPE)"))},
	{name: "FETCH 1:*, a client's header fields", measure: operation(say("FETCH 1:* (UID FLAGS INTERNALDATE RFC822.SIZE BODY.PEEK[HEADER.FIELDS (DATE FROM TO CC SUBJECT MESSAGE-ID REFERENCES IN-REPLY-TO CONTENT-TYPE)])"))},
	{name: "FETCH of 1000 bodies", measure: operation(middle("FETCH %d:%d (BODY.PEEK[])", 1000))},
	{name: "FETCH of 1000 BODYSTRUCTUREs", measure: operation(middle("FETCH %d:%d (BODYSTRUCTURE)", 1000))},
	{name: "SEARCH HEADER SUBJECT", measure: operation(say("UID SEARCH HEADER SUBJECT " + needleSubject))},
	{name: "SEARCH TEXT", measure: operation(say("UID SEARCH TEXT " + needleBody))},
	{name: "SEARCH UNSEEN", measure: operation(say("UID SEARCH UNSEEN"))},
	{name: "SEARCH SINCE SMALLER", measure: operation(say("UID SEARCH SINCE 1-Jun-2024 SMALLER 20000"))},
	{name: "SORT (SUBJECT)", measure: operation(say("UID SORT (SUBJECT) UTF-8 ALL"))},
	{name: "SORT (ARRIVAL)", measure: operation(say("UID SORT (ARRIVAL) UTF-8 ALL"))},
	{name: "THREAD REFERENCES", measure: operation(say("UID THREAD REFERENCES UTF-8 ALL"))},
	{name: "STORE 1:* +FLAGS.SILENT", measure: operation(say(`STORE 1:* +FLAGS.SILENT (\Flagged)`), `STORE 1:* -FLAGS.SILENT (\Flagged)`)},
	{name: "STORE 1:* +FLAGS, told", measure: operation(say(`STORE 1:* +FLAGS (\Answered)`), `STORE 1:* -FLAGS.SILENT (\Answered)`)},
	{name: "COPY of 10 000", measure: operation(middle("COPY %d:%d Copies", 10_000), "DELETE Copies", "CREATE Copies")},
	{name: "QRESYNC after 100 changes", measure: resync},
	{name: "APPEND 5 KB, 1 connection", measure: appends(1)},
	{name: "APPEND 5 KB, 16 connections", measure: appends(16)},
	{name: "change told by IDLE", measure: told},
	{name: "POP3 RETR, 1 connection", measure: retrievals(1)},
	{name: "POP3 RETR, 4 connections", measure: retrievals(4)},
	{name: "1000 idle connections", measure: idlers(1000), once: true},
}

// deed is one operation on the large mailbox, which is selected.
type deed func(c *bulkClient, messages int) error

func say(command string) deed {
	return func(c *bulkClient, _ int) error {
		_, err := c.do(command, "")
		return err
	}
}

// middle works on so many messages from the middle of the mailbox.
func middle(format string, count int) deed {
	return func(c *bulkClient, messages int) error {
		from := max(1, messages/2-count/2)
		_, err := c.do(fmt.Sprintf(format, from, min(messages, from+count-1)), "")
		return err
	}
}

func reselect(c *bulkClient, _ int) error {
	_, err := c.do("SELECT INBOX", "")
	return err
}

// operation measures one operation at a time for as long as a turn lasts,
// though at least once. What is to be undone is undone after each, unmeasured.
func operation(do deed, undo ...string) measure { return operationOf(1, do, undo...) }

// selectsInARow is how many SELECTs are measured as one. Between measurements
// the driver reads /proc, and a server that went to sleep meanwhile takes longer
// to wake than to select a mailbox.
const selectsInARow = 50

// inARow measures one operation so many times in a row, and tells what one took.
func inARow(n int, do deed) measure {
	return operationOf(n, func(c *bulkClient, messages int) error {
		for range n {
			if err := do(c, messages); err != nil {
				return err
			}
		}
		return nil
	})
}

// operationOf is operation where do does it so many times.
func operationOf(times int, do deed, undo ...string) measure {
	return func(ctx context.Context, s *system, o options) (f figures, err error) {
		c, messages, err := openLarge(s)
		if err != nil {
			return f, err
		}
		defer func() { err = errors.Join(err, c.close()) }()
		reset := func() (err error) {
			for _, command := range undo {
				if _, e := c.do(command, ""); e != nil && !strings.HasPrefix(command, "DELETE") {
					err = errors.Join(err, e)
				}
			}
			return err
		}
		if err := reset(); err != nil {
			return f, err
		}
		return f, f.repeated(ctx, s, o, times, func() error { return do(c, messages) }, reset)
	}
}

// repeated measures what is done again and again until the turn is over. do does
// it so many times.
func (f *figures) repeated(ctx context.Context, s *system, o options, times int, do, between func() error) error {
	var took []time.Duration
	var busy time.Duration
	var used time.Duration
	for until := time.Now().Add(o.load); len(took) == 0 || time.Now().Before(until); {
		before, err := cpuTime(s.roots())
		if err != nil {
			return err
		}
		start := time.Now()
		if err := errors.Join(ctx.Err(), do()); err != nil {
			return err
		}
		passed := time.Since(start)
		took = append(took, passed/time.Duration(times))
		busy += passed
		after, err := cpuTime(s.roots())
		if err != nil {
			return err
		}
		used += after - before
		if err := between(); err != nil {
			return err
		}
	}
	f.messages = times * len(took)
	n := float64(f.messages)
	f.set(ratePerSecond, n/busy.Seconds())
	f.set(cpuPerMessage, milliseconds(used)/n)
	f.percentiles(took)
	return nil
}

// openLarge selects the large mailbox.
func openLarge(s *system) (c *bulkClient, messages int, err error) {
	if c, err = dialBulk(s.imap, reader); err != nil {
		return nil, 0, err
	}
	if messages, err = c.selectInbox(); err == nil && messages == 0 {
		err = errors.New("the large mailbox is empty")
	}
	if err != nil {
		_ = c.close() // the other error tells more
		return nil, 0, err
	}
	return c, messages, nil
}

// resync measures the return of a client that was away while 100 messages
// changed (RFC 7162): ENABLE and SELECT.
func resync(ctx context.Context, s *system, o options) (f figures, err error) {
	c, messages, err := openLarge(s)
	if err != nil {
		return f, err
	}
	defer func() { err = errors.Join(err, c.close()) }()
	var uidValidity, modSeq string
	remember := func() error {
		for _, mark := range []struct {
			code string
			into *string
		}{{"UIDVALIDITY", &uidValidity}, {"HIGHESTMODSEQ", &modSeq}} {
			answer, err := c.do("SELECT INBOX", "* OK ["+mark.code)
			if err != nil {
				return err
			}
			_, rest, _ := strings.Cut(answer, mark.code+" ")
			*mark.into, _, _ = strings.Cut(rest, "]")
		}
		if uidValidity == "" || modSeq == "" {
			return errors.New("SELECT tells no HIGHESTMODSEQ")
		}
		return nil
	}
	if _, err := c.do("ENABLE QRESYNC", ""); err != nil {
		return f, err
	}
	flag := "+"
	change := func() error {
		if err := remember(); err != nil {
			return err
		}
		err := middle("STORE %d:%d "+flag+`FLAGS.SILENT (Changed)`, 100)(c, messages)
		flag = map[string]string{"+": "-", "-": "+"}[flag]
		return err
	}
	if err := change(); err != nil {
		return f, err
	}
	return f, f.repeated(ctx, s, o, 1, func() error {
		_, err := c.do("SELECT INBOX (QRESYNC ("+uidValidity+" "+modSeq+"))", "")
		return err
	}, change)
}

// appends measures how many messages a second clients put into mailboxes of
// their own, one with each command.
func appends(connections int) measure {
	return func(ctx context.Context, s *system, o options) (f figures, err error) {
		before, err := cpuTime(s.roots())
		if err != nil {
			return f, err
		}
		start := time.Now()
		took, err := together(connections, func(n int) (took []time.Duration, err error) {
			c, err := dialBulk(s.imap, appender+n)
			if err != nil {
				return nil, err
			}
			for until := time.Now().Add(o.load); err == nil && time.Now().Before(until); {
				begun := time.Now()
				if err = errors.Join(ctx.Err(), c.add("INBOX", [][]byte{letter(int(sent.Add(1)))})); err == nil {
					took = append(took, time.Since(begun))
				}
			}
			return took, errors.Join(err, c.close())
		})
		all := time.Since(start)
		if err != nil {
			return f, err
		}
		after, err := cpuTime(s.roots())
		f.messages = len(took)
		f.set(ratePerSecond, float64(len(took))/all.Seconds())
		f.set(cpuPerMessage, milliseconds(after-before)/float64(len(took)))
		f.percentiles(took)
		return f, err
	}
}

// told measures how long it takes until an idle client knows of a flag that
// another one changed.
func told(ctx context.Context, s *system, o options) (f figures, err error) {
	watching, messages, err := openLarge(s)
	if err != nil {
		return f, err
	}
	defer func() { err = errors.Join(err, watching.close()) }()
	changing, _, err := openLarge(s)
	if err != nil {
		return f, err
	}
	defer func() { err = errors.Join(err, changing.close()) }()
	var took []time.Duration
	for i := range o.singles {
		eye := idleObserver{imapClient: watching.imapClient}
		if err := errors.Join(ctx.Err(), eye.arm()); err != nil {
			return f, err
		}
		command := fmt.Sprintf("STORE %d %sFLAGS.SILENT (Seen%d)", messages, []string{"+", "-"}[i%2], i/2)
		start := time.Now()
		tag, err := changing.begin(command)
		if err != nil {
			return f, err
		}
		want := fmt.Sprintf("* %d FETCH", messages)
		for said := ""; !strings.HasPrefix(said, want); {
			line, err := eye.line()
			if err != nil {
				return f, err
			}
			said = string(line)
		}
		took = append(took, time.Since(start))
		if _, err := changing.finish(tag, ""); err != nil {
			return f, err
		}
		if err := eye.disarm(); err != nil {
			return f, err
		}
	}
	f.messages = len(took)
	f.percentiles(took)
	return f, nil
}

// idlers measures the memory of connections that wait in IDLE.
func idlers(connections int) measure {
	return func(ctx context.Context, s *system, _ options) (f figures, err error) {
		time.Sleep(settle)
		before, err := memory(s.roots())
		if err != nil {
			return f, err
		}
		clients := make([]*imapClient, connections)
		defer func() {
			for _, c := range clients {
				if c != nil {
					_ = c.conn.Close() // the figures are taken
				}
			}
		}()
		var next atomic.Int64
		if _, err := together(8, func(int) ([]time.Duration, error) {
			for n := int(next.Add(1)) - 1; n < connections && ctx.Err() == nil; n = int(next.Add(1)) - 1 {
				c, err := dialIMAP(s.imap, n%users)
				if err != nil {
					return nil, err
				}
				clients[n] = c
				if _, err := c.selectInbox(); err != nil {
					return nil, err
				}
				if err := (&idleObserver{imapClient: c}).arm(); err != nil {
					return nil, err
				}
			}
			return nil, ctx.Err()
		}); err != nil {
			return f, err
		}
		time.Sleep(10 * settle)
		after, err := memory(s.roots())
		f.messages = connections
		f.set(kilobytesEach, float64(after-before)/1000/float64(connections))
		return f, err
	}
}
