package link

// weights are the shares of the classes in the connection while all have
// something to send.
var weights = [classes]uint64{Interactive: 64, Mail: 8, Bulk: 1}

// shares chooses whose record goes next: start-time fair queuing. A class that
// had nothing to send begins where the others are, so it is served at once and
// owes nothing; one that always has something gets its share.
type shares struct {
	now    uint64
	finish [classes]uint64
	busy   [classes]bool
}

// next chooses among the classes that have something to send; false for none.
func (s *shares) next(has [classes]bool) (Class, bool) {
	best, found := Class(0), false
	for c := range Class(classes) {
		if !has[c] {
			s.busy[c] = false
			continue
		}
		if !s.busy[c] {
			s.busy[c] = true
			s.finish[c] = max(s.finish[c], s.now)
		}
		if !found || s.finish[c] < s.finish[best] {
			best, found = c, true
		}
	}
	if found {
		s.now = s.finish[best]
	}
	return best, found
}

// served counts what was sent of a class.
func (s *shares) served(c Class, octets int) {
	s.finish[c] += uint64(octets) * weights[Interactive] / weights[c]
}
