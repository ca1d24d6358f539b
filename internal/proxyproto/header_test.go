package proxyproto

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net/netip"
	"strings"
	"testing"
)

// v2 makes a header of version 2.
func v2(versionCommand, family byte, body string) string {
	return signature2 + string([]byte{versionCommand, family}) + string(binary.BigEndian.AppendUint16(nil, uint16(len(body)))) + body
}

const (
	four = "\xc0\x00\x02\x01\xc6\x33\x64\x02\x30\x39\x00\x19" // 192.0.2.1:12345 to 198.51.100.2:25
	six  = "\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01" +
		"\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02" + "\x30\x39\x00\x19"
	mapped = "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\xc0\x00\x02\x01" +
		"\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\xc6\x33\x64\x02" + "\x30\x39\x00\x19"
)

var headers = []struct{ name, in, source, destination string }{
	{"v1 IPv4", "PROXY TCP4 192.0.2.1 198.51.100.2 12345 25\r\n", "192.0.2.1:12345", "198.51.100.2:25"},
	{"v1 IPv6", "PROXY TCP6 2001:db8::1 2001:db8::2 12345 25\r\n", "[2001:db8::1]:12345", "[2001:db8::2]:25"},
	{"v1 mapped", "PROXY TCP6 ::ffff:192.0.2.1 ::ffff:198.51.100.2 12345 25\r\n", "192.0.2.1:12345", "198.51.100.2:25"},
	{"v1 port 0", "PROXY TCP4 192.0.2.1 198.51.100.2 0 65535\r\n", "192.0.2.1:0", "198.51.100.2:65535"},
	{"v1 longest", "PROXY UNKNOWN ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n", "", ""},
	{"v1 unknown", "PROXY UNKNOWN\r\n", "", ""},
	{"v2 IPv4", v2(0x21, 0x11, four), "192.0.2.1:12345", "198.51.100.2:25"},
	{"v2 IPv6", v2(0x21, 0x21, six), "[2001:db8::1]:12345", "[2001:db8::2]:25"},
	{"v2 mapped", v2(0x21, 0x21, mapped), "192.0.2.1:12345", "198.51.100.2:25"},
	{"v2 TLVs", v2(0x21, 0x11, four+"\x05\x00\x03abc"+strings.Repeat("\x04\x01\x00"+strings.Repeat("\x00", 256), 200)), "192.0.2.1:12345", "198.51.100.2:25"},
	{"v2 local", v2(0x20, 0x00, ""), "", ""},
	{"v2 local with addresses", v2(0x20, 0x11, four), "", ""},
	{"v2 unspecified", v2(0x21, 0x00, "whatever"), "", ""},
	{"v2 unix", v2(0x21, 0x31, strings.Repeat("x", 216)), "", ""},
}

