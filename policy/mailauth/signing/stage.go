package signing

import (
	"context"
	"errors"
	"fmt"
	netmail "net/mail"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/policy"
	"github.com/postern-mail/postern/policy/mailauth/dkim"
	"github.com/postern-mail/postern/policy/mailauth/dmarc"
	"github.com/postern-mail/postern/table"
)

// NameSign is the restriction that signs.
const NameSign = "sign_dkim"

// Deps is what the restrictions need. Check needs none of it.
type Deps struct {
	Ring     *Ring
	Networks []netip.Prefix // mynetworks
	Tables   *table.Opener
	Metrics  *Metrics // nil counts nowhere
	// Recipients and Domains tell which mail leaves us, for seal_arc.
	Recipients policy.Recipients
	Domains    policy.Domains
	// Hostname is the authserv-id in our ARC-Authentication-Results.
	Hostname string
	Resolver dkim.Resolver
}

// stage is what sign_dkim and seal_arc share.
type stage struct {
	deps   Deps
	signer *dkim.Signer
	// strict tells that on_error was given: then what cannot be signed is the
	// chain's to decide, and is overlooked otherwise.
	strict bool
}

// sign is sign_dkim.
type sign struct {
	stage
	everyone, networks, login bool
	authors                   table.Opened // nil for none
	order                     table.Order
	identity                  bool
}

// NewSign makes sign_dkim. Attributes: for (authenticated, mynetworks,
// everyone), table, identity, on_error.
func NewSign(spec policy.Spec, opts dkim.Options, deps Deps) (policy.Stage, error) {
	if err := known(spec, "for", "table", "identity"); err != nil {
		return nil, err
	}
	signer, err := dkim.NewSigner(opts)
	if err != nil {
		return nil, err
	}
	_, strict := spec.Args["on_error"]
	s := &sign{stage: stage{deps: deps, signer: signer, strict: strict}, order: table.Order{Delimiters: "+"}}
	whose, given := spec.Args["for"]
	if !given {
		whose = []string{"authenticated", "mynetworks"}
	}
	for _, word := range whose {
		switch word {
		case "authenticated":
			s.login = true
		case "mynetworks":
			s.networks = true
		case "everyone":
			s.everyone = true
		default:
			return nil, fmt.Errorf(`for is %q: use authenticated, mynetworks or everyone`, word)
		}
	}
	switch word := strings.Join(spec.Args["identity"], " "); word {
	case "", "none":
	case "author":
		s.identity = true
	default:
		return nil, fmt.Errorf(`identity is %q: use none or author`, word)
	}
	if names := spec.Args["table"]; len(names) > 0 {
		if s.authors, err = deps.Tables.Open(strings.Join(names, " "), table.Use{Value: readDomain}); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// readDomain takes the value of a table: a domain, or none.
func readDomain(text string) ([]string, error) {
	text = strings.ToLower(strings.TrimSpace(text))
	if text != unsigned && !dkim.IsDomain(text) {
		return nil, fmt.Errorf("%q is no domain: write the domain whose keys sign, or none", text)
	}
	return []string{text}, nil
}

const unsigned = "none"

// known reports attributes that a restriction does not have.
func known(spec policy.Spec, names ...string) error {
	for name := range spec.Args {
		if name != "on_error" && !slices.Contains(names, name) {
			return fmt.Errorf("the attribute %q is unknown: it takes %s", name, strings.Join(names, ", "))
		}
	}
	return nil
}

// Name implements policy.Stage.
func (s *sign) Name() string { return NameSign }

// InspectsMessage implements policy.Inspector.
func (s *sign) InspectsMessage() {}

// Run watches the table.
func (s *sign) Run(ctx context.Context) error {
	if s.authors == nil {
		<-ctx.Done()
		return nil
	}
	return s.authors.Run(ctx)
}

// Evaluate implements policy.Stage.
func (s *sign) Evaluate(ctx context.Context, tx *mail.Transaction) (mail.Verdict, error) {
	if !s.everyone && !(s.login && tx.Client.Identity != nil) && !(s.networks && trusted(tx, s.deps.Networks)) {
		return mail.Verdict{}, nil
	}
	fields := tx.Message.Fields()
	author, err := authorOf(fields)
	if err != nil {
		return s.unsigned("no_author", err), nil
	}
	domain, err := s.domain(ctx, author)
	if err != nil {
		return s.failed(err)
	}
	keys := s.deps.Ring.For(domain, time.Now())
	if domain == unsigned || len(keys) == 0 {
		s.deps.Metrics.signed("no_key")
		return mail.Verdict{}, nil
	}
	identity := ""
	if s.identity && dkim.IsWithin(author.domain, keys[0].Domain) {
		identity = author.address
	}
	made, err := s.signer.Sign(fields, tx.Message.Body(), identity, keys...)
	if err != nil {
		return s.failed(err)
	}
	s.deps.Metrics.signed("signed")
	return mail.Verdict{Edits: onTop(made)}, nil
}

// unsigned goes on without a signature, and says why.
func (s *stage) unsigned(result string, err error) mail.Verdict {
	s.deps.Metrics.signed(result)
	return mail.Verdict{Detail: "not signed: " + err.Error()}
}

// failed is what becomes of a message that should have been signed.
func (s *stage) failed(err error) (mail.Verdict, error) {
	if s.strict {
		s.deps.Metrics.signed("error")
		return mail.Verdict{}, err
	}
	return s.unsigned("error", err), nil
}

// onTop asks for fields on top of the message, the first uppermost.
func onTop(fields []mail.Field) []mail.Edit {
	edits := make([]mail.Edit, 0, len(fields))
	for _, f := range slices.Backward(fields) {
		edits = append(edits, mail.Edit{PrependHeader: string(f)})
	}
	return edits
}

// domain returns whose keys sign for an author.
func (s *sign) domain(ctx context.Context, a author) (string, error) {
	if s.authors == nil {
		return a.domain, nil
	}
	address, err := mail.ParseAddress(a.address)
	if err != nil {
		return a.domain, nil // without an address that tables could have
	}
	values, _, _, err := table.Find(ctx, []table.Opened{s.authors}, a.address, s.order.Access(address, false))
	if err != nil {
		return "", fmt.Errorf("table %s: %w", s.authors.Name(), err)
	}
	if len(values) == 0 {
		return a.domain, nil
	}
	return values[0], nil
}

// author is who a message says it is from.
type author struct{ address, domain string }

var errAuthors = errors.New("the message has not exactly one author in From")

// authorOf returns the author of a message; several addresses of one domain are
// as good as one.
func authorOf(fields []mail.Field) (author, error) {
	var values []string
	for _, f := range fields {
		if f.Is("From") {
			values = append(values, f.Value())
		}
	}
	found, err := dmarc.FindAuthors(values)
	if err != nil {
		return author{}, err
	}
	if found.Fields != 1 || len(found.Domains) != 1 {
		return author{}, errAuthors
	}
	a := author{domain: found.Domains[0]}
	if list, err := netmail.ParseAddressList(mail.Field("From:" + values[0]).Unfolded()); err == nil && len(list) > 0 {
		a.address = list[0].Address
	}
	return a, nil
}

func trusted(tx *mail.Transaction, networks []netip.Prefix) bool {
	remote := tx.Client.Remote.Addr().Unmap()
	return slices.ContainsFunc(networks, func(p netip.Prefix) bool { return p.Contains(remote) })
}
