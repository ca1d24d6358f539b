package main

import (
	"bufio"
	"context"
	"encoding/base64"
	"fmt"
	"net"
	"sync/atomic"
	"time"
)

// loginPeople is how many different people log in, all of them known to a
// cache before the figures are taken.
const loginPeople = 200

// logins counts those of all cases, so that people take turns.
var logins atomic.Int64

// smtpLogins measures logins at submission, IMAP ones those into mailboxes.
// Each is on a connection of its own; the times are those of AUTH and LOGIN.
func smtpLogins(connections int) measure { return loginsBy(connections, smtpLogin) }
func imapLogins(connections int) measure { return loginsBy(connections, imapLogin) }

func loginsBy(connections int, login func(*system, int) (time.Duration, error)) measure {
	return func(ctx context.Context, s *system, o options) (f figures, err error) {
		// Everybody was there once: caches know them, and so do mailboxes.
		if _, err := together(4, func(part int) ([]time.Duration, error) {
			for n := part; n < loginPeople && ctx.Err() == nil; n += 4 {
				if _, err := login(s, n); err != nil {
					return nil, err
				}
			}
			return nil, ctx.Err()
		}); err != nil {
			return f, err
		}
		until := time.Now().Add(o.load)
		return f, f.rate(s, func() ([]time.Duration, error) {
			return together(connections, func(int) (took []time.Duration, err error) {
				for time.Now().Before(until) && ctx.Err() == nil {
					since, err := login(s, int(logins.Add(1))%loginPeople)
					if err != nil {
						return nil, err
					}
					took = append(took, since)
				}
				return took, ctx.Err()
			})
		}, true)
	}
}

// smtpLogin is EHLO, AUTH PLAIN and QUIT. It returns how long AUTH took.
func smtpLogin(s *system, n int) (took time.Duration, err error) {
	c, err := smtpDoor(s.submission).dial()
	if err != nil {
		return 0, err
	}
	secret := base64.StdEncoding.EncodeToString([]byte("\x00" + userAddress(n) + "\x00" + userPassword(n)))
	start := time.Now()
	if err := c.say("AUTH PLAIN "+secret+"\r\n", 235); err != nil {
		c.conn.Close()
		return 0, fmt.Errorf("%s: %w", userAddress(n), err)
	}
	return time.Since(start), c.close()
}

// imapLogin is LOGIN and LOGOUT. It returns how long LOGIN took.
func imapLogin(s *system, n int) (took time.Duration, err error) {
	conn, err := net.DialTimeout("tcp", s.imap, patience)
	if err != nil {
		return 0, err
	}
	c := &imapClient{conn: conn, in: bufio.NewReader(conn)}
	if _, err = c.line(); err == nil {
		start := time.Now()
		_, err = c.command("LOGIN "+userAddress(n)+" "+userPassword(n), nil)
		took = time.Since(start)
	}
	if err != nil {
		conn.Close()
		return 0, fmt.Errorf("IMAP login of %s: %w", userAddress(n), err)
	}
	return took, c.close()
}
