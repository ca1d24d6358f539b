package imapd

import (
	"errors"
	"io"
)

// errDeflate ends a connection whose compressed octets make no sense.
var errDeflate = errors.New("invalid compressed data")

// windowOctets is how far back a compressor may refer (RFC 1951 section 2).
const windowOctets = 32 << 10

// inflater reads a DEFLATE stream (RFC 1951) that a client writes and flushes.
// The one of the library holds 40 KB for as long as the connection lasts; this
// one holds what the client has sent so far, up to the window, which for a
// client that waits in IDLE is next to nothing. It returns what it has as soon
// as nothing more has come, and reads nothing beyond what it decodes. After an
// error of the source, such as a deadline, it can be read on: what it had read of
// a symbol or header then is kept, and read again.
type inflater struct {
	src     io.Reader
	in      [stepOctets]byte
	at, end int // of in

	bits  uint32 // read and not used yet, the next one lowest
	nbits uint

	// begin is where the step under way began.
	begin int

	phase    inflatePhase
	final    bool
	broken   bool // nothing that follows can be told
	stored   int  // octets left of a stored block
	literals huffman
	offsets  huffman
	length   int // of a copy that is under way
	back     int // how far back it lies

	window []byte // the last octets; a ring once it is full
	next   int    // in the ring
}

// stepOctets is more than one step, at most the header of a block with all its
// codes, can take.
const stepOctets = 640

type inflatePhase uint8

const (
	atHeader inflatePhase = iota
	inStored
	inCodes
	inCopy
)

// Read implements io.Reader.
func (z *inflater) Read(p []byte) (n int, err error) {
	if z.broken {
		return 0, errDeflate
	}
	for n < len(p) {
		z.begin = z.at
		bits, nbits, final := z.bits, z.nbits, z.final
		switch z.phase {
		case atHeader, inCodes:
			if n > 0 && z.at == z.end {
				return n, nil // what comes next may take long
			}
			if z.phase == atHeader {
				err = z.header()
				break
			}
			var c byte
			var literal bool
			if c, literal, err = z.symbol(); literal {
				z.put(c)
				p[n] = c
				n++
			}
		case inStored:
			if n > 0 && z.at == z.end {
				return n, nil
			}
			if z.stored == 0 {
				z.phase = atHeader
				continue
			}
			var c byte
			if c, err = z.octet(); err == nil {
				z.put(c)
				p[n] = c
				n++
				z.stored--
			}
		case inCopy:
			c := z.before(z.back)
			z.put(c)
			p[n] = c
			n++
			if z.length--; z.length == 0 {
				z.phase = inCodes
			}
		}
		if err != nil {
			z.broken = errors.Is(err, errDeflate)
			z.at, z.bits, z.nbits, z.final = z.begin, bits, nbits, final
			return n, err
		}
	}
	return n, nil
}

// put remembers an octet that was decoded.
func (z *inflater) put(c byte) {
	if len(z.window) < windowOctets {
		z.window = append(z.window, c)
		return
	}
	z.window[z.next] = c
	z.next = (z.next + 1) % windowOctets
}

// before returns the octet that many back.
func (z *inflater) before(back int) byte {
	if len(z.window) < windowOctets {
		return z.window[len(z.window)-back]
	}
	return z.window[(z.next+windowOctets-back)%windowOctets]
}

// octet reads the next octet of the stream, waiting for it if need be.
func (z *inflater) octet() (byte, error) {
	if z.at == z.end {
		kept := copy(z.in[:], z.in[z.begin:z.end])
		z.begin, z.at, z.end = 0, kept, kept
		n, err := z.src.Read(z.in[kept:])
		if n == 0 {
			if err == nil {
				err = io.ErrNoProgress
			}
			return 0, err
		}
		z.end += n
	}
	c := z.in[z.at]
	z.at++
	return c, nil
}

// take reads n bits, up to 16.
func (z *inflater) take(n uint) (int, error) {
	for z.nbits < n {
		c, err := z.octet()
		if err != nil {
			return 0, err
		}
		z.bits |= uint32(c) << z.nbits
		z.nbits += 8
	}
	v := z.bits & (1<<n - 1)
	z.bits >>= n
	z.nbits -= n
	return int(v), nil
}

// header reads the header of a block (section 3.2.3). A client that ended its
// stream has nothing more to say.
func (z *inflater) header() error {
	if z.final {
		return io.EOF
	}
	v, err := z.take(3)
	if err != nil {
		return err
	}
	z.final = v&1 != 0
	switch v >> 1 {
	case 0:
		return z.storedHeader()
	case 1:
		z.literals.build(fixedLiterals[:])
		z.offsets.build(fixedOffsets[:])
		z.phase = inCodes
		return nil
	case 2:
		return z.dynamicHeader()
	}
	return errDeflate
}

// storedHeader is section 3.2.4: the rest of the octet is not used.
func (z *inflater) storedHeader() error {
	z.bits, z.nbits = 0, 0
	size, err := z.take(16)
	if err != nil {
		return err
	}
	check, err := z.take(16)
	if err != nil {
		return err
	}
	if size != check^0xffff {
		return errDeflate
	}
	z.phase, z.stored = inStored, size
	return nil
}

// huffman is a code in canonical form: how many codes there are of each
// length, and what the codes stand for in ascending order (section 3.2.2).
type huffman struct {
	count   [16]uint16
	symbols [288]uint16
}

