package dmarcrpt

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/postern-mail/postern/internal/dailyreport"
	"github.com/postern-mail/postern/store"
)

// The keys, behind the room's tag: the day, 4 octets big-endian since 1970, the
// domain, an octet zero and the number of a shard, whose value are its rows; or
// headShard, whose value says which policy was in force and how far the report
// has come. Values are JSON.
const (
	tag       = 'd'
	shards    = 128
	headShard = 255
)

// recordVersion is the format of the values; a reader refuses another one.
const recordVersion = 1

// lo is where the keys of a day begin.
func lo(d day) []byte { return d.Append([]byte{tag}) }

// day is a UTC day.
type day = dailyreport.Day

// subject is what one report is about.
type subject struct {
	day    day
	domain string
}

func (s subject) key(shard byte) []byte { return append(append(lo(s.day), s.domain...), 0, shard) }

// lo and hi are the ends of all keys of a subject.
func (s subject) lo() []byte { return s.key(0) }
func (s subject) hi() []byte { return append(append(lo(s.day), s.domain...), 1) }

func parseKey(key []byte) (s subject, shard byte, err error) {
	end := len(key) - 2
	if len(key) < 8 || key[0] != tag || key[end] != 0 {
		return s, 0, fmt.Errorf("%w: key %x", errRecord, key)
	}
	return subject{dailyreport.DayIn(key[1:5]), string(key[5:end])}, key[end+1], nil
}

var errRecord = errors.New("malformed record of DMARC reports")

// head is what is known of a report beside its rows.
type head struct {
	Version   int                  `json:"version"`
	Published published            `json:"published"`
	Sending   *dailyreport.Sending `json:"sending,omitempty"`
}

func (h *head) encode() ([]byte, error) {
	h.Version = recordVersion
	return marshal(h)
}

// encode writes the rows. Those that would not fit are left out; dropped counts
// their messages.
func (c *rows) encode() (value []byte, dropped int64, err error) {
	c.Version = recordVersion
	for {
		value, err = marshal(c)
		n := len(c.Rows)
		if err != nil || len(value) <= store.MaxValueOctets || n == 0 {
			return value, dropped, err
		}
		// The newest go: those who send most were there before.
		keep := n * 9 / 10
		for _, r := range c.Rows[keep:] {
			dropped += r.N
		}
		c.Rows = c.Rows[:keep]
	}
}

func marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return b.Bytes(), err
}

func decodeHead(value []byte) (*head, error) {
	h := new(head)
	if err := json.Unmarshal(value, h); err != nil {
		return nil, fmt.Errorf("%w: %w", errRecord, err)
	}
	return h, checkVersion(h.Version)
}

func decodeRows(value []byte) (*rows, error) {
	c := new(rows)
	if err := json.Unmarshal(value, c); err != nil {
		return nil, fmt.Errorf("%w: %w", errRecord, err)
	}
	for _, r := range c.Rows {
		if r == nil {
			return nil, errRecord
		}
	}
	return c, checkVersion(c.Version)
}

func checkVersion(version int) error {
	if version != recordVersion {
		return fmt.Errorf("%w: format %d, this program knows %d", errRecord, version, recordVersion)
	}
	return nil
}
