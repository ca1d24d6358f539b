package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/queue"
)

// replyCat writes the parts of a message that were asked for, all when none
// was.
func (s *server) replyCat(ctx context.Context, args url.Values, out io.Writer) error {
	id := queueID(args.Get("id"))
	envelope, header, body := args.Get("envelope") == "true", args.Get("header") == "true", args.Get("body") == "true"
	if !envelope && !header && !body {
		envelope, header, body = true, true, true
	}
	if envelope {
		m, err := s.readable(ctx, id)
		if err != nil {
			return err
		}
		if err := printEnvelope(out, m); err != nil {
			return err
		}
	}
	if !header && !body {
		return nil
	}
	content, err := s.queue.Content(ctx, id)
	if err != nil {
		return err
	}
	defer func() { _ = content.Close() }() // only read
	if envelope {
		fmt.Fprintln(out)
	}
	return copyParts(out, content, header, body)
}

// readable returns a message that is not damaged.
func (s *server) readable(ctx context.Context, id mail.QueueID) (queue.Message, error) {
	m, err := s.queue.Show(ctx, id)
	if err == nil && m.State == queue.StateDamaged {
		err = fmt.Errorf("%s is damaged: %s", m.ID, m.Damage)
	}
	return m, err
}

// copyParts copies the header section of a message, its body, or both with the
// empty line between them.
func copyParts(out io.Writer, content io.Reader, header, body bool) error {
	in := bufio.NewReader(content)
	for lineBegins := true; ; {
		piece, err := in.ReadSlice('\n')
		end := lineBegins && len(bytes.TrimRight(piece, "\r\n")) == 0
		if header && (!end || body) {
			if _, err := out.Write(piece); err != nil {
				return err
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil && !errors.Is(err, bufio.ErrBufferFull):
			return err
		case end && !body:
			return nil
		case end:
			_, err := io.Copy(out, in)
			return err
		}
		lineBegins = err == nil
	}
}

// shapeLimits are the ages, in minutes, at which the columns of a shape end;
// there is one more for what is older.
var shapeLimits = []int{5, 10, 20, 40, 80, 160, 320, 640, 1280}

// shapeRow counts what waits for one domain.
type shapeRow struct {
	Name   string `json:"name"`
	Total  int    `json:"total"`
	Counts []int  `json:"counts"` // by age
}

func newShapeRow(name string) *shapeRow {
	return &shapeRow{Name: name, Counts: make([]int, len(shapeLimits)+1)}
}

func (r *shapeRow) add(age time.Duration) {
	column := 0
	for column < len(shapeLimits) && age >= time.Duration(shapeLimits[column])*time.Minute {
		column++
	}
	r.Total++
	r.Counts[column]++
}

// shape tells how what waits is spread over domains and ages.
type shape struct {
	total *shapeRow
	rows  map[string]*shapeRow
}

func (s *shape) add(name string, age time.Duration) {
	row := s.rows[name]
	if row == nil {
		row = newShapeRow(name)
		s.rows[name] = row
	}
	row.add(age)
	s.total.add(age)
}

// shapeKeys names what a message counts under: once for each recipient who
// still waits, or once for its sender.
var shapeKeys = map[string]func(queue.Message) []string{
	"recipient": func(m queue.Message) []string {
		return eachWaiting(m, func(r queue.Recipient) string { return string(r.Address.Domain) })
	},
	"destination": func(m queue.Message) []string {
		return eachWaiting(m, func(r queue.Recipient) string { return nextHop(r.Destination) })
	},
	"sender": func(m queue.Message) []string {
		// Reports count under the name they bear.
		return []string{cmp.Or(string(m.Envelope.ReversePath.Domain), "MAILER-DAEMON")}
	},
}

func eachWaiting(m queue.Message, key func(queue.Recipient) string) []string {
	var keys []string
	for _, r := range m.Recipients {
		if !r.Done {
			keys = append(keys, strings.ToLower(key(r)))
		}
	}
	return keys
}

func (s *server) replyShape(ctx context.Context, args url.Values, out io.Writer) error {
	sel, err := selectionOf(args)
	if err != nil {
		return err
	}
	by := cmp.Or(args.Get("by"), "recipient")
	keys := shapeKeys[by]
	if keys == nil {
		return fmt.Errorf("--by is recipient, sender or destination, not %q", by)
	}
	found := shape{total: newShapeRow("TOTAL"), rows: make(map[string]*shapeRow)}
	now := time.Now()
	for m, err := range s.selected(ctx, sel) {
		if err != nil {
			return err
		}
		if m.State == queue.StateDamaged {
			continue
		}
		for _, key := range keys(m) {
			found.add(key, now.Sub(m.Arrived))
		}
	}
	return found.print(out, wantsJSON(args))
}

// print writes the total, then the rows, fullest first.
func (s *shape) print(out io.Writer, asJSON bool) error {
	rows := []*shapeRow{s.total}
	for _, row := range s.rows {
		rows = append(rows, row)
	}
	slices.SortFunc(rows[1:], func(a, b *shapeRow) int { return cmp.Or(b.Total-a.Total, strings.Compare(a.Name, b.Name)) })
	if asJSON {
		encoder := json.NewEncoder(out)
		for _, row := range rows {
			if err := encoder.Encode(row); err != nil {
				return err
			}
		}
		return nil
	}
	table := tabwriter.NewWriter(out, 0, 8, 1, ' ', tabwriter.AlignRight)
	fmt.Fprint(table, "\tT\t")
	for _, limit := range shapeLimits {
		fmt.Fprintf(table, "%d\t", limit)
	}
	fmt.Fprintf(table, "%d+\t\n", shapeLimits[len(shapeLimits)-1])
	for _, row := range rows {
		fmt.Fprintf(table, "%s\t%d\t", row.Name, row.Total)
		for _, n := range row.Counts {
			fmt.Fprintf(table, "%d\t", n)
		}
		fmt.Fprintln(table)
	}
	return table.Flush()
}
