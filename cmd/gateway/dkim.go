package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/postern-mail/postern/config"
	"github.com/postern-mail/postern/internal/dns"
	"github.com/postern-mail/postern/policy/mailauth/dkim"
	"github.com/postern-mail/postern/policy/mailauth/signing"
)

func dkimCommand() *cobra.Command {
	c := &cobra.Command{Use: "dkim", Short: "Make, publish, rotate and check the keys that sign mail, and verify signatures"}
	c.AddCommand(dkimKeygenCommand(), dkimDNSCommand(), dkimCheckCommand(), dkimRotateCommand(), dkimListCommand(), dkimVerifyCommand())
	return c
}

// keys is what the commands work on.
type keys struct {
	file   *config.File
	folder signing.Folder
	out    io.Writer
}

func openKeys(c *cobra.Command) (*keys, error) {
	f, err := config.Load(configPath(c))
	if err != nil {
		return nil, err
	}
	if f.Gateway == nil {
		return nil, errors.New("the configuration has no gateway block, so nothing is signed")
	}
	return &keys{f, signing.Folder{Dir: f.KeyDir()}, c.OutOrStdout()}, nil
}

func (k *keys) resolver() (*dns.Resolver, error) { return dns.New(k.file.DNS.Room()) }

// held is a key of a domain with what is known of it.
type held struct {
	key   *dkim.Key
	state signing.KeyState
}

// of returns the keys of a domain that are not retired.
func (k *keys) of(domain string) ([]held, error) {
	var all []held
	for _, fixed := range k.file.Gateway.DKIMKeys {
		if !strings.EqualFold(fixed.Domain, domain) {
			continue
		}
		private, err := signing.ReadKeyFile(fixed.File)
		if err != nil {
			return nil, err
		}
		key, err := dkim.NewKey(fixed.Domain, fixed.Selector, private)
		if err != nil {
			return nil, err
		}
		all = append(all, held{key, signing.KeyState{Selector: key.Selector, Algorithm: key.Algorithm, From: time.Unix(0, 0)}})
	}
	if len(all) > 0 {
		return all, nil
	}
	states, err := k.folder.Keys(domain)
	if err != nil {
		return nil, err
	}
	for _, state := range states {
		if !state.Until.IsZero() && state.Until.Before(time.Now()) {
			continue
		}
		key, err := k.folder.Load(domain, state.Selector)
		if err != nil {
			return nil, err
		}
		all = append(all, held{key, state})
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("%s has no key: make one with postern dkim keygen %s", domain, domain)
	}
	return all, nil
}

// domainArg puts a domain into the form of folders and records.
func domainArg(text string) (string, error) {
	domain := strings.ToLower(strings.TrimSuffix(text, "."))
	if !dkim.IsDomain(domain) {
		return "", fmt.Errorf("%q is no domain that can sign", text)
	}
	return domain, nil
}

func dkimKeygenCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "keygen DOMAIN", Short: "Make a key for a domain, and print the record for the DNS", Args: cobra.ExactArgs(1),
		Long: "Makes a key for a domain in key_dir, for nobody but the server to read, and prints the record to put\n" +
			"into the DNS. The key waits: postern dkim rotate DOMAIN has it sign once the DNS shows the record.",
		RunE: func(c *cobra.Command, args []string) error {
			k, err := openKeys(c)
			if err != nil {
				return err
			}
			domain, err := domainArg(args[0])
			if err != nil {
				return err
			}
			selector, _ := c.Flags().GetString("selector")
			algorithm, _ := c.Flags().GetString("algorithm")
			bits, _ := c.Flags().GetInt("bits")
			kind := dkim.KeyType(algorithm)
			if kind != dkim.RSA && kind != dkim.Ed25519 {
				return fmt.Errorf("algorithm %q is unknown: use rsa or ed25519", algorithm)
			}
			key, err := k.add(domain, selector, kind, bits)
			if err != nil {
				return err
			}
			k.printRecord(key)
			fmt.Fprintf(k.out, "\nWhen the DNS has it, run: postern dkim rotate %s\n", domain)
			return nil
		},
	}
	c.Flags().String("selector", "", "name of the key in the DNS; the date unless said otherwise")
	c.Flags().String("algorithm", "rsa", "`rsa or ed25519`; not everybody verifies ed25519 yet, so it goes beside an RSA key")
	c.Flags().Int("bits", 2048, "size of an RSA key")
	return c
}

// add makes a key and gives it to the server's user.
func (k *keys) add(domain, selector string, kind dkim.KeyType, bits int) (*dkim.Key, error) {
	now := time.Now()
	if selector == "" {
		var err error
		if selector, err = k.freeSelector(domain, kind, now); err != nil {
			return nil, err
		}
	}
	key, err := k.folder.Add(domain, selector, kind, bits, now)
	if err != nil {
		return nil, err
	}
	return key, k.hand(domain)
}

