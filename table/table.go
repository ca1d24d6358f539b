package table

import (
	"context"
	"errors"
	"strconv"
	"strings"
)

// Table maps a key to values. It may be used concurrently.
type Table interface {
	// Name tells the table in logs, errors and explanations.
	Name() string
	// Lookup returns what key stands for, which the caller must not change;
	// nothing when the table has not got it. An error means that nobody knows.
	// Whoever asks does not fold the key.
	Lookup(ctx context.Context, key string) ([]string, error)
}

// Opened is a table that an Opener made.
type Opened interface {
	Table
	// Run watches what the table is read from, until ctx ends.
	Run(ctx context.Context) error
	// Generation grows whenever the content changes as a whole, and the channel
	// that Changed returns is closed at the next change after the call.
	Generation() uint64
	Changed() <-chan struct{}
	// Whole reports that the table is asked about whole keys only, in the
	// letter case they have, as patterns are: never about a domain alone or a
	// local-part alone.
	Whole() bool
}

// IsWhole reports whether a table is asked about whole keys only.
func IsWhole(t Table) bool {
	w, ok := t.(interface{ Whole() bool })
	return ok && w.Whole()
}

// Join writes values as one text, as Postfix does.
func Join(values []string) string {
	if len(values) == 1 {
		return values[0]
	}
	return strings.Join(values, ",")
}

// SplitList divides a text at commas outside of quoted strings, and drops what
// is empty.
func SplitList(text string) []string {
	var list []string
	begin, quoted := 0, false
	take := func(part string) {
		if part = strings.TrimSpace(part); part != "" {
			list = append(list, part)
		}
	}
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case !quoted && c == ',':
			take(text[begin:i])
			begin = i + 1
		}
	}
	take(text[begin:])
	return list
}

// Use says what the entries of a table mean to whoever asks it. The zero Use
// takes any key and any value.
type Use struct {
	// Key refuses a key that no lookup would ever ask for. It is not asked
	// about patterns and networks.
	Key func(key string) error
	// Value makes the values out of what stands behind a key, and refuses what
	// means nothing. nil takes it as it is, as one value. Of patterns it gets
	// what is left when the references were filled in.
	Value func(text string) ([]string, error)
	// NoReferences refuses values that take in parts of the key ($1): where
	// the key comes from a stranger and the value is a command to us, a next
	// hop for instance.
	NoReferences bool
	// Secret keeps keys and values out of what is said of mistakes.
	Secret bool
}

// show returns a key as mistakes may show it.
func (u Use) show(key string) string {
	if u.Secret {
		return "the key"
	}
	return strconv.Quote(key)
}

func (u Use) values(text string) ([]string, error) {
	if text == "" {
		return nil, errNoValue
	}
	if u.Value == nil {
		return []string{text}, nil
	}
	return u.Value(text)
}

var errNoValue = errors.New("the key stands for nothing")
