package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/postern-mail/postern/policy/mailauth/dkim"
	"github.com/postern-mail/postern/policy/mailauth/signing"
)

func dkimRotateCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "rotate DOMAIN", Short: "Change a domain's keys, in two steps", Args: cobra.ExactArgs(1),
		Long: "The first step makes a new key for each that signs, and prints the records for the DNS; the new keys\n" +
			"wait. The second, the same command once more, asks the DNS whether the records are there, and has the\n" +
			"new keys sign from then on, or from --at, and the former ones no more; while a record is missing it\n" +
			"changes nothing, so it may be run again and again. Keys younger than --older-than are left alone.\n" +
			"Records of former keys stay in the DNS for a week: mail under way still needs them.",
		RunE: func(c *cobra.Command, args []string) error {
			k, domain, all, err := keysOf(c, args[0])
			if err != nil {
				return err
			}
			for _, fixed := range k.file.Gateway.DKIMKeys {
				if fixed.Domain == domain {
					return fmt.Errorf("the keys of %s stand in the configuration (dkim_key), which this command does not change", domain)
				}
			}
			from, err := timeFlag(c)
			if err != nil {
				return err
			}
			olderThan, _ := c.Flags().GetDuration("older-than")
			force, _ := c.Flags().GetBool("force")
			waiting := selectHeld(all, func(s signing.KeyState) bool { return s.Waiting() })
			if len(waiting) > 0 {
				return k.finishRotation(c, domain, waiting, from, force)
			}
			return k.beginRotation(domain, all, olderThan)
		},
	}
	c.Flags().String("at", "", "`TIME` (RFC 3339) from which the new keys sign; now unless said otherwise")
	c.Flags().Duration("older-than", 24*time.Hour, "change only keys that have signed for this `TIME`, such as 2160h")
	c.Flags().Bool("force", false, "do not ask the DNS")
	return c
}

func timeFlag(c *cobra.Command) (time.Time, error) {
	text, _ := c.Flags().GetString("at")
	if text == "" {
		return time.Now(), nil
	}
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return at, fmt.Errorf("--at %s is no time such as 2027-01-31T06:00:00Z", text)
	}
	if at.Before(time.Now()) {
		return at, errors.New("--at lies in the past")
	}
	return at, nil
}

func selectHeld(all []held, pick func(signing.KeyState) bool) []held {
	var out []held
	for _, h := range all {
		if pick(h.state) {
			out = append(out, h)
		}
	}
	return out
}

// beginRotation makes a new key of each algorithm whose key is old enough.
func (k *keys) beginRotation(domain string, all []held, olderThan time.Duration) error {
	now := time.Now()
	made := map[dkim.Algorithm]bool{}
	old := selectHeld(all, func(s signing.KeyState) bool {
		return s.Signs(now) && now.Sub(s.From) >= olderThan && s.Until.IsZero()
	})
	for _, h := range old {
		if made[h.key.Algorithm] {
			continue
		}
		made[h.key.Algorithm] = true
		kind, bits := h.key.Algorithm.KeyType(), 2048
		if public, err := dkim.ParseKey(signing.Record(h.key)); err == nil && kind == dkim.RSA {
			bits = max(bits, public.Bits)
		}
		key, err := k.add(domain, "", kind, bits)
		if err != nil {
			return err
		}
		k.printRecord(key)
		fmt.Fprintln(k.out)
	}
	if len(made) == 0 {
		fmt.Fprintf(k.out, "The keys of %s have signed for less than %s, or are being changed already: nothing to do.\n", domain, olderThan)
		return nil
	}
	fmt.Fprintf(k.out, "When the DNS has it, run the same command again. Until then the former keys sign.\n")
	return nil
}

// finishRotation has the waiting keys sign if the DNS has them.
func (k *keys) finishRotation(c *cobra.Command, domain string, waiting []held, from time.Time, force bool) error {
	if !force {
		resolver, err := k.resolver()
		if err != nil {
			return err
		}
		missing := false
		for _, h := range waiting {
			p := signing.Check(background(c), resolver, h.key)
			fmt.Fprintln(k.out, p.Text)
			if !p.OK {
				missing = true
				fmt.Fprintf(k.out, "  to do: %s\n", p.Remedy)
			}
		}
		if missing {
			return fmt.Errorf("nothing was changed: the DNS does not show all new keys of %s yet; run the command again later", domain)
		}
	}
	if err := k.folder.Use(domain, from); err != nil {
		return err
	}
	if err := k.hand(domain); err != nil {
		return err
	}
	fmt.Fprintf(k.out, "The new keys of %s sign from %s on; a running server sees it within half a minute.\n", domain, from.UTC().Format(time.RFC3339))
	fmt.Fprintln(k.out, "Leave the records of former keys in the DNS for a week.")
	return nil
}
