// Package proxyproto takes over from a proxy in front who its client is, as the
// PROXY protocol of HAProxy tells it, versions 1 and 2.
//
// What comes in is a connection whose first octets are a header; what goes out
// is a connection whose RemoteAddr and LocalAddr are the client's, and whose
// octets are the client's own. Only peers in configured networks may tell, and
// they have to: nobody else can claim an address, and a header never reaches
// the protocol above. TLVs are read over.
package proxyproto

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"strings"
)

// Header is what a proxy tells of its client. Without addresses, which are not
// valid then, the connection is the proxy's own: a check of health, or one whose
// protocol it could not tell.
type Header struct {
	Source, Destination netip.AddrPort
}

const (
	signature2 = "\r\n\r\n\x00\r\nQUIT\n" // of version 2; no line of version 1 begins so
	prefix1    = "PROXY "
	// maxLine1 is the longest header of version 1 with its line end.
	maxLine1 = 107
)

var errNoHeader = errors.New("the connection does not begin with a PROXY header")

// ReadHeader reads a header from r and no octet more. An error means that r is
// not at any beginning; it is io.EOF where there was not an octet.
func ReadHeader(r io.Reader) (Header, error) {
	h, begun, err := readHeader(r)
	if begun && errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return h, err
}

func readHeader(r io.Reader) (h Header, begun bool, err error) {
	var start [len(signature2)]byte
	if _, err := io.ReadFull(r, start[:len(prefix1)]); err != nil {
		return Header{}, false, err
	}
	if string(start[:len(prefix1)]) != prefix1 && string(start[:len(prefix1)]) != signature2[:len(prefix1)] {
		return Header{}, true, errNoHeader
	}
	if _, err := io.ReadFull(r, start[len(prefix1):]); err != nil {
		return Header{}, true, err
	}
	switch {
	case string(start[:]) == signature2:
		h, err = readBinary(r)
	case string(start[:len(prefix1)]) == prefix1:
		h, err = readLine(r, start[:])
	default:
		err = errNoHeader
	}
	return h, true, err
}

// readLine reads the rest of a header of version 1. Its end is not known before
// it is seen, and what follows belongs to others: it is read octet by octet.
func readLine(r io.Reader, start []byte) (Header, error) {
	line := append(make([]byte, 0, maxLine1), start...)
	for line[len(line)-1] != '\n' {
		if len(line) == maxLine1 {
			return Header{}, fmt.Errorf("a PROXY line has more than %d octets", maxLine1)
		}
		if _, err := io.ReadFull(r, line[len(line):len(line)+1]); err != nil {
			return Header{}, err
		}
		line = line[:len(line)+1]
	}
	text, ok := strings.CutSuffix(string(line), "\r\n")
	if !ok || strings.ContainsAny(text, "\r\n") {
		return Header{}, errors.New("a PROXY line does not end in CRLF")
	}
	return parseLine(text)
}

func parseLine(text string) (Header, error) {
	words := strings.Split(text, " ")
	if len(words) >= 2 && words[1] == "UNKNOWN" {
		return Header{}, nil // whatever follows is to be ignored
	}
	if len(words) != 6 || words[1] != "TCP4" && words[1] != "TCP6" {
		return Header{}, fmt.Errorf("%q is no PROXY line", text)
	}
	source, err := parseEnd(words[1], words[2], words[4])
	if err != nil {
		return Header{}, err
	}
	destination, err := parseEnd(words[1], words[3], words[5])
	return Header{source, destination}, err
}

func parseEnd(family, address, port string) (netip.AddrPort, error) {
	addr, err := netip.ParseAddr(address)
	if err != nil || addr.Zone() != "" || addr.Is4() != (family == "TCP4") {
		return netip.AddrPort{}, fmt.Errorf("%q is no address of %s", address, family)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || port != strconv.FormatUint(n, 10) {
		return netip.AddrPort{}, fmt.Errorf("%q is no port", port)
	}
	return netip.AddrPortFrom(addr.Unmap(), uint16(n)), nil
}

// Parts of the fixed start of version 2, behind the signature.
const (
	version2     = 0x20
	commandLocal = 0
	commandProxy = 1

	familyUnspecified = 0x00
	familyTCP4        = 0x11
	familyTCP6        = 0x21
	familyUnix        = 0x31
)

// readBinary reads the rest of a header of version 2.
func readBinary(r io.Reader) (Header, error) {
	var fixed [4]byte
	if _, err := io.ReadFull(r, fixed[:]); err != nil {
		return Header{}, err
	}
	command, family := fixed[0]&^0xf0, fixed[1]
	if fixed[0]&0xf0 != version2 || command > commandProxy {
		return Header{}, fmt.Errorf("PROXY version and command %#x are unknown", fixed[0])
	}
	length := int64(binary.BigEndian.Uint16(fixed[2:]))
	var h Header
	taken := int64(0)
	if command == commandProxy {
		var err error
		if h, taken, err = readAddresses(r, family, length); err != nil {
			return Header{}, err
		}
	}
	if _, err := io.CopyN(io.Discard, r, length-taken); err != nil {
		return Header{}, err
	}
	return h, nil
}

// readAddresses reads the addresses of a header of version 2 and tells how many
// octets of it they were.
func readAddresses(r io.Reader, family byte, length int64) (Header, int64, error) {
	size := 0 // of one address
	switch family {
	case familyTCP4:
		size = 4
	case familyTCP6:
		size = 16
	case familyUnspecified, familyUnix:
		return Header{}, 0, nil
	default:
		return Header{}, 0, fmt.Errorf("PROXY family and protocol %#x carry no mail", family)
	}
	b := make([]byte, 2*size+4)
	if int64(len(b)) > length {
		return Header{}, 0, fmt.Errorf("%d octets of PROXY addresses are too few", length)
	}
	if _, err := io.ReadFull(r, b); err != nil {
		return Header{}, 0, err
	}
	end := func(addr, port []byte) netip.AddrPort {
		a, _ := netip.AddrFromSlice(addr) // of 4 or 16 octets
		return netip.AddrPortFrom(a.Unmap(), binary.BigEndian.Uint16(port))
	}
	return Header{end(b[:size], b[2*size:]), end(b[size:2*size], b[2*size+2:])}, int64(len(b)), nil
}
