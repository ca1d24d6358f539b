package audit

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
)

// Break is a place where the chain does not hold.
type Break struct {
	Line int    // counted from 1
	Why  string // for a person
}

// Verified is what Verify found.
type Verified struct {
	Lines    int
	FirstSeq uint64
	LastSeq  uint64
	Breaks   []Break
}

// maxLineOctets bounds one line of an audit file.
const maxLineOctets = 1 << 20

// Verify reads an audit file and checks that every line follows from the one
// before. The first line is taken as given: the files before it hold the rest.
func Verify(r io.Reader) (Verified, error) {
	var v Verified
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 64<<10), maxLineOctets)
	var prev string
	for lines.Scan() {
		v.Lines++
		var head struct {
			Seq  uint64 `json:"seq"`
			Prev string `json:"prev"`
		}
		switch err := json.Unmarshal(lines.Bytes(), &head); {
		case err != nil:
			v.Breaks = append(v.Breaks, Break{v.Lines, "not a complete record: " + err.Error()})
		case v.FirstSeq == 0:
			v.FirstSeq = head.Seq
		case head.Prev != prev:
			v.Breaks = append(v.Breaks, Break{v.Lines, "does not follow from the line before"})
		case head.Seq != v.LastSeq+1:
			v.Breaks = append(v.Breaks, Break{v.Lines, fmt.Sprintf("record %d follows record %d", head.Seq, v.LastSeq)})
		}
		if head.Seq != 0 {
			v.LastSeq = head.Seq
		}
		sum := sha256.Sum256(lines.Bytes())
		prev = hex.EncodeToString(sum[:])
	}
	if err := lines.Err(); err != nil {
		return v, fmt.Errorf("read audit after line %d: %w", v.Lines, err)
	}
	return v, nil
}
