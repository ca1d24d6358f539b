package rspamd

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/postern-mail/postern/mail"
)

// changes collects edits and plays them through on the list of fields, so that
// each counts places as they are by then.
type changes struct {
	fields []mail.Field
	ours   int
	list   []mail.Edit
}

func newChanges(message mail.Message) *changes {
	return &changes{fields: slices.Clone(message.Fields()), ours: message.Ours()}
}

// milter takes what rspamd wants milters to change.
func (c *changes) milter(a *answer) error {
	for _, name := range slices.Sorted(maps.Keys(a.Milter.Remove)) {
		which := slices.Clone(a.Milter.Remove[name])
		slices.SortFunc(which, func(a, b int) int { return b - a })
		for _, n := range which {
			c.remove(name, n)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(a.Milter.Add)) {
		for _, f := range a.Milter.Add[name] {
			if !validName(name) {
				return fmt.Errorf("answer adds a field %.80q", name)
			}
			c.insert(f.order, name, f.value)
		}
	}
	for _, signature := range a.DKIM {
		c.insert(0, "DKIM-Signature", signature)
	}
	return c.envelope(&a.Milter)
}

func (c *changes) envelope(e *edits) error {
	if e.ChangeFrom != "" {
		from, err := parseAddress(e.ChangeFrom)
		if err != nil {
			return err
		}
		c.list = append(c.list, mail.Edit{ReversePath: &from})
	}
	for _, s := range e.AddRcpt {
		to, err := parseAddress(s)
		if err != nil {
			return err
		}
		c.list = append(c.list, mail.Edit{Add: &mail.Recipient{Address: to, Accepted: to}})
	}
	for _, s := range e.DelRcpt {
		to, err := parseAddress(s)
		if err != nil {
			return err
		}
		c.list = append(c.list, mail.Edit{Remove: &to})
	}
	return nil
}

func parseAddress(s string) (mail.Address, error) {
	s = strings.TrimSuffix(strings.TrimPrefix(strings.TrimSpace(s), "<"), ">")
	a, err := mail.ParseAddress(s)
	if err != nil {
		return a, fmt.Errorf("answer: address %.80q: %w", s, err)
	}
	return a, nil
}

// subject puts another subject in the place of the message's.
func (c *changes) subject(text string) {
	for i, f := range c.fields[c.ours:] {
		if !f.Is("Subject") {
			continue
		}
		if text == "" {
			text = "*** SPAM *** " + f.Unfolded()
		}
		at := c.ours + i
		c.fields[at] = field("Subject", text)
		c.list = append(c.list, mail.Edit{Change: &mail.ChangeField{At: at, Field: c.fields[at]}})
		return
	}
	if text == "" {
		text = "*** SPAM ***"
	}
	c.insert(-1, "Subject", text)
}

// insert adds a field at a place below ours; -1 is the end.
func (c *changes) insert(order int, name, value string) {
	at := len(c.fields)
	if order >= 0 {
		at = c.ours + min(order, at-c.ours)
	}
	f := field(name, value)
	c.fields = slices.Insert(c.fields, at, f)
	c.list = append(c.list, mail.Edit{Insert: &mail.InsertField{At: at, Field: f}})
}

// remove deletes the nth field of a name, the nth from the end when n is below
// 0, and all when it is 0.
func (c *changes) remove(name string, n int) {
	var places []int
	for i, f := range c.fields[c.ours:] {
		if f.Is(name) {
			places = append(places, c.ours+i)
		}
	}
	switch {
	case n > 0 && n <= len(places):
		places = places[n-1 : n]
	case n < 0 && -n <= len(places):
		places = places[len(places)+n : len(places)+n+1]
	case n != 0:
		return
	}
	for _, at := range slices.Backward(places) {
		c.fields = slices.Delete(c.fields, at, at+1)
		c.list = append(c.list, mail.Edit{Change: &mail.ChangeField{At: at}})
	}
}

// field makes a field. Lines of its value that would begin another one are
// folded.
func field(name, value string) mail.Field {
	lines := strings.Split(strings.NewReplacer("\r\n", "\n", "\r", "\n", "\x00", "").Replace(value), "\n")
	var b strings.Builder
	b.WriteString(name + ": " + strings.TrimLeft(lines[0], " \t"))
	for _, line := range lines[1:] {
		if strings.Trim(line, " \t") == "" {
			continue
		}
		b.WriteString("\r\n\t" + strings.TrimLeft(line, " \t"))
	}
	return mail.Field(b.String())
}

func validName(name string) bool {
	return name != "" && len(name) < 200 && strings.IndexFunc(name, func(c rune) bool { return c <= ' ' || c >= 0x7f || c == ':' }) < 0
}
