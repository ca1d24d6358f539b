package testenv

import (
	"bufio"
	"net"
	"strings"
	"testing"
)

func TestDovecotAnswers(t *testing.T) {
	t.Parallel()
	s := Dovecot(t, "alice@example.com")
	for range 2 {
		for _, tt := range []struct{ network, address, want string }{
			{"unix", s.LMTP, "220 "}, {"tcp", s.LMTPAddr, "220 "}, {"tcp", s.IMAP, "* OK"},
		} {
			conn, err := net.Dial(tt.network, tt.address)
			if err != nil {
				t.Fatal(err)
			}
			line, err := bufio.NewReader(conn).ReadString('\n')
			if err != nil || !strings.HasPrefix(line, tt.want) {
				t.Errorf("%s: %q, %v", tt.address, line, err)
			}
			_ = conn.Close()
		}
		s.Process().Kill()
		s.Restart()
	}
}
