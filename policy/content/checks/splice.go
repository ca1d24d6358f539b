package checks

import (
	"bytes"
	"io"

	"github.com/postern-mail/postern/status"
)

// The bounds of what one stage changes in a body.
const (
	maxSplices       = 10000
	maxSplicedOctets = 4 << 20
)

// splice puts text in the place of octets of a body.
type splice struct {
	from, to int64
	text     string
}

// splices are changes of a body, in order and apart from each other.
type splices struct {
	all    []splice
	octets int
}

func (s *splices) add(from, to int64, text string) error {
	if s.octets += len(text); len(s.all) >= maxSplices || s.octets > maxSplicedOctets {
		return status.Errorf(status.Unknown, "more than %d changes of one body, or %d octets", maxSplices, maxSplicedOctets)
	}
	s.all = append(s.all, splice{from, to, text})
	return nil
}

// apply returns the body as it is with the changes. NUL and line ends that a text
// has come out as content.Canonical makes them.
func (s *splices) apply(body io.ReadSeeker) io.Reader { return &spliced{body: body, left: s.all} }

// spliced reads a body with changes.
type spliced struct {
	body io.ReadSeeker
	left []splice
	at   int64 // in body
	text *bytes.Reader
}

// Read implements io.Reader.
func (s *spliced) Read(p []byte) (int, error) {
	for {
		if s.text != nil {
			n, err := s.text.Read(p)
			if n > 0 || len(p) == 0 {
				return n, nil
			}
			if err == io.EOF {
				s.text = nil
			}
			continue
		}
		if len(s.left) == 0 {
			return s.body.Read(p)
		}
		next := &s.left[0]
		if s.at < next.from {
			n, err := s.body.Read(p[:min(int64(len(p)), next.from-s.at)])
			s.at += int64(n)
			return n, err
		}
		if _, err := s.body.Seek(next.to, io.SeekStart); err != nil {
			return 0, err
		}
		s.at, s.text, s.left = next.to, bytes.NewReader([]byte(next.text)), s.left[1:]
	}
}
