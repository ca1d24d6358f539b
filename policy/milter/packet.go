package milter

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Commands, from us to the filter.
const (
	cmdAbort     = 'A'
	cmdBody      = 'B'
	cmdConnect   = 'C'
	cmdMacro     = 'D'
	cmdEOM       = 'E'
	cmdHelo      = 'H'
	cmdQuitNew   = 'K' // the session ends, another follows on the connection
	cmdHeader    = 'L'
	cmdMail      = 'M'
	cmdEOH       = 'N'
	cmdNegotiate = 'O'
	cmdQuit      = 'Q'
	cmdRcpt      = 'R'
	cmdData      = 'T'
	cmdUnknown   = 'U'
)

// Replies, from the filter to us.
const (
	replyAddRcpt      = '+'
	replyDeleteRcpt   = '-'
	replyAddRcptArgs  = '2'
	replyShutdown     = '4'
	replyAccept       = 'a'
	replyBody         = 'b'
	replyContinue     = 'c'
	replyDiscard      = 'd'
	replyChangeFrom   = 'e'
	replyConnFail     = 'f'
	replyAddHeader    = 'h'
	replyInsertHeader = 'i'
	replyChangeHeader = 'm'
	replyProgress     = 'p'
	replyQuarantine   = 'q'
	replyReject       = 'r'
	replySkip         = 's'
	replyTempFail     = 't'
	replyCode         = 'y'
)

const (
	// maxPacket bounds what a filter may send in one packet: the largest size
	// of data the protocol knows, and room for what stands beside them.
	maxPacket = maxData1M + 1024
	// maxChunk is the most of a body that goes into one packet; larger ones
	// are beyond what filters were ever sent.
	maxChunk = 65535
)

// errProtocol is what a filter did that the protocol does not allow.
var errProtocol = errors.New("protocol error")

func protocolError(format string, args ...any) error {
	return fmt.Errorf("%w: %s", errProtocol, fmt.Sprintf(format, args...))
}

// packet is one packet as it is put together: length, command, data.
type packet []byte

// begin starts a packet in p's memory.
func (p packet) begin(command byte) packet { return append(p[:0], 0, 0, 0, 0, command) }

// text adds a string and its NUL. A NUL inside would begin the next one.
func (p packet) text(s string) packet {
	if strings.IndexByte(s, 0) >= 0 {
		s = strings.ReplaceAll(s, "\x00", "")
	}
	return append(append(p, s...), 0)
}

func (p packet) uint16(n uint16) packet { return binary.BigEndian.AppendUint16(p, n) }
func (p packet) uint32(n uint32) packet { return binary.BigEndian.AppendUint32(p, n) }

// dataOctets is how long the data of the packet are.
func (p packet) dataOctets() int { return len(p) - 5 }

// end fills in the length.
func (p packet) end() []byte {
	binary.BigEndian.PutUint32(p, uint32(len(p)-4)) // #nosec G115 -- packets are far below 4 GiB
	return p
}

// readPacket returns the next packet's command and data, in buffer when that is
// large enough; they are valid until the next call with it.
func readPacket(r *bufio.Reader, buffer []byte) (command byte, data []byte, err error) {
	var head [5]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	length := binary.BigEndian.Uint32(head[:])
	if length == 0 || length > maxPacket {
		return 0, nil, protocolError("packet of %d octets", length)
	}
	size := int(length) - 1
	// What was announced is believed as it comes, not before.
	data = buffer[:0]
	for len(data) < size {
		have := len(data)
		more := min(size-have, max(maxChunk, have))
		if cap(data) < have+more {
			data = append(make([]byte, 0, have+more), data...)
		}
		data = data[:have+more]
		if _, err := io.ReadFull(r, data[have:]); err != nil {
			return 0, nil, cutShort(err)
		}
	}
	return head[4], data, nil
}

// cutShort tells an end in the middle of a packet from one between packets.
func cutShort(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// fields reads what a packet holds, in order.
type fields struct {
	rest []byte
	err  error
}

// text returns the next string. The last one may lack its NUL, as some filters
// send it.
func (f *fields) text() string {
	if len(f.rest) == 0 {
		f.fail("a string is missing")
		return ""
	}
	for i, c := range f.rest {
		if c == 0 {
			s := string(f.rest[:i])
			f.rest = f.rest[i+1:]
			return s
		}
	}
	s := string(f.rest)
	f.rest = nil
	return s
}

// optional is text, or "" when nothing is left.
func (f *fields) optional() string {
	if len(f.rest) == 0 {
		return ""
	}
	return f.text()
}

func (f *fields) uint32() uint32 {
	if len(f.rest) < 4 {
		f.fail("a number is missing")
		return 0
	}
	n := binary.BigEndian.Uint32(f.rest)
	f.rest = f.rest[4:]
	return n
}

func (f *fields) fail(what string) {
	if f.err == nil {
		f.err = protocolError("%s", what)
	}
	f.rest = nil
}
