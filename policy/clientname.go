package policy

import (
	"context"
	"slices"
	"strings"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// nameAskers are the restrictions that want the name of the client, beside the
// families below.
var nameAskers = []string{
	"reject_unknown_client_hostname", "reject_unknown_client", "reject_unknown_reverse_client_hostname",
	"reject_rhsbl_client", "permit_rhswl_client", "reject_rhsbl_reverse_client",
	"check_client_a_access", "check_client_mx_access", "check_client_ns_access",
}

// AsksClientName reports whether a restriction cannot do without the client's
// name: where it stands, sessions have to look names up.
func AsksClientName(restriction string) bool {
	name := strings.ToLower(restriction)
	return slices.Contains(nameAskers, name) || strings.HasPrefix(name, "check_reverse_client_hostname_")
}

// nameNotAsked is the error of a restriction that wants a name which nobody
// looked up; it stands in a table, where the configuration could not see it.
func nameNotAsked(tx *mail.Transaction) error {
	if tx.Client.Naming != mail.NameNotAsked || tx.Client.Hostname != "" || !tx.Client.Remote.IsValid() {
		return nil
	}
	return status.Errorf(status.ConfigurationError, "names of clients are not looked up: set lookup_client_names of the listener")
}

// nameNotAskedFor is nameNotAsked where the subject is a name of the client.
func nameNotAskedFor(about subject, tx *mail.Transaction) error {
	if about != aboutClient && about != aboutReverseName {
		return nil
	}
	return nameNotAsked(tx)
}

// rejectUnknownClient refuses clients without a name that leads back to them.
// When the DNS does not answer they are put off. Clients that did not come by
// the network have no name to ask for.
func rejectUnknownClient(tx *mail.Transaction) (mail.Verdict, error) {
	if tx.Client.Hostname != "" || !tx.Client.Remote.IsValid() {
		return mail.Verdict{}, nil
	}
	return unnamed(tx, status.ClientNameMissing)
}

// rejectUnknownReverse refuses clients for whose address no name stands at all.
func rejectUnknownReverse(tx *mail.Transaction) (mail.Verdict, error) {
	if tx.Client.ReverseName != "" || tx.Client.Hostname != "" || !tx.Client.Remote.IsValid() {
		return mail.Verdict{}, nil
	}
	return unnamed(tx, status.ReverseNameMissing)
}

// unnamed refuses a client whose name is not known.
func unnamed(tx *mail.Transaction, reason status.Reason) (mail.Verdict, error) {
	if err := nameNotAsked(tx); err != nil {
		return mail.Verdict{}, err
	}
	reply := reason.Reply()
	reply.Text += ", [" + tx.Client.Remote.Addr().Unmap().WithZone("").String() + "]"
	v := mail.Verdict{Action: mail.Reject, Reason: reason, Reply: &reply, Detail: tx.Client.Naming.String()}
	if tx.Client.Naming == mail.NameUnknown {
		v.Reason = status.NameServiceDown // whatever code the operator chose, this is not the client's fault
	}
	return v, nil
}

// answering makes a restriction that needs only the transaction, and may not
// be able to answer.
func answering(decide func(*mail.Transaction) (mail.Verdict, error)) maker {
	return func(_ *builder, _ scope, name string, _ Spec) Stage {
		return plain{name, func(_ context.Context, tx *mail.Transaction) (mail.Verdict, error) { return decide(tx) }}
	}
}
