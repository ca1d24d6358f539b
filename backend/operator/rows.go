package operator

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// value is one field of a row: text, a number, a truth, a list of words, or
// what open reads.
type value struct {
	text  string
	json  any // what JSON writes, where that is not text
	words []string
	open  func() (io.ReadCloser, error)
}

func number[N ~int | ~int64 | ~uint32 | ~uint64](n N) value {
	return value{text: fmt.Sprint(n), json: n}
}

func truth(yes bool) value {
	if yes {
		return value{text: "yes", json: true}
	}
	return value{text: "no", json: false}
}

func words(list []string) value { return value{text: strings.Join(list, " "), words: list} }

// read calls fn with the value's octets.
func (v *value) read(fn func(io.Reader) error) error {
	if v.open == nil {
		return fn(strings.NewReader(v.text))
	}
	r, err := v.open()
	if err != nil {
		return err
	}
	defer r.Close()
	return fn(r)
}

// lostOutput is an error of whoever reads the answer.
type lostOutput struct{ err error }

func (l *lostOutput) Error() string { return l.err.Error() }

// answer writes to whoever reads it.
type answer struct {
	w   io.Writer
	err *lostOutput
}

func (a *answer) Write(p []byte) (int, error) {
	if a.err != nil {
		return 0, a.err
	}
	n, err := a.w.Write(p)
	if err != nil {
		a.err = &lostOutput{err}
		return n, a.err
	}
	return n, nil
}

// rows writes rows in one of the formats, and plain lines.
type rows struct {
	out    *bufio.Writer
	format string
	names  []string
	began  bool
	held   [][]string // of a table whose columns have no width yet
	widths []int
}

const (
	rowBuffer = 32 << 10
	// heldRows is how many rows of a table say how wide its columns are.
	heldRows = 200
	// maxCell bounds what a table shows of one value.
	maxCell = 200
)

func newRows(format string, out io.Writer, names []string) (rows, error) {
	if format == "raw" && len(names) != 1 {
		return rows{}, errors.New("the format raw has one field, of one person")
	}
	return rows{out: bufio.NewWriterSize(&answer{w: out}, rowBuffer), format: format, names: names}, nil
}

// say writes a line that is no row.
func (r *rows) say(line string) { _, _ = r.out.WriteString(line + "\n") } // flush tells the error

func (r *rows) row(values []value) error {
	first := !r.began
	r.began = true
	switch r.format {
	case "json":
		return r.object(values)
	case "tab":
		if first {
			r.say(strings.Join(r.names, "\t"))
		}
		return r.line(values, '\t', tabEscapes)
	case "pairs":
		return r.line(values, ' ', tabEscapes)
	case "flow":
		return r.flow(values)
	case "raw":
		return values[0].read(func(in io.Reader) error { _, err := io.Copy(r.out, in); return err })
	}
	return r.tableRow(values)
}

// tabEscapes keep a value on its line and in its column.
var tabEscapes = strings.NewReplacer("\\", "\\\\", "\t", "\\t", "\n", "\\n", "\r", "\\r", "\x00", "\\0")

// line writes values with a separator between them.
func (r *rows) line(values []value, separator byte, escapes *strings.Replacer) error {
	for i, v := range values {
		if i > 0 {
			_ = r.out.WriteByte(separator)
		}
		err := v.read(func(in io.Reader) error {
			return eachPiece(in, func(piece []byte) error { _, err := escapes.WriteString(r.out, string(piece)); return err })
		})
		if err != nil {
			return err
		}
	}
	return r.out.WriteByte('\n')
}

// eachPiece calls fn with pieces that end between characters.
func eachPiece(in io.Reader, fn func([]byte) error) error {
	buf := make([]byte, 16<<10)
	held := 0
	for {
		n, err := io.ReadFull(in, buf[held:])
		n += held
		ended := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
		if err != nil && !ended {
			return err
		}
		whole := n
		for back := 1; !ended && back < utf8.UTFMax && back <= n; back++ {
			if c := buf[n-back]; utf8.RuneStart(c) {
				if !utf8.FullRune(buf[n-back : n]) {
					whole = n - back
				}
				break
			}
		}
		if whole > 0 {
			if err := fn(buf[:whole]); err != nil {
				return err
			}
		}
		if ended {
			return nil
		}
		held = copy(buf, buf[whole:n])
	}
}

// flow writes "name: value" lines; what has lines of its own begins on the next
// one, octet by octet. A form feed ends the row.
func (r *rows) flow(values []value) error {
	for i, v := range values {
		r.out.WriteString(r.names[i] + ":")
		if v.open == nil {
			v.text = visible(v.text)
		}
		if v.open == nil && !strings.Contains(v.text, "\n") {
			if v.text != "" {
				r.out.WriteString(" " + v.text)
			}
			r.out.WriteByte('\n')
			continue
		}
		r.out.WriteByte('\n')
		last := byte('\n')
		err := v.read(func(in io.Reader) error {
			return eachPiece(in, func(piece []byte) error {
				last = piece[len(piece)-1]
				_, err := r.out.Write(piece)
				return err
			})
		})
		if err != nil {
			return err
		}
		if last != '\n' {
			r.out.WriteByte('\n')
		}
	}
	_, err := r.out.WriteString("\f\n")
	return err
}