var mistakes = map[string]string{
	"nothing":             "",
	"SMTP":                "EHLO client.test\r\n",
	"HTTP":                "GET / HTTP/1.1\r\n\r\n",
	"TLS":                 "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
	"short SMTP":          "QUIT\r\n",
	"v1 other word":       "PROXYTCP4 192.0.2.1 198.51.100.2 12345 25\r\n",
	"v1 lower case":       "proxy TCP4 192.0.2.1 198.51.100.2 12345 25\r\n",
	"v1 no end":           "PROXY TCP4 192.0.2.1 198.51.100.2 12345 25",
	"v1 bare LF":          "PROXY TCP4 192.0.2.1 198.51.100.2 12345 25\n",
	"v1 inner CR":         "PROXY UNKNOWN \r \r\n",
	"v1 endless":          "PROXY UNKNOWN " + strings.Repeat("x", 1000) + "\r\n",
	"v1 108 octets":       "PROXY UNKNOWN " + strings.Repeat("x", 108-16) + "\r\n",
	"v1 two blanks":       "PROXY TCP4  192.0.2.1 198.51.100.2 12345 25\r\n",
	"v1 blank at the end": "PROXY TCP4 192.0.2.1 198.51.100.2 12345 25 \r\n",
	"v1 no port":          "PROXY TCP4 192.0.2.1 198.51.100.2 12345\r\n",
	"v1 high port":        "PROXY TCP4 192.0.2.1 198.51.100.2 65536 25\r\n",
	"v1 port with zero":   "PROXY TCP4 192.0.2.1 198.51.100.2 012345 25\r\n",
	"v1 signed port":      "PROXY TCP4 192.0.2.1 198.51.100.2 +1234 25\r\n",
	"v1 wrong family":     "PROXY TCP4 2001:db8::1 2001:db8::2 12345 25\r\n",
	"v1 wrong family 6":   "PROXY TCP6 192.0.2.1 198.51.100.2 12345 25\r\n",
	"v1 zone":             "PROXY TCP6 fe80::1%eth0 fe80::2 12345 25\r\n",
	"v1 UDP":              "PROXY UDP4 192.0.2.1 198.51.100.2 12345 25\r\n",
	"v1 short address":    "PROXY TCP4 192.0.2 198.51.100.2 12345 25\r\n",
	"v2 cut":              v2(0x21, 0x11, four)[:20],
	"v2 too few octets":   v2(0x21, 0x11, four[:11]),
	"v2 IPv6 too few":     v2(0x21, 0x21, four),
	"v2 promised more":    signature2 + "\x21\x11\x00\x20" + four,
	"v2 version 1":        v2(0x11, 0x11, four),
	"v2 version 3":        v2(0x31, 0x11, four),
	"v2 command 2":        v2(0x22, 0x11, four),
	"v2 UDP":              v2(0x21, 0x12, four),
	"v2 family 4":         v2(0x21, 0x41, four),
	"v2 broken signature": "\r\n\r\n\x00\r\nQUIX\n\x21\x11\x00\x0c" + four,
}

// TestReadHeader: what is told is taken, and not an octet of what follows.
func TestReadHeader(t *testing.T) {
	t.Parallel()
	for _, row := range headers {
		r := strings.NewReader(row.in + "EHLO")
		h, err := ReadHeader(r)
		if err != nil {
			t.Errorf("%s: %v", row.name, err)
			continue
		}
		if row.source == "" {
			if h.Source.IsValid() || h.Destination.IsValid() {
				t.Errorf("%s: got %v", row.name, h)
			}
		} else if h.Source != netip.MustParseAddrPort(row.source) || h.Destination != netip.MustParseAddrPort(row.destination) {
			t.Errorf("%s: got %v", row.name, h)
		}
		if rest, _ := io.ReadAll(r); string(rest) != "EHLO" {
			t.Errorf("%s: left %q", row.name, rest)
		}
	}
	for name, in := range mistakes {
		if h, err := ReadHeader(strings.NewReader(in)); err == nil || errors.Is(err, io.EOF) != (in == "") {
			t.Errorf("%s: taken as %v, %v", name, h, err)
		}
	}
}

// FuzzReadHeader: never more than the longest header is read, and addresses come
// in pairs.
func FuzzReadHeader(f *testing.F) {
	for _, row := range headers {
		f.Add([]byte(row.in + "EHLO"))
	}
	for _, in := range mistakes {
		f.Add([]byte(in))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		r := bytes.NewReader(in)
		h, err := ReadHeader(r)
		used := len(in) - r.Len()
		if used > 16+1<<16 {
			t.Fatalf("%d octets read", used)
		}
		if bytes.HasPrefix(in, []byte(prefix1)) && used > maxLine1 {
			t.Fatalf("%d octets of a line read", used)
		}
		if err == nil && h.Source.IsValid() != h.Destination.IsValid() {
			t.Fatalf("half of the addresses: %v", h)
		}
		if err == nil && h.Source.IsValid() && (h.Source.Addr().Is4In6() || h.Source.Addr().Zone() != "") {
			t.Fatalf("address %v", h.Source)
		}
		again, errAgain := ReadHeader(bytes.NewReader(in[:used]))
		if err == nil && (errAgain != nil || again != h) {
			t.Fatalf("the header alone is %v, %v", again, errAgain)
		}
	})
}
