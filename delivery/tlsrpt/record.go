package tlsrpt

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/postern-mail/postern/store"
)

// The keys, behind the room's tag: the day, 4 octets big-endian since 1970, and
// the domain. The value is a count in JSON.
const tag = 't'

// recordVersion is the format of the values; a reader refuses another one.
const recordVersion = 1

// day is a UTC day, counted since 1970.
type day uint32

const dayTime = 24 * time.Hour

func dayOf(t time.Time) day    { return day(t.Unix() / int64(dayTime/time.Second)) }
func (d day) start() time.Time { return time.Unix(int64(d)*int64(dayTime/time.Second), 0).UTC() }
func (d day) end() time.Time   { return (d + 1).start() }
func (d day) last() time.Time  { return d.end().Add(-time.Second) }
func (d day) String() string   { return d.start().Format(time.DateOnly) }
func (d day) lo() []byte       { return binary.BigEndian.AppendUint32([]byte{tag}, uint32(d)) }
func (s subject) key() []byte  { return append(s.day.lo(), s.domain...) }

// subject is what one count, and one report, is about.
type subject struct {
	day    day
	domain string
}

func parseKey(key []byte) (subject, error) {
	if len(key) < 6 || key[0] != tag {
		return subject{}, fmt.Errorf("%w: key %x", errRecord, key)
	}
	return subject{day(binary.BigEndian.Uint32(key[1:5])), string(key[5:])}, nil
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
