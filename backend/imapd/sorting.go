package imapd

import "sync/atomic"

// sorting bounds the memory of all SORT and THREAD commands under way together.
// An eighth of it is for commands with small shares: one who sorts all they have
// does not keep others from sorting a few messages.
type sorting struct {
	limit int64
	taken atomic.Int64
}

// sortingShare is what one command has of it. The command ends it.
type sortingShare struct {
	of     *sorting
	octets int64
}

// errSorting refuses what would take more memory than there is for sorting.
var errSorting = refuse("LIMIT", "Too many messages are being sorted or threaded now")

// take begins a command's share.
func (s *sorting) take(octets int64) (sortingShare, error) {
	share := sortingShare{of: s}
	return share, share.more(octets)
}

// more adds to the share, or refuses and leaves it as it is.
func (h *sortingShare) more(octets int64) error {
	most := h.of.limit
	if h.octets+octets > most/64 {
		most -= most / 8
	}
	if h.of.taken.Add(octets) > most {
		h.of.taken.Add(-octets)
		return errSorting
	}
	h.octets += octets
	return nil
}

// end gives the share back. A second call, and that for no share, do nothing.
func (h *sortingShare) end() {
	if h.octets != 0 {
		h.of.taken.Add(-h.octets)
		h.octets = 0
	}
}

// handOver returns the share, which is the caller's to end now.
func (h *sortingShare) handOver() sortingShare {
	to := *h
	h.octets = 0
	return to
}
