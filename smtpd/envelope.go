package smtpd

import (
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
	"github.com/postern-mail/postern/store"
)

// indexedFrom is the number of recipients from which on repeats are looked
// for in a map.
const indexedFrom = 16

// maxSetOctets bounds what a set takes in the queue's record of a message,
// which is one batch of the store.
const maxSetOctets = 3 * store.MaxBatchOctets / 4

// recipientSet collects final recipients, each once.
type recipientSet struct {
	all    []mail.Recipient
	octets int
	index  map[destination]int
}

// destination is what makes two recipients the same delivery.
type destination struct {
	address mail.Address
	route   mail.Route
}

func destinationOf(r mail.Recipient) destination { return destination{r.Address, r.Route} }

// add takes over recipients that belong to one RCPT. Who is there already
// gets the mail once; what is reported is what either asked for. Nothing is
// added when the set would hold more than limit: when it could hold them in
// another transaction the client is asked to begin one.
func (s *recipientSet) add(recipients []mail.Recipient, limit int) error {
	fresh, octets := s.measure(recipients)
	switch {
	case len(s.all) == 0 && (fresh > limit || octets > maxSetOctets), len(recipients) > limit:
		return status.Errorf(status.AddressLoop, "stands for %d recipients, more than %d or too long", len(recipients), limit)
	case len(s.all)+fresh > limit, s.octets+octets > maxSetOctets:
		return status.Errorf(status.TooManyRecipients, "%d recipients and %d more, above %d or too long", len(s.all), fresh, limit)
	}
	s.octets += octets
	for _, r := range recipients {
		if at, ok := s.find(r); ok {
			s.all[at].Notify = either(s.all[at].Notify, r.Notify)
			continue
		}
		s.all = append(s.all, r)
		if s.index != nil {
			s.index[destinationOf(r)] = len(s.all) - 1
		} else if len(s.all) >= indexedFrom {
			s.reindex()
		}
	}
	return nil
}

// measure returns how many of the recipients are not in the set yet, and what
// they take.
func (s *recipientSet) measure(recipients []mail.Recipient) (fresh, octets int) {
	for _, r := range recipients {
		if _, ok := s.find(r); ok {
			continue
		}
		fresh++
		octets += len(r.Address.Local) + len(r.Address.Domain) + len(r.Original) + len(r.Accepted.Local) +
			len(r.Accepted.Domain) + len(r.Route.Transport) + len(r.Route.NextHop) + recordOverhead
	}
	return fresh, octets
}

// recordOverhead is what a recipient takes beside its strings, with its share
// of the record it is in.
const recordOverhead = 24

func (s *recipientSet) find(r mail.Recipient) (at int, ok bool) {
	want := destinationOf(r)
	if s.index != nil {
		at, ok = s.index[want]
		return at, ok
	}
	for i := range s.all {
		if destinationOf(s.all[i]) == want {
			return i, true
		}
	}
	return 0, false
}

func (s *recipientSet) reindex() {
	s.index = make(map[destination]int, 4*len(s.all))
	for i := range s.all {
		s.index[destinationOf(s.all[i])] = i
	}
}

// either joins what two RCPTs asked to be told. Not given means failures and
// delays; only when both want nothing is nothing told.
func either(a, b mail.Notify) mail.Notify {
	if a == b {
		return a
	}
	joined := events(a) | events(b)
	if joined == 0 {
		return mail.NotifyNever
	}
	return joined
}

func events(n mail.Notify) mail.Notify {
	if n == 0 {
		return mail.NotifyFailure | mail.NotifyDelay
	}
	return n &^ mail.NotifyNever
}