// visible shows control characters, but for ends of lines and tabs: what
// strangers write into a Subject is not to command the reader's terminal.
func visible(text string) string {
	hidden := func(c rune) bool { return unicode.IsControl(c) && c != '\n' && c != '\t' }
	if !strings.ContainsFunc(text, hidden) {
		return text
	}
	var b strings.Builder
	for i, c := range text {
		if hidden(c) && !strings.HasPrefix(text[i:], "\r\n") {
			fmt.Fprintf(&b, `\x%02x`, c)
		} else {
			b.WriteRune(c)
		}
	}
	return b.String()
}

// object writes an object of JSON on a line. Octets that are no UTF-8 come in
// Base64, under the name with ".base64" behind it.
func (r *rows) object(values []value) error {
	for i, v := range values {
		r.out.WriteByte("{,"[min(i, 1)])
		if err := r.member(r.names[i], &v); err != nil {
			return err
		}
	}
	_, err := r.out.WriteString("}\n")
	return err
}

func (r *rows) member(name string, v *value) error {
	var plain any
	switch {
	case v.json != nil:
		plain = v.json
	case v.words != nil:
		plain = v.words
	case v.open == nil && utf8.ValidString(v.text):
		plain = v.text
	default:
		return r.octets(name, v)
	}
	text, err := json.Marshal(plain)
	if err == nil {
		_, err = fmt.Fprintf(r.out, "%s:%s", strconv.Quote(name), text)
	}
	return err
}

// octets writes what is too large to hold, so that it is read twice.
func (r *rows) octets(name string, v *value) error {
	valid := true
	err := v.read(func(in io.Reader) error {
		return eachPiece(in, func(piece []byte) error {
			valid = valid && utf8.Valid(piece)
			return nil
		})
	})
	if err != nil {
		return err
	}
	if !valid {
		fmt.Fprintf(r.out, "%s:\"", strconv.Quote(name+".base64"))
		encoder := base64.NewEncoder(base64.StdEncoding, r.out)
		err := v.read(func(in io.Reader) error { _, err := io.Copy(encoder, in); return err })
		if err = errors.Join(err, encoder.Close()); err != nil {
			return err
		}
		return r.out.WriteByte('"')
	}
	fmt.Fprintf(r.out, "%s:\"", strconv.Quote(name))
	err = v.read(func(in io.Reader) error {
		return eachPiece(in, func(piece []byte) error {
			text, err := json.Marshal(string(piece))
			if err == nil {
				_, err = r.out.Write(text[1 : len(text)-1])
			}
			return err
		})
	})
	if err != nil {
		return err
	}
	return r.out.WriteByte('"')
}

// tableRow writes a row in columns: the first rows say how wide these are.
func (r *rows) tableRow(values []value) error {
	cells := make([]string, len(values))
	for i, v := range values {
		var b bytes.Buffer
		err := v.read(func(in io.Reader) error { _, err := io.Copy(&b, io.LimitReader(in, 4*maxCell)); return err })
		if err != nil {
			return err
		}
		cells[i] = cell(b.String())
	}
	if r.widths != nil {
		return r.cells(cells)
	}
	if r.held = append(r.held, cells); len(r.held) < heldRows {
		return nil
	}
	return r.release()
}

// cell shows a value in one line of at most maxCell characters.
func cell(text string) string {
	var b strings.Builder
	n := 0
	for _, c := range text {
		if n++; n > maxCell {
			b.WriteString("...")
			break
		}
		switch {
		case c == '\n':
			b.WriteString(`\n`)
		case c == '\r':
			b.WriteString(`\r`)
		case c == '\t':
			b.WriteByte(' ')
		case unicode.IsControl(c):
			fmt.Fprintf(&b, `\x%02x`, c)
		default:
			b.WriteRune(c)
		}
	}
	if b.Len() == 0 {
		return "-"
	}
	return b.String()
}

// release writes the rows that were held.
func (r *rows) release() error {
	if len(r.held) == 0 {
		return nil
	}
	head := make([]string, len(r.names))
	for i, name := range r.names {
		head[i] = strings.ToUpper(name)
	}
	r.widths = make([]int, len(head))
	held := append([][]string{head}, r.held...)
	r.held = nil
	for _, cells := range held {
		for i, c := range cells {
			r.widths[i] = max(r.widths[i], utf8.RuneCountInString(c))
		}
	}
	for _, cells := range held {
		if err := r.cells(cells); err != nil {
			return err
		}
	}
	return nil
}

func (r *rows) cells(cells []string) error {
	var b strings.Builder
	for i, c := range cells {
		b.WriteString(c)
		if i < len(cells)-1 {
			b.WriteString(strings.Repeat(" ", max(0, r.widths[i]-utf8.RuneCountInString(c))+2))
		}
	}
	b.WriteByte('\n')
	_, err := r.out.WriteString(b.String())
	return err
}

// flush has what was written reach the reader. Rows that are held stay so.
func (r *rows) flush() error { return r.out.Flush() }

// end writes all there is.
func (r *rows) end() error { return errors.Join(r.release(), r.out.Flush()) }
