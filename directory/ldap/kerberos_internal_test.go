package ldap

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/jcmturner/gokrb5/v8/iana/errorcode"
	"github.com/jcmturner/gokrb5/v8/iana/etypeID"
	"github.com/jcmturner/gokrb5/v8/iana/nametype"
	"github.com/jcmturner/gokrb5/v8/keytab"
	"github.com/jcmturner/gokrb5/v8/messages"
	"github.com/jcmturner/gokrb5/v8/types"
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

// TestHostileKDC: what claims to be the KDC, which nothing proves before its
// answer is decrypted, does not end the process.
func TestHostileKDC(t *testing.T) {
	t.Parallel()
	answer := messages.NewKRBError(types.NewPrincipalName(nametype.KRB_NT_SRV_INST, "krbtgt/EXAMPLE.COM"), "EXAMPLE.COM", errorcode.KDC_ERR_PREAUTH_REQUIRED, "")
	answer.EData = []byte("\x30\x0d\x30\x0b\xa1\x03\x02\x01\x13\xa2\x04\x04\x02\x30\x00") // PA-ETYPE-INFO2 with no entry
	reply, err := answer.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			var length [4]byte
			if _, err := io.ReadFull(c, length[:]); err == nil {
				_, _ = io.CopyN(io.Discard, c, int64(binary.BigEndian.Uint32(length[:])))
			}
			binary.BigEndian.PutUint32(length[:], uint32(len(reply))) // #nosec G115 -- it is short
			_, _ = c.Write(append(length[:], reply...))
			_ = c.Close()
		}
	}()
	t.Cleanup(func() { _ = l.Close(); <-ended })

	keys := keytab.New()
	if err := keys.AddEntry("postern", "EXAMPLE.COM", "secret", time.Unix(1, 0), 1, etypeID.AES256_CTS_HMAC_SHA1_96); err != nil {
		t.Fatal(err)
	}
	content, err := keys.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cfg := Config{Kerberos: Kerberos{Principal: "postern@EXAMPLE.COM", Keytab: filepath.Join(dir, "keytab"), ConfigFile: filepath.Join(dir, "krb5.conf")}}
	conf := fmt.Sprintf("[libdefaults]\n default_realm = EXAMPLE.COM\n udp_preference_limit = 1\n[realms]\n EXAMPLE.COM = {\n  kdc = %s\n }\n", l.Addr())
	if err := errors.Join(os.WriteFile(cfg.Kerberos.Keytab, content, 0o600), os.WriteFile(cfg.Kerberos.ConfigFile, []byte(conf), 0o600)); err != nil {
		t.Fatal(err)
	}
	if _, err := cfg.ticket(t.Context(), endpoint{host: "ldap.example.com"}); !errors.Is(err, errTicket) {
		t.Errorf("%v, want an error about the ticket", err)
	}
}
