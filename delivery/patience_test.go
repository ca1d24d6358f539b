package delivery_test

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/delivery"
	"github.com/postern-mail/postern/delivery/tlspolicy"
	"github.com/postern-mail/postern/mail"
)

// TestSlowHost: a host that says just enough to keep every step within its time
// does not hold a delivery for hours, whatever it is slow at. Its mail waits.
func TestSlowHost(t *testing.T) {
	t.Parallel()
	secret := secretFile(t, "secret")
	for slowAt, limit := range map[string]time.Duration{"RCPT": 100 * time.Minute, "content": 100 * time.Minute, "AUTH": 20 * time.Minute} {
		t.Run(slowAt, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				dialogue := func(conn net.Conn) {
					defer conn.Close()
					lines := newLines(conn)
					late := func(at string, by time.Duration) {
						if at == slowAt {
							time.Sleep(by)
						}
					}
					lines.say("220 x ESMTP")
					for {
						verb, _, _ := strings.Cut(lines.read(), " ")
						late(verb, 4*time.Minute)
						switch verb {
						case "":
							return
						case "EHLO":
							lines.say("250-x\r\n250-8BITMIME\r\n250 AUTH LOGIN")
						case "AUTH":
							lines.say("334 ")
							for lines.read() != "" {
								late("AUTH", 4*time.Minute)
								lines.say("334 ")
							}
							return
						case "DATA":
							lines.say("354 go")
							for octet := make([]byte, 1000); ; {
								late("content", time.Second)
								if _, err := conn.Read(octet); err != nil {
									return
								}
							}
						default:
							lines.say("250 ok")
						}
					}
				}
				pool, err := delivery.NewPool(delivery.Target{
					Name: "t", Protocol: delivery.SMTP, TLS: tlspolicy.None, Dial: pipes(dialogue),
					Login: map[bool]string{true: "own"}[slowAt == "AUTH"], PasswordFile: map[bool]string{true: secret}[slowAt == "AUTH"], PlaintextAuth: true,
					Addresses: []string{"[192.0.2.1]"},
				}, "mx.example.com", hclog.NewNullLogger())
				if err != nil {
					t.Fatal(err)
				}
				var to []string
				for i := range 50 {
					to = append(to, fmt.Sprintf("r%d@example.net", i))
				}
				start := time.Now()
				outcomes := pool.Attempt(t.Context(), messageOf("Subject: x\r\n\r\n"+strings.Repeat("x\r\n", 2<<20), to...),
					[]delivery.Endpoint{{Network: "tcp", Address: "192.0.2.1:25", Hop: "x"}})
				if took := time.Since(start); took > limit {
					t.Errorf("took %v", took)
				}
				time.Sleep(10 * time.Minute) // for the host to notice
				for _, o := range outcomes {
					if o.Class != mail.Deferred {
						t.Fatalf("%+v", o)
					}
				}
			})
		})
	}
}
