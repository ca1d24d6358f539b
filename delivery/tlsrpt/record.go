package tlsrpt

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/postern-mail/postern/internal/dailyreport"
	"github.com/postern-mail/postern/store"
)

// The keys, behind the room's tag: the day, 4 octets big-endian since 1970, and
// the domain. The value is a count in JSON.
const tag = 't'

// recordVersion is the format of the values; a reader refuses another one.
const recordVersion = 1

// lo is where the keys of a day begin.
func lo(d day) []byte { return d.Append([]byte{tag}) }

// day is a UTC day.
type day = dailyreport.Day

func (s subject) key() []byte { return append(lo(s.day), s.domain...) }

// subject is what one count, and one report, is about.
type subject struct {
	day    day
	domain string
}

func parseKey(key []byte) (subject, error) {
	if len(key) < 6 || key[0] != tag {
		return subject{}, fmt.Errorf("%w: key %x", errRecord, key)
	}
	return subject{dailyreport.DayIn(key[1:5]), string(key[5:])}, nil
}

var errRecord = errors.New("malformed record of TLS sessions")

// encode writes the count. Details that would not fit are left out.
func (c *count) encode() ([]byte, error) {
	c.Version = recordVersion
	for {
		var b bytes.Buffer
		e := json.NewEncoder(&b)
		e.SetEscapeHTML(false)
		if err := e.Encode(c); err != nil {
			return nil, err
		}
		if b.Len() <= store.MaxValueOctets || !c.dropDetail() {
			return b.Bytes(), nil
		}
	}
}

func (c *count) dropDetail() bool {
	for _, p := range c.Policies {
		if n := len(p.Details); n > 0 {
			p.Details = p.Details[:n/2]
			return true
		}
	}
	return false
}

func decode(value []byte) (*count, error) {
	c := new(count)
	if err := json.Unmarshal(value, c); err != nil {
		return nil, fmt.Errorf("%w: %w", errRecord, err)
	}
	if c.Version != recordVersion {
		return nil, fmt.Errorf("%w: format %d, this program knows %d", errRecord, c.Version, recordVersion)
	}
	for _, p := range c.Policies {
		if p == nil {
			return nil, errRecord
		}
		for _, d := range p.Details {
			if d == nil {
				return nil, errRecord
			}
		}
	}
	return c, nil
}
