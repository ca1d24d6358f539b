package dailyreport

import (
	"encoding/binary"
	"time"
)

// Day is a UTC day, counted since 1970.
type Day uint32

const dayTime = 24 * time.Hour

// DayOf returns the day of an instant.
func DayOf(t time.Time) Day { return Day(t.Unix() / int64(dayTime/time.Second)) }

// Start is the first instant of the day.
func (d Day) Start() time.Time { return time.Unix(int64(d)*int64(dayTime/time.Second), 0).UTC() }

// End is the first instant after it, Last the last second in it.
func (d Day) End() time.Time { return (d + 1).Start() }

// Last is the last second of the day.
func (d Day) Last() time.Time { return d.End().Add(-time.Second) }

// String returns the day as 2026-11-21.
func (d Day) String() string { return d.Start().Format(time.DateOnly) }

// compact returns the day as 20261121.
func (d Day) compact() string { return d.Start().Format("20060102") }

// Append adds the day to a key, such that keys sort by days.
func (d Day) Append(key []byte) []byte { return binary.BigEndian.AppendUint32(key, uint32(d)) }

// DayIn reads the day that a key, at least 4 octets long, begins with.
func DayIn(key []byte) Day { return Day(binary.BigEndian.Uint32(key)) }

// Kept is how many domains there are in a store, by days.
type Kept map[Day]int

// Know has the domains of a day counted, once, and forgets days before.
func (k Kept) Know(d Day, count func() (int, error)) error {
	if _, known := k[d]; known {
		return nil
	}
	n, err := count()
	if err != nil {
		return err
	}
	for old := range k {
		if old+1 < d {
			delete(k, old)
		}
	}
	k[d] = n
	return nil
}
