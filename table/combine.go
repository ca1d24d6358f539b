package table

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"unicode/utf8"

	"golang.org/x/sync/errgroup"
)

// constant is a table whose content stands in its name: inline:{key=value},
// static:value and fail:reason.
type constant struct {
	name string
	content
	whole bool
}

// Name implements Table.
func (c *constant) Name() string { return c.name }

// Lookup implements Table.
func (c *constant) Lookup(_ context.Context, key string) ([]string, error) { return c.find(key) }

// Run implements Opened.
func (c *constant) Run(ctx context.Context) error { <-ctx.Done(); return nil }

// Generation implements Opened.
func (c *constant) Generation() uint64 { return 1 }

// Changed implements Opened.
func (c *constant) Changed() <-chan struct{} { return nil }

// Whole implements Opened.
func (c *constant) Whole() bool { return c.whole }

// always answers every key alike.
type always struct {
	values []string
	err    error
}

func (a always) find(string) ([]string, error) { return a.values, a.err }

// parseInline reads "{key=value, {key = value with a, comma}}".
func parseInline(rest string, use Use) (text, error) {
	n := &notes{file: "inline"}
	t, at := make(text), make(map[string]int)
	words, err := splitWords(rest)
	if err != nil {
		return nil, err
	}
	for i, word := range words {
		key, value, found := strings.Cut(word, "=")
		if !found {
			return nil, fmt.Errorf("%q is not key=value", word)
		}
		t.add(n, at, i+1, strings.TrimSpace(key), strings.TrimSpace(value), use)
	}
	if len(n.mistakes) > 0 {
		return nil, n.mistakes[0].Err
	}
	if len(t) == 0 {
		return nil, errors.New("no entries; write inline:{key=value, ...}")
	}
	return t, nil
}

var errBraces = errors.New("the braces do not match")

// splitWords takes the braces off a list, and divides it at commas and white
// space outside of braces. A word in braces is what stands in them.
func splitWords(list string) ([]string, error) {
	list, closed := strings.CutSuffix(strings.TrimSpace(list), "}")
	list, opened := strings.CutPrefix(list, "{")
	if !opened || !closed {
		return nil, fmt.Errorf("%w: write {one, two}", errBraces)
	}
	var words []string
	depth, begin := 0, 0
	take := func(end int) {
		word := strings.TrimSpace(list[begin:end])
		if inner, ok := strings.CutPrefix(word, "{"); ok {
			word = strings.TrimSpace(strings.TrimSuffix(inner, "}"))
		}
		if word != "" {
			words = append(words, word)
		}
		begin = end + 1
	}
	for i := 0; i < len(list); i++ {
		switch c := list[i]; {
		case c == '{':
			depth++
		case c == '}':
			depth--
		case depth == 0 && (c == ',' || c == ' ' || c == '\t'):
			take(i)
		}
		if depth < 0 {
			return nil, errBraces
		}
	}
	if depth > 0 {
		return nil, errBraces
	}
	take(len(list))
	return words, nil
}

// parts are the tables a table is made of.
type parts struct {
	name   string
	tables []Opened

	mu   sync.Mutex
	next chan struct{} // nil when nobody waits for a change
}

// Name implements Table.
func (p *parts) Name() string { return p.name }

// Run implements Opened.
func (p *parts) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, t := range p.tables {
		g.Go(func() error { return t.Run(ctx) })
	}
	return g.Wait()
}

// Generation implements Opened.
func (p *parts) Generation() uint64 {
	sum := uint64(0)
	for _, t := range p.tables {
		sum += t.Generation()
	}
	return sum
}

// Changed implements Opened. One goroutine for each part waits for the first.
func (p *parts) Changed() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.next != nil {
		return p.next
	}
	next := make(chan struct{})
	p.next = next
	end := sync.OnceFunc(func() {
		p.mu.Lock()
		p.next = nil
		p.mu.Unlock()
		close(next)
	})
	for _, t := range p.tables {
		if changed := t.Changed(); changed != nil {
			go func() {
				select {
				case <-changed:
					end()
				case <-next:
				}
			}()
		}
	}
	return next
}

// Whole implements Opened.
func (p *parts) Whole() bool {
	for _, t := range p.tables {
		if t.Whole() {
			return true
		}
	}
	return false
}

// union answers what all of its tables say, one after the other.
type union struct{ *parts }

// Lookup implements Table.
func (u *union) Lookup(ctx context.Context, key string) ([]string, error) {
	var all []string
	for _, t := range u.tables {
		values, err := t.Lookup(ctx, key)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", t.Name(), err)
		}
		all = append(all, values...)
	}
	return all, nil
}

// pipe asks each table for what the one before said.
type pipe struct{ *parts }

// Lookup implements Table.
func (p *pipe) Lookup(ctx context.Context, key string) ([]string, error) {
	values := []string{key}
	for _, t := range p.tables {
		var err error
		if values, err = t.Lookup(ctx, Join(values)); err != nil {
			return nil, fmt.Errorf("%s: %w", t.Name(), err)
		}
		if len(values) == 0 {
			return nil, nil
		}
	}
	return values, nil
}

// Whole implements Opened: the key goes to the first table only.
func (p *pipe) Whole() bool { return p.tables[0].Whole() }

var errControlValue = errors.New("it holds control characters or is not UTF-8; mend the entry")

// foreign is a table of another room, whose values are made into what the use
// takes.
type foreign struct {
	Table
	use Use
}

// Lookup implements Table.
func (f *foreign) Lookup(ctx context.Context, key string) ([]string, error) {
	found, err := f.Table.Lookup(ctx, key)
	if err != nil || len(found) == 0 {
		return nil, err
	}
	for _, value := range found { // as files have it: it may become a line of a reply
		if !utf8.ValidString(value) || hasControl(value) {
			return nil, fmt.Errorf("%s: what is stored for %q: %w", f.Table.Name(), key, errControlValue)
		}
	}
	if f.use.Value == nil {
		return found, nil
	}
	values, err := f.use.values(Join(found))
	if err != nil {
		return nil, fmt.Errorf("%s stands for %q: %w", key, Join(found), err)
	}
	return values, nil
}

// Run implements Opened.
func (f *foreign) Run(ctx context.Context) error {
	if r, ok := f.Table.(interface{ Run(context.Context) error }); ok {
		return r.Run(ctx)
	}
	<-ctx.Done()
	return nil
}

// Generation implements Opened.
func (f *foreign) Generation() uint64 {
	if g, ok := f.Table.(interface{ Generation() uint64 }); ok {
		return g.Generation()
	}
	return 0
}

// Changed implements Opened.
func (f *foreign) Changed() <-chan struct{} {
	if n, ok := f.Table.(interface{ Changed() <-chan struct{} }); ok {
		return n.Changed()
	}
	return nil
}

// Whole implements Opened.
func (f *foreign) Whole() bool { return IsWhole(f.Table) }
