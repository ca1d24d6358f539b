package ldap

import (
	"bytes"
	"encoding/binary"
	"testing"
)

// FuzzChecksumFirst turns tokens as servers do and expects the same however they
// were turned.
func FuzzChecksumFirst(f *testing.F) {
	f.Add([]byte("\x07\x01\x00\x00"), []byte("twelve bytes"), uint16(0))
	f.Add([]byte("\x07\x01\x00\x00"), []byte("twelve bytes"), uint16(12))
	f.Add([]byte("\x07\x01\x00\x00"), []byte("twelve bytes"), uint16(28))
	f.Add([]byte{}, []byte{}, uint16(1))
	f.Fuzz(func(t *testing.T, content, checksum []byte, turned uint16) {
		if len(checksum) > 1<<16-1 {
			return
		}
		header := make([]byte, wrapHeader)
		binary.BigEndian.PutUint16(header[4:], uint16(len(checksum)))
		binary.BigEndian.PutUint16(header[6:], turned)
		body := append(bytes.Clone(content), checksum...)
		if len(body) > 0 {
			cut := len(body) - int(turned)%len(body)
			body = append(bytes.Clone(body[cut:]), body[:cut]...)
		}
		want := append(append(bytes.Clone(header), checksum...), content...)
		if got := checksumFirst(append(bytes.Clone(header), body...)); !bytes.Equal(got, want) {
			t.Errorf("%x, want %x", got, want)
		}
	})
}

// FuzzTicketToken gives what a server sends to who logs in there: it is refused
// in order.
func FuzzTicketToken(f *testing.F) {
	f.Add([]byte(nil))
	f.Add([]byte("\x05\x04\x01\xff\x00\x0c\x00\x0c\x00\x00\x00\x00\x00\x00\x00\x00\x07\x01\x00\x00twelve bytes"))
	f.Add([]byte("\x05\x04\x05\xff\xff\xff\xff\xff\x00\x00\x00\x00\x00\x00\x00\x00\x07\x01\x00\x00"))
	f.Add([]byte("\x60\x1e\x06\x09\x2a\x86\x48\x86\xf7\x12\x01\x02\x02\x02\x00\x6f\x0f\x30\x0d\xa0\x03\x02\x01\x05\xa1\x03\x02\x01\x0f\xa2\x01\x00"))
	f.Fuzz(func(t *testing.T, token []byte) {
		i := &initiator{}
		if _, err := i.NegotiateSaslAuth(token, ""); err == nil {
			t.Error("a token without a key is taken")
		}
		if len(token) > 0 {
			_, _, _ = i.InitSecContext("ldap/localhost", token)
		}
	})
}
