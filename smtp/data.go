package smtp

import "time"

// dataText is the text of a DATA command: dot-stuffed, and ended by a line
// that holds a dot only (RFC 5321 section 4.5.2).
//
// End of data is the octet sequence CR LF . CR LF and nothing else; the CR LF
// of the DATA line itself may be its first two octets. In detail:
//
//	CRLF . CRLF          end of data
//	CR CRLF . CRLF       end of data; the first CR becomes a space
//	LF . CRLF            the dot's line is dropped
//	CRLF . LF            the dot's line is dropped
//	LF . LF              the dot's line is dropped
//	CR . CRLF, CR . CR   text
//	CRLF . CR            text, unless LF follows
//	CRLF . CR CRLF       text: a line that holds a space, after the dot
//	CRLF NUL . CRLF      text
//
// The dropped lines are what SMTP smuggling (CVE-2023-51764) is made of: this
// server does not end there, and nobody after it can.
type dataText struct {
	wire   *wire
	ends   lineEnds
	insert []byte
	timer  messageTimer
}

// newDataText starts after a DATA line; afterLF tells that the line ended in
// LF without CR.
func newDataText(w *wire, timer messageTimer, afterLF bool) *dataText {
	return &dataText{wire: w, timer: timer, ends: lineEnds{afterLF: afterLF}}
}

// stretch implements textSource.
func (d *dataText) stretch(mayWait bool) ([]byte, error) {
	for {
		if text := d.insert; text != nil {
			d.insert = nil
			return text, nil
		}
		ready, end := d.advance()
		switch {
		case end:
			return nil, errEndOfText
		case ready:
			text, insert, used := d.ends.scan(d.wire.unread(), true)
			d.wire.consume(used)
			d.insert = insert
			if len(text) > 0 {
				return text, nil
			}
		case !mayWait:
			return nil, errMustWait
		default:
			if err := d.timer.fill(d.wire); err != nil {
				return nil, err
			}
		}
	}
}

// advance consumes the dot at the start of a line, and the lines that are only
// a dot. Ready means that there is text to scan, end that the end of data was
// consumed; otherwise more input must tell.
func (d *dataText) advance() (ready, end bool) {
	for {
		buf := d.wire.unread()
		if len(buf) == 0 {
			return false, false
		}
		if d.ends.midLine || buf[0] != '.' {
			return true, false
		}
		switch {
		case len(buf) == 1 || buf[1] == '\r' && len(buf) == 2:
			return false, false
		case buf[1] == '\n':
			d.wire.consume(2)
			d.ends.endLine(true)
		case buf[1] == '\r' && buf[2] == '\n':
			d.wire.consume(3)
			if !d.ends.afterLF {
				return false, true
			}
			d.ends.endLine(false)
		default:
			d.wire.consume(1)
			d.ends.midLine = true
			return true, false
		}
	}
}

func (d *dataText) sawBareLF() bool { return d.ends.sawLF }

// announced implements textSource.
func (d *dataText) announced() int64 { return 0 }

// replyDue implements textSource: only the end of data is answered.
func (d *dataText) replyDue() bool { return false }

// messageTimer bounds the wait for each block of a message and for the whole.
// Where there is a rate it bounds the time spent waiting as well: a client has
// one block's time to spare and regains a second with so many octets. What the
// server itself takes to store the message is not the client's time.
type messageTimer struct {
	block  time.Duration
	total  time.Time
	rate   int           // octets per second; 0 for any
	spare  time.Duration // left of the time to wait
	waited time.Time     // since when
}

func newMessageTimer(block, total time.Duration, rate int) messageTimer {
	return messageTimer{block: block, total: time.Now().Add(total), rate: rate, spare: block}
}

// start returns until when a wait that begins now may last.
func (t *messageTimer) start() time.Time {
	t.waited = time.Now()
	d := t.waited.Add(min(t.block, t.spare))
	if t.rate == 0 {
		d = t.waited.Add(t.block)
	}
	if d.Before(t.total) {
		return d
	}
	return t.total
}

// stop is told what came of the wait.
func (t *messageTimer) stop(octets int) {
	if t.rate > 0 {
		earned := time.Duration(octets) * time.Second / time.Duration(t.rate)
		t.spare = min(t.block, t.spare-time.Since(t.waited)+earned)
	}
}

// fill waits for input within the time that is left.
func (t *messageTimer) fill(w *wire) error {
	before := len(w.unread())
	err := w.fill(t.start(), false)
	t.stop(len(w.unread()) - before)
	return err
}
