package table

import (
	"context"
	"strings"
	"testing"
)

// stored is a table of another room that has one value for every key.
type stored string

func (s stored) Name() string                                     { return "query:stored" }
func (s stored) Lookup(context.Context, string) ([]string, error) { return []string{string(s)}, nil }

// TestForeignValues: what a database holds may become a line of a reply, and
// never two.
func TestForeignValues(t *testing.T) {
	t.Parallel()
	for value, good := range map[string]bool{"REJECT go away": true, "REJECT\tgo": true, "REJECT x\r\n250 ok": false, "a\nb": false, "a\x00b": false, "\xff": false} {
		o := &Opener{Foreign: func(string, string) (Table, error) { return stored(value), nil }}
		for _, use := range []Use{{}, {Value: func(v string) ([]string, error) { return []string{v}, nil }}} {
			tab, err := o.Open("query:stored", use)
			if err != nil {
				t.Fatal(err)
			}
			got, err := tab.Lookup(t.Context(), "key")
			if (err == nil) != good || err != nil && (got != nil || strings.Contains(err.Error(), value)) {
				t.Errorf("%q: %q, %v", value, got, err)
			}
		}
	}
}
