package srs

import (
	"bufio"
	"fmt"
	"io"
	"strings"
)

// MinKeyOctets is the shortest key that ReadKeys takes.
const MinKeyOctets = 16

// maxKeyFileOctets bounds a file of keys.
const maxKeyFileOctets = 64 << 10

// ReadKeys reads keys, one a line; empty lines and those that begin with # do
// not count. name stands in errors, which never hold a key.
func ReadKeys(name string, r io.Reader) ([][]byte, error) {
	var keys [][]byte
	lines := bufio.NewScanner(io.LimitReader(r, maxKeyFileOctets))
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		switch {
		case line == "" || line[0] == '#':
		case len(line) < MinKeyOctets:
			return nil, fmt.Errorf("%s:%d: the key has fewer than %d octets; make one with postern srs key", name, n, MinKeyOctets)
		default:
			keys = append(keys, []byte(line))
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("%s holds no key; make one with postern srs key", name)
	}
	return keys, nil
}
