package imap

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
)

// StartTLS protects the connection from here on.
func (c *Client) StartTLS(ctx context.Context, cfg *tls.Config) error {
	if err := c.capability(ctx); err != nil {
		return err
	}
	if !c.Has("STARTTLS") {
		return errors.New("the server offers no STARTTLS: write imaps:// or unix: in uri, or allow_plaintext = true where the network is safe")
	}
	if err := c.do(ctx, nil, "STARTTLS"); err != nil {
		return fmt.Errorf("STARTTLS: %w", err)
	}
	if c.br.Buffered() > 0 {
		return c.fail(errors.New("STARTTLS: the server, or somebody in between, sent on in the clear"))
	}
	conn := tls.Client(c.conn, cfg)
	c.wrap(conn)
	end := c.begin(ctx)
	err := conn.HandshakeContext(ctx)
	end()
	if err != nil {
		return c.fail(fmt.Errorf("TLS: %w", err))
	}
	c.caps = nil
	return nil
}

func (c *Client) capability(ctx context.Context) error { return c.do(ctx, nil, "CAPABILITY") }

// Login authenticates as user with password and acts for account, which is ""
// or user itself where everybody logs in for themselves.
func (c *Client) Login(ctx context.Context, user, account, password string) error {
	if err := c.capability(ctx); err != nil {
		return err
	}
	var err error
	switch {
	case c.Has("AUTH=PLAIN"):
		err = c.plain(ctx, user, account, password)
	case account != "" && account != user:
		return errors.New("a master user needs AUTHENTICATE PLAIN, which the server does not offer")
	case c.Has("LOGINDISABLED"):
		return errors.New("the server offers no login here: it wants TLS first")
	default:
		err = c.do(ctx, nil, "LOGIN ", quote(user), " ", quote(password))
	}
	if err != nil {
		return err
	}
	return c.capability(ctx) // another list than before the login, as a rule
}

// plain is SASL PLAIN, RFC 4616.
func (c *Client) plain(ctx context.Context, user, account, password string) error {
	if account == user {
		account = ""
	}
	answer := base64.StdEncoding.EncodeToString([]byte(account + "\x00" + user + "\x00" + password))
	if c.Has("SASL-IR") {
		return c.do(ctx, nil, "AUTHENTICATE PLAIN "+answer)
	}
	if c.broken != nil {
		return c.broken
	}
	defer c.begin(ctx)()
	tag := c.nextTag()
	fmt.Fprintf(c.bw, "%s AUTHENTICATE PLAIN\r\n", tag)
	if err := c.bw.Flush(); err != nil {
		return c.fail(err)
	}
	answered := false
	for {
		u, final, err := c.response()
		switch {
		case err != nil:
			return c.fail(err)
		case final != nil && final.tag == tag:
			return c.asError(&final.untagged)
		case u != nil:
			err = c.untagged(u)
		case answered:
			err = errMalformed
		default:
			answered = true
			_, _ = c.bw.WriteString(answer + "\r\n") // bufio keeps the error for Flush
			err = c.bw.Flush()
		}
		if err != nil {
			return c.fail(err)
		}
	}
}

// Enable turns on QRESYNC, and with it CONDSTORE.
func (c *Client) Enable(ctx context.Context) error { return c.do(ctx, nil, "ENABLE QRESYNC") }

// Capabilities lists what the server said it can do.
func (c *Client) Capabilities() []string {
	all := make([]string, 0, len(c.caps))
	for name := range c.caps {
		all = append(all, name)
	}
	return all
}
