package signing

import (
	"context"
	"errors"
	"fmt"

	"github.com/postern-mail/postern/policy/mailauth/dkim"
)

// Published is what the DNS has of a key.
type Published struct {
	// OK tells that what the key signs is believed.
	OK bool
	// Unknown tells that the DNS could not be asked.
	Unknown bool
	// Text says what there is, in English.
	Text string
	// Remedy says what to do; "" for nothing.
	Remedy string
}

// weakBits is the size below which RSA keys are near their end.
const weakBits = 2048

// Check compares a key with its record in the DNS.
func Check(ctx context.Context, resolver dkim.Resolver, key *dkim.Key) Published {
	name := dkim.RecordName(key.Selector, key.Domain)
	found, err := dkim.LookUpKeys(ctx, resolver, key.Selector, key.Domain)
	var outage *dkim.Outage
	publish := "put the record into the DNS that postern dkim dns " + key.Domain + " prints"
	switch {
	case errors.As(err, &outage):
		return Published{Unknown: true, Text: fmt.Sprintf("%s: %v", name, err), Remedy: "try again later"}
	case errors.Is(err, dkim.ErrNoKey):
		return Published{Text: name + ": no record in the DNS", Remedy: publish}
	case err != nil:
		return Published{Text: fmt.Sprintf("%s: the record in the DNS is of no use: %v", name, err), Remedy: publish + " in its place"}
	}
	if len(found) > 1 {
		return Published{Text: fmt.Sprintf("%s: %d records in the DNS, of which receivers take any", name, len(found)), Remedy: "leave one of them"}
	}
	if !found[0].Equal(key.Public()) {
		return Published{Text: name + ": the record in the DNS is of another key", Remedy: publish + " in its place"}
	}
	if _, why := found[0].Fits(key.Algorithm, 1024); why != "" {
		return Published{Text: name + ": " + why, Remedy: "mend the record: " + publish + " in its place"}
	}
	p := Published{OK: true, Text: fmt.Sprintf("%s: the DNS has it, %d bits", name, found[0].Bits)}
	if key.Algorithm == dkim.RSASHA256 && found[0].Bits < weakBits {
		p.Text += ", which is weak"
		p.Remedy = "make a key of 2048 bits: postern dkim rotate " + key.Domain
	}
	if found[0].Testing {
		p.Text += "; t=y says that it is only tested, so receivers take its mail for unsigned"
		p.Remedy = "take t=y out of the record"
	}
	return p
}
