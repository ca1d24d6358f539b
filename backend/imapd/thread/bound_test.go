package thread

import "testing"

// Nobody can have a mailbox threaded at the price of a node for each of millions
// of Message-IDs that no message has; the nearest ancestors count the longest.
func TestManyReferences(t *testing.T) {
	t.Parallel()
	const messages, each = maxLinks / 300, 400
	all := make([]Message, messages)
	next := uint64(1 << 40)
	for i := range all {
		all[i].ID = uint64(i + 1)
		all[i].References = make([]uint64, each)
		for k := range all[i].References {
			next++
			all[i].References[k] = next
		}
		if i > 0 {
			all[i].References[each-1] = uint64(i) // the message before
		}
	}
	f := References(all)
	if n := len(f.first); n > messages+maxLinks {
		t.Errorf("%d nodes for %d messages", n, messages)
	}
	if f.Threads() != 1 {
		t.Errorf("%d threads, want one chain", f.Threads())
	}
}

func TestNearest(t *testing.T) {
	t.Parallel()
	with := func(n ...int) (all []Message) {
		for _, n := range n {
			all = append(all, Message{References: make([]uint64, n)})
		}
		return all
	}
	for _, tt := range []struct {
		messages []Message
		most     int
		want     int
	}{
		{nil, 10, 0}, {with(3, 4), 7, 4}, {with(3, 4), 6, 3}, {with(1, 500, 500), 101, 50}, {with(1, 1, 1), 2, 1},
	} {
		if got := nearest(tt.messages, tt.most); got != tt.want {
			t.Errorf("%d messages, %d links: %d each, want %d", len(tt.messages), tt.most, got, tt.want)
		}
	}
}