// build makes the code of the lengths of its codes. It reports whether these
// are a code: none may be the beginning of another, and where one is missing
// there is but one code in all.
func (h *huffman) build(lengths []uint8) bool {
	h.count = [16]uint16{}
	for _, n := range lengths {
		h.count[n]++
	}
	left, used := 1, 0
	var offset [16]uint16
	for n := 1; n < 16; n++ {
		left = left<<1 - int(h.count[n])
		if left < 0 {
			return false
		}
		used += int(h.count[n])
		if n < 15 {
			offset[n+1] = offset[n] + h.count[n]
		}
	}
	for symbol, n := range lengths {
		if n > 0 {
			h.symbols[offset[n]] = uint16(symbol)
			offset[n]++
		}
	}
	h.count[0] = 0
	return left == 0 || used <= 1
}

// decode reads one code, a bit at a time, so that nothing is read ahead.
func (z *inflater) decode(h *huffman) (int, error) {
	code, first, index := 0, 0, 0
	for n := 1; n < 16; n++ {
		bit, err := z.take(1)
		if err != nil {
			return 0, err
		}
		code |= bit
		count := int(h.count[n])
		if code-first < count {
			return int(h.symbols[index+code-first]), nil
		}
		index += count
		first = (first + count) << 1
		code <<= 1
	}
	return 0, errDeflate
}

// The lengths and distances of copies, with how many bits more each has
// (section 3.2.5).
var (
	lengthBase = [29]uint16{3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 15, 17, 19, 23, 27, 31, 35, 43, 51, 59, 67, 83, 99, 115, 131, 163, 195, 227, 258}
	lengthMore = [29]uint8{0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0}
	offsetBase = [30]uint16{1, 2, 3, 4, 5, 7, 9, 13, 17, 25, 33, 49, 65, 97, 129, 193, 257, 385, 513, 769, 1025, 1537, 2049, 3073, 4097, 6145, 8193, 12289, 16385, 24577}
	offsetMore = [30]uint8{0, 0, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13, 13}

	fixedLiterals = func() (t [288]uint8) {
		for i := range t {
			switch {
			case i < 144, i >= 280:
				t[i] = 8
			case i < 256:
				t[i] = 9
			default:
				t[i] = 7
			}
		}
		return t
	}()
	fixedOffsets = func() (t [30]uint8) {
		for i := range t {
			t[i] = 5
		}
		return t
	}()
)

// endOfBlock is the symbol behind the literals.
const endOfBlock = 256

// symbol reads a literal octet, or begins a copy, or ends the block.
func (z *inflater) symbol() (c byte, literal bool, err error) {
	symbol, err := z.decode(&z.literals)
	switch {
	case err != nil:
		return 0, false, err
	case symbol < endOfBlock:
		return byte(symbol), true, nil
	case symbol == endOfBlock:
		z.phase = atHeader
		return 0, false, nil
	case symbol-endOfBlock > len(lengthBase):
		return 0, false, errDeflate
	}
	symbol -= endOfBlock + 1
	more, err := z.take(uint(lengthMore[symbol]))
	if err != nil {
		return 0, false, err
	}
	length := int(lengthBase[symbol]) + more
	if symbol, err = z.decode(&z.offsets); err != nil {
		return 0, false, err
	}
	if symbol >= len(offsetBase) {
		return 0, false, errDeflate
	}
	if more, err = z.take(uint(offsetMore[symbol])); err != nil {
		return 0, false, err
	}
	if z.back = int(offsetBase[symbol]) + more; z.back > len(z.window) {
		return 0, false, errDeflate
	}
	z.phase, z.length = inCopy, length
	return 0, false, nil
}

// codeOrder is in which order the lengths of the codes for lengths come
// (section 3.2.7).
var codeOrder = [19]uint8{16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15}

// dynamicHeader reads the codes of a block.
func (z *inflater) dynamicHeader() error {
	sizes, err := z.take(14)
	if err != nil {
		return err
	}
	literals, offsets, codes := sizes&31+257, sizes>>5&31+1, sizes>>10&15+4
	if literals > 286 || offsets > 30 {
		return errDeflate
	}
	var lengths [286 + 30]uint8
	for _, i := range codeOrder[:codes] {
		n, err := z.take(3)
		if err != nil {
			return err
		}
		lengths[i] = uint8(n)
	}
	if !z.literals.build(lengths[:19]) {
		return errDeflate
	}
	clear(lengths[:19])
	if err := z.codeLengths(lengths[:literals+offsets]); err != nil {
		return err
	}
	if lengths[endOfBlock] == 0 || !z.literals.build(lengths[:literals]) || !z.offsets.build(lengths[literals:literals+offsets]) {
		return errDeflate
	}
	z.phase = inCodes
	return nil
}

// codeLengths reads the lengths of codes, which have a code and repeats.
func (z *inflater) codeLengths(lengths []uint8) error {
	for i := 0; i < len(lengths); {
		symbol, err := z.decode(&z.literals)
		if err != nil {
			return err
		}
		if symbol < 16 {
			lengths[i] = uint8(symbol)
			i++
			continue
		}
		var value uint8
		bits, times := uint(2), 3
		switch symbol {
		case 16:
			if i == 0 {
				return errDeflate
			}
			value = lengths[i-1]
		case 17:
			bits = 3
		default:
			bits, times = 7, 11
		}
		more, err := z.take(bits)
		if err != nil {
			return err
		}
		if times += more; i+times > len(lengths) {
			return errDeflate
		}
		for ; times > 0; times-- {
			lengths[i] = value
			i++
		}
	}
	return nil
}
