package mime

import (
	"bytes"
	"time"
)

var months = [...]string{"jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"}

// sentDate returns the day a header's Date field names, as written and without
// regard to its zone (RFC 9051 section 6.4.4, SENTON), in unix seconds at
// midnight UTC; 0 when there is none to be read.
func sentDate(header []byte) int64 {
	for f := range fields(header) {
		if foldEqual(f.name, "date") {
			return parseDay(f.value)
		}
	}
	return 0
}

// parseDay finds day, month and year at the start of a date-time, with or
// without the day of the week.
func parseDay(value []byte) int64 {
	if comma := bytes.IndexByte(value, ','); comma >= 0 && comma < 16 {
		value = value[comma+1:]
	}
	l := lexer{b: value}
	day := number(l.token())
	month := 0
	if name := l.token(); len(name) >= 3 {
		for i, m := range months {
			if foldEqual(name[:3], m) {
				month = i + 1
			}
		}
	}
	year := number(l.token())
	switch { // RFC 5322 section 4.3
	case year >= 0 && year < 50:
		year += 2000
	case year >= 50 && year < 1000:
		year += 1900
	}
	if day < 1 || day > 31 || month == 0 || year < 1900 || year > 9999 {
		return 0
	}
	return time.Date(year, time.Month(month), day, 0, 0, 0, 0, time.UTC).Unix()
}

// number reads a short decimal number; -1 for anything else.
func number(b []byte) int {
	if len(b) == 0 || len(b) > 4 {
		return -1
	}
	n := 0
	for _, c := range b {
		if c < '0' || c > '9' {
			return -1
		}
		n = n*10 + int(c-'0')
	}
	return n
}