// freeSelector names a key by the day.
func (k *keys) freeSelector(domain string, kind dkim.KeyType, now time.Time) (string, error) {
	states, err := k.folder.Keys(domain)
	if err != nil {
		return "", err
	}
	base := map[dkim.KeyType]string{dkim.RSA: "r", dkim.Ed25519: "e"}[kind] + now.UTC().Format("20060102")
	for n := 1; ; n++ {
		selector := base
		if n > 1 {
			selector = fmt.Sprintf("%s-%d", base, n)
		}
		if !slices.ContainsFunc(states, func(s signing.KeyState) bool { return s.Selector == selector }) {
			return selector, nil
		}
	}
}

// hand has what root made belong to whom data_dir belongs to: the server's user,
// who has to read it.
func (k *keys) hand(domain string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	info, err := os.Stat(k.file.DataDir)
	if err != nil {
		return fmt.Errorf("the server's user, who must own the keys, is not known yet: start the server once: %w", err)
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	if !ok || owner.Uid == 0 {
		return nil
	}
	dir := filepath.Join(k.folder.Dir, domain)
	names := []string{k.folder.Dir, dir}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		names = append(names, filepath.Join(dir, e.Name()))
	}
	for _, name := range names {
		if err := os.Lchown(name, int(owner.Uid), int(owner.Gid)); err != nil {
			return err
		}
	}
	return nil
}

// printRecord prints a record for a form of a provider and for a zone file.
func (k *keys) printRecord(key *dkim.Key) {
	name, text := dkim.RecordName(key.Selector, key.Domain), signing.Record(key)
	fmt.Fprintf(k.out, "name:  %s\ntype:  TXT\nvalue: %s\n\nfor a zone file:\n%s\n", name, text, signing.ZoneRecord(name, text))
}

func dkimDNSCommand() *cobra.Command {
	return &cobra.Command{
		Use: "dns DOMAIN", Short: "Print the records that the DNS must have for a domain's keys", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			k, _, all, err := keysOf(c, args[0])
			if err != nil {
				return err
			}
			for i, h := range all {
				if i > 0 {
					fmt.Fprintln(k.out)
				}
				k.printRecord(h.key)
			}
			return nil
		},
	}
}

func keysOf(c *cobra.Command, text string) (*keys, string, []held, error) {
	k, err := openKeys(c)
	if err != nil {
		return nil, "", nil, err
	}
	domain, err := domainArg(text)
	if err != nil {
		return nil, "", nil, err
	}
	all, err := k.of(domain)
	return k, domain, all, err
}

func dkimCheckCommand() *cobra.Command {
	return &cobra.Command{
		Use: "check DOMAIN", Short: "Compare a domain's keys with the DNS, and say what to do", Args: cobra.ExactArgs(1),
		Long: "Asks the DNS for the record of each key of a domain. The exit status is 1 when the signatures of one\n" +
			"that signs would not be believed.",
		RunE: func(c *cobra.Command, args []string) error {
			k, _, all, err := keysOf(c, args[0])
			if err != nil {
				return err
			}
			resolver, err := k.resolver()
			if err != nil {
				return err
			}
			bad := 0
			for _, h := range all {
				p := signing.Check(background(c), resolver, h.key)
				fmt.Fprintf(k.out, "%s (%s)\n", p.Text, stateWord(h.state, time.Now()))
				if p.Remedy != "" {
					fmt.Fprintf(k.out, "  to do: %s\n", p.Remedy)
				}
				if !p.OK && h.state.Signs(time.Now()) {
					bad++
				}
			}
			if bad > 0 {
				return fmt.Errorf("mail signed by %d of the keys fails at its receivers", bad)
			}
			return nil
		},
	}
}

func stateWord(s signing.KeyState, now time.Time) string {
	switch {
	case s.Waiting():
		return "waits"
	case now.Before(s.From):
		return "signs from " + s.From.Format(time.RFC3339)
	case !s.Until.IsZero() && !now.Before(s.Until):
		return "retired " + s.Until.Format(time.RFC3339)
	case !s.Until.IsZero():
		return "signs until " + s.Until.Format(time.RFC3339)
	}
	return "signs"
}

func dkimListCommand() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List all keys and what they do", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			k, err := openKeys(c)
			if err != nil {
				return err
			}
			w := tabwriter.NewWriter(k.out, 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "DOMAIN\tSELECTOR\tALGORITHM\tSTATE")
			for _, fixed := range k.file.Gateway.DKIMKeys {
				fmt.Fprintf(w, "%s\t%s\t\tsigns, by the configuration\n", fixed.Domain, fixed.Selector)
			}
			domains, err := k.folder.Domains()
			if err != nil {
				return err
			}
			for _, domain := range domains {
				states, err := k.folder.Keys(domain)
				if err != nil {
					return err
				}
				for _, s := range states {
					fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", domain, s.Selector, s.Algorithm, stateWord(s, time.Now()))
				}
			}
			return w.Flush()
		},
	}
}

// background is the context of commands that cobra gives none.
func background(c *cobra.Command) context.Context {
	if ctx := c.Context(); ctx != nil {
		return ctx
	}
	return context.Background()
}
