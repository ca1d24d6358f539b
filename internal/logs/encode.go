package logs

import (
	"encoding"
	"encoding/json"
	"fmt"
	"strconv"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/hashicorp/go-hclog"
)

const (
	timeLayout = "2006-01-02T15:04:05.000000Z07:00"
	missingKey = "extra"
	// maxValueOctets bounds what one value may take of a line.
	maxValueOctets = 4 << 10
)

var levelNames = map[hclog.Level]string{
	hclog.Trace: "trace", hclog.Debug: "debug", hclog.Info: "info", hclog.Warn: "warn", hclog.Error: "error",
}

func appendText(buf []byte, at time.Time, level hclog.Level, name, msg string, args ...[]any) []byte {
	buf = at.AppendFormat(buf, timeLayout)
	buf = append(buf, ' ')
	buf = append(buf, levelNames[level]...)
	for i := len(levelNames[level]); i < 5; i++ {
		buf = append(buf, ' ')
	}
	buf = append(buf, ' ')
	if name != "" {
		buf = append(buf, name...)
		buf = append(buf, ": "...)
	}
	buf = appendPlain(buf, clip(msg))
	eachPair(args, func(key string, value any) {
		buf = append(buf, ' ')
		buf = appendKey(buf, key)
		buf = append(buf, '=')
		buf = appendTextValue(buf, value)
	})
	return append(buf, '\n')
}

func appendJSON(buf []byte, at time.Time, level hclog.Level, name, msg string, args ...[]any) []byte {
	buf = append(buf, `{"time":"`...)
	buf = at.AppendFormat(buf, timeLayout)
	buf = append(buf, `","level":"`...)
	buf = append(buf, levelNames[level]...)
	buf = append(buf, '"')
	if name != "" {
		buf = append(buf, `,"logger":`...)
		buf = appendJSONString(buf, name)
	}
	buf = append(buf, `,"msg":`...)
	buf = appendJSONString(buf, clip(msg))
	eachPair(args, func(key string, value any) {
		buf = append(buf, ',')
		buf = appendJSONString(buf, key)
		buf = append(buf, ':')
		buf = appendJSONValue(buf, value)
	})
	return append(buf, '}', '\n')
}

// eachPair walks key-value lists; a value without a key gets the key "extra".
func eachPair(lists [][]any, f func(key string, value any)) {
	for _, list := range lists {
		for i := 0; i < len(list); i += 2 {
			if i+1 == len(list) {
				f(missingKey, list[i])
				continue
			}
			key, ok := list[i].(string)
			if !ok {
				key = fmt.Sprint(list[i])
			}
			f(key, list[i+1])
		}
	}
}

// scalar appends numbers, booleans and durations; false for anything else.
func scalar(buf []byte, value any) ([]byte, bool) {
	switch v := value.(type) {
	case int:
		return strconv.AppendInt(buf, int64(v), 10), true
	case int64:
		return strconv.AppendInt(buf, v, 10), true
	case int32:
		return strconv.AppendInt(buf, int64(v), 10), true
	case uint32:
		return strconv.AppendUint(buf, uint64(v), 10), true
	case uint64:
		return strconv.AppendUint(buf, v, 10), true
	case bool:
		return strconv.AppendBool(buf, v), true
	default:
		return buf, false
	}
}

func text(value any) string {
	switch v := value.(type) {
	case nil:
		return "<nil>"
	case string:
		return v
	case time.Duration:
		return v.Round(time.Microsecond).String()
	case time.Time:
		return v.Format(time.RFC3339Nano)
	case hclog.Format:
		if len(v) == 0 {
			return ""
		}
		return fmt.Sprintf(fmt.Sprint(v[0]), v[1:]...)
	case error:
		return v.Error()
	case fmt.Stringer:
		return v.String()
	case encoding.TextMarshaler:
		if b, err := v.MarshalText(); err == nil {
			return string(b)
		}
	}
	return fmt.Sprintf("%v", value)
}

func appendTextValue(buf []byte, value any) []byte {
	if b, ok := scalar(buf, value); ok {
		return b
	}
	s := clip(text(value))
	if isBare(s) {
		return append(buf, s...)
	}
	return strconv.AppendQuote(buf, s)
}

func appendJSONValue(buf []byte, value any) []byte {
	if b, ok := scalar(buf, value); ok {
		return b
	}
	return appendJSONString(buf, clip(text(value)))
}

// isBare reports whether s can stand in logfmt without quotes.
func isBare(s string) bool {
	if s == "" {
		return false
	}
	for i := 0; i < len(s); i++ {
		if c := s[i]; c <= ' ' || c >= 0x7f || c == '"' || c == '=' || c == '\\' {
			return false
		}
	}
	return true
}

// appendKey writes a key with everything that could end it replaced.
func appendKey(buf []byte, key string) []byte {
	for i := 0; i < len(key); i++ {
		c := key[i]
		if c <= ' ' || c >= 0x7f || c == '"' || c == '=' {
			c = '_'
		}
		buf = append(buf, c)
	}
	return buf
}

// appendPlain writes a message without quotes, control characters escaped.
func appendPlain(buf []byte, s string) []byte {
	for _, r := range s {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			q := strconv.AppendQuoteRune(nil, r)
			buf = append(buf, q[1:len(q)-1]...)
			continue
		}
		buf = utf8.AppendRune(buf, r)
	}
	return buf
}

func appendJSONString(buf []byte, s string) []byte {
	for i := 0; i < len(s); i++ {
		if c := s[i]; c < ' ' || c >= 0x7f || c == '"' || c == '\\' {
			quoted, err := json.Marshal(s)
			if err != nil {
				return append(buf, `""`...)
			}
			return append(buf, quoted...)
		}
	}
	buf = append(buf, '"')
	buf = append(buf, s...)
	return append(buf, '"')
}

func clip(s string) string {
	if len(s) <= maxValueOctets {
		return s
	}
	return s[:maxValueOctets] + "…"
}
