package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/postern-mail/postern/config"
	"github.com/postern-mail/postern/internal/dns"
	"github.com/postern-mail/postern/policy/mailauth/arc"
	"github.com/postern-mail/postern/policy/mailauth/dkim"
	"github.com/postern-mail/postern/policy/mailauth/signing"
)

// maxVerified bounds the message that is verified by hand.
const maxVerified = 256 << 20

func dkimVerifyCommand() *cobra.Command {
	return &cobra.Command{
		Use: "verify FILE", Short: "Verify the signatures of a message, and explain each", Args: cobra.ExactArgs(1),
		Long: "Verifies the DKIM signatures and the ARC chain of a message, and tells of each what it covers and why it\n" +
			"holds or does not. - is standard input. The exit status is 0 when a DKIM signature holds.",
		RunE: func(c *cobra.Command, args []string) error {
			f, err := config.Load(configPath(c))
			if err != nil {
				return err
			}
			resolver, err := dns.New(f.DNS.Room())
			if err != nil {
				return err
			}
			message, err := readSigned(c, args[0])
			if err != nil {
				return err
			}
			strict := f.Gateway.Verification()
			strict.Thorough = true
			return explainSignatures(c, resolver, strict, message)
		},
	}
}

// readSigned reads a message and gives its lines CRLF.
func readSigned(c *cobra.Command, name string) ([]byte, error) {
	in := c.InOrStdin()
	if name != "-" {
		file, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		defer func() { _ = file.Close() }() // only read
		in = file
	}
	lines := bufio.NewReader(io.LimitReader(in, maxVerified))
	var b bytes.Buffer
	for {
		line, err := lines.ReadString('\n')
		if cut, ok := strings.CutSuffix(line, "\n"); ok {
			b.WriteString(strings.TrimSuffix(cut, "\r") + "\r\n")
		} else {
			b.WriteString(line)
		}
		if err == io.EOF {
			return b.Bytes(), nil
		}
		if err != nil {
			return nil, err
		}
	}
}

func explainSignatures(c *cobra.Command, resolver *dns.Resolver, strict dkim.Config, message []byte) error {
	out := c.OutOrStdout()
	fields, body := signing.Split(message)
	all, err := dkim.NewVerifier(strict, resolver).Verify(background(c), fields, bytes.NewReader(body))
	if err != nil {
		return err
	}
	for i, v := range all {
		explainSignature(out, i+1, v)
	}
	chain, err := arc.NewVerifier(arc.Config{}, resolver).Verify(background(c), fields, bytes.NewReader(body))
	if err != nil {
		return err
	}
	if chain.Result != arc.None {
		fmt.Fprintf(out, "ARC chain: %s%s\n", chain.Result, because(chain.Reason))
		for _, s := range chain.Sets {
			fmt.Fprintf(out, "  set %d: sealed by %s (%s), which found the chain before it: %s\n", s.Instance, s.Domain, s.Selector, s.CV)
		}
	}
	switch result := dkim.Best(all); result {
	case dkim.Pass:
		return nil
	case dkim.None:
		return errors.New("the message has no DKIM signature")
	default:
		return fmt.Errorf("no DKIM signature of the message holds: %s", result)
	}
}

func because(reason string) string {
	if reason == "" {
		return ""
	}
	return ": " + reason
}

func explainSignature(out io.Writer, number int, v dkim.Verification) {
	s := v.Signature
	fmt.Fprintf(out, "signature %d: %s%s\n", number, v.Result, because(v.Reason))
	if s.Domain == "" {
		return
	}
	fmt.Fprintf(out, "  by:     %s, key %s\n", s.Domain, dkim.RecordName(s.Selector, s.Domain))
	fmt.Fprintf(out, "  for:    %s\n", s.Identity)
	how := string(s.Algorithm)
	if v.Key != nil {
		how += fmt.Sprintf(", %d-bit %s key", v.Key.Bits, v.Key.Type)
	}
	fmt.Fprintf(out, "  how:    %s, %s/%s\n", how, s.HeaderCanon, s.BodyCanon)
	fmt.Fprintf(out, "  header: %s\n  body:   %s\n", intact(v, v.HeaderIntact), intact(v, v.BodyIntact))
	if s.BodyLimit != dkim.WholeBody {
		fmt.Fprintf(out, "  covers: the first %d octets of the body; %d after them may be anybody's\n", s.BodyLimit, v.UnsignedOctets)
	}
	if !s.Signed.IsZero() {
		fmt.Fprintf(out, "  made:   %s\n", s.Signed.UTC().Format("2006-01-02 15:04:05Z"))
	}
	if !s.Expires.IsZero() {
		fmt.Fprintf(out, "  until:  %s\n", s.Expires.UTC().Format("2006-01-02 15:04:05Z"))
	}
	fmt.Fprintf(out, "  fields: %s\n", strings.Join(s.Headers, ":"))
	if v.Testing {
		fmt.Fprintln(out, "  the domain only tests DKIM (t=y): receivers take its mail for unsigned")
	}
}

func intact(v dkim.Verification, agrees bool) string {
	switch {
	case agrees:
		return "as signed"
	case v.Key == nil:
		return "not looked at"
	}
	return "not as signed"
}
