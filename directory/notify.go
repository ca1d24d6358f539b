package directory

import (
	"sync"
	"time"
)

// changes tells of changes of any of a directory's sources. One goroutine for
// each source waits, however many ask; it ends with the next change.
type changes struct {
	mu   sync.Mutex
	next chan struct{} // nil when nobody waits
}

// Changed implements Notifier: it tells of a change of the searcher or of a
// table. A directory whose searcher cannot tell may have changed whenever its
// answers are asked anew, after CacheConfig.PositiveTTL.
func (d *Directory) Changed() <-chan struct{} {
	var sources []<-chan struct{}
	told := false
	if n, ok := d.searcher.(Notifier); ok {
		sources, told = append(sources, n.Changed()), true
	}
	for _, table := range d.tables {
		if n, ok := table.(Notifier); ok {
			sources = append(sources, n.Changed())
		}
	}
	if told && len(sources) == 1 {
		return sources[0]
	}
	return d.changes.first(sources, told, d.cfg.Cache.PositiveTTL)
}

// first returns a channel that is closed with the first of sources, or after a
// while unless told.
func (c *changes) first(sources []<-chan struct{}, told bool, after time.Duration) <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.next != nil {
		return c.next
	}
	next := make(chan struct{})
	c.next = next
	end := sync.OnceFunc(func() {
		c.mu.Lock()
		c.next = nil
		c.mu.Unlock()
		close(next)
	})
	if !told {
		time.AfterFunc(max(after, time.Second), end)
	}
	for _, source := range sources {
		go func() {
			select {
			case <-source:
				end()
			case <-next:
			}
		}()
	}
	return next
}

// Where implements Explainer.
func (d *Directory) Where() string { return whereOf(d.searcher) }

// whereOf tells where a searcher's answers come from; "" when it cannot.
func whereOf(s Searcher) string {
	if x, ok := s.(Explainer); ok {
		return x.Where()
	}
	return ""
}
