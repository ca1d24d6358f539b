package sortkey

import (
	"strings"
	"time"
)

var months = []string{"jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"}

// zones are the names of RFC 5322 section 4.3 that say something, in hours.
var zones = map[string]int{"EST": -5, "EDT": -4, "CST": -6, "CDT": -5, "MST": -7, "MDT": -6, "PST": -8, "PDT": -7}

// instant reads a Date field, tolerantly. A time that cannot be read is
// midnight, a zone UTC (RFC 5256 section 2.2); ok is false without a day.
func instant(s string) (unix int64, ok bool) {
	words := strings.FieldsFunc(withoutComments(s), func(r rune) bool { return r == ' ' || r == ',' || r == '\t' || r == '\r' || r == '\n' })
	if len(words) > 0 && month(words[0]) == 0 && !digit(words[0]) { // the day of the week
		words = words[1:]
	}
	if len(words) > 0 && strings.Count(words[0], "-") == 2 { // 7-Feb-1994
		words = append(strings.Split(words[0], "-"), words[1:]...)
	}
	if len(words) < 3 {
		return 0, false
	}
	if month(words[0]) != 0 { // Feb 7 21:52:25 1994, as asctime has it
		words[0], words[1] = words[1], words[0]
		if len(words) > 3 && strings.Contains(words[2], ":") {
			words[2], words[3] = words[3], words[2]
		}
	}
	day, month, year := number2(words[0]), month(words[1]), yearOf(words[2])
	if day < 1 || day > 31 || month == 0 || year < 1 {
		return 0, false
	}
	midnight := time.Date(year, time.Month(month), day, 0, 0, 0, 0, time.UTC).Unix()
	if len(words) < 4 {
		return midnight, true
	}
	seconds, ok := clock(words[3])
	if !ok {
		return midnight, true
	}
	if len(words) > 4 {
		seconds -= zone(words[4])
	}
	return midnight + seconds, true
}

// withoutComments drops what stands in parentheses.
func withoutComments(s string) string {
	if !strings.ContainsRune(s, '(') {
		return s
	}
	depth := 0
	return strings.Map(func(r rune) rune {
		switch {
		case r == '(':
			depth++
			return ' '
		case r == ')' && depth > 0:
			depth--
			return ' '
		case depth > 0:
			return -1
		}
		return r
	}, s)
}

func digit(s string) bool { return s != "" && s[0]-'0' < 10 }

func month(s string) int {
	if len(s) >= 3 {
		for i, m := range months {
			if strings.EqualFold(s[:3], m) {
				return i + 1
			}
		}
	}
	return 0
}

// number2 reads a number of at most four digits; -1 for anything else.
func number2(s string) int {
	n := 0
	for i := range len(s) {
		if s[i]-'0' > 9 || i == 4 {
			return -1
		}
		n = n*10 + int(s[i]-'0')
	}
	if s == "" {
		return -1
	}
	return n
}

// yearOf reads a year, those of RFC 5322 section 4.3 included.
func yearOf(s string) int {
	year := number2(s)
	switch {
	case year >= 0 && year < 50:
		return year + 2000
	case year >= 50 && year < 1000:
		return year + 1900
	}
	return year
}

// clock reads "21:52:25" or "21:52" as seconds since midnight.
func clock(s string) (seconds int64, ok bool) {
	parts := strings.Split(s, ":")
	if len(parts) < 2 || len(parts) > 3 {
		return 0, false
	}
	for i, most := range []int{23, 59, 60}[:len(parts)] {
		n := number2(parts[i])
		if n < 0 || n > most {
			return 0, false
		}
		seconds = seconds*60 + int64(n)
	}
	if len(parts) == 2 {
		seconds *= 60
	}
	return seconds, true
}

// zone reads how many seconds a zone is ahead of UTC.
func zone(s string) int64 {
	if hours, known := zones[strings.ToUpper(s)]; known {
		return int64(hours) * 3600
	}
	if len(s) != 5 || s[0] != '+' && s[0] != '-' {
		return 0
	}
	n := number2(s[1:])
	if n < 0 || n%100 > 59 {
		return 0
	}
	seconds := int64(n/100*3600 + n%100*60)
	if s[0] == '-' {
		return -seconds
	}
	return seconds
}
