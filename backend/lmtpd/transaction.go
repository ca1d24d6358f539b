package lmtpd

import (
	"context"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/postern-mail/postern/backend/mailstore"
	"github.com/postern-mail/postern/backend/mailstore/acl"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/smtp"
	"github.com/postern-mail/postern/status"
	"github.com/postern-mail/postern/store"
)

// transaction is one message between MAIL and the end of data.
type transaction struct {
	session    *session
	handler    *Handler
	from       smtp.MailCommand
	recipients []recipient
}

// recipient is an accepted forward-path.
type recipient struct {
	path    mail.Address
	account *mailstore.Account
	mailbox string // "" for INBOX
	token   string // the client shall keep the message, and ask by it; "" for no need
}

// Rcpt accepts a forward-path that is an account's and has room.
func (t *transaction) Rcpt(ctx context.Context, to smtp.RcptCommand) error {
	who, detail, err := t.handler.resolve(ctx, to.ForwardPath)
	if err != nil {
		t.refuse(to.ForwardPath, err)
		return err
	}
	account, err := t.handler.deps.Store.Account(ctx, who)
	if err != nil {
		t.refuse(to.ForwardPath, err)
		return err
	}
	if used, limit := account.Quota(); limit > 0 && used+t.from.DeclaredOctets > limit {
		account.Close()
		err := status.Errorf(status.MailboxFull, "account %s uses %d of %d octets", who.Name, used, limit)
		t.refuse(to.ForwardPath, err)
		return err
	}
	t.recipients = append(t.recipients, recipient{
		path: to.ForwardPath, account: account, mailbox: t.handler.mailbox(account, detail),
	})
	return nil
}

// resolve finds the account of an address: as it is, else without its detail.
func (h *Handler) resolve(ctx context.Context, a mail.Address) (who mail.Account, detail string, err error) {
	local, detail, detailed := strings.Cut(string(a.Local), h.cfg.Delimiter)
	who, err = h.deps.Accounts.AccountOf(ctx, a)
	if detailed = detailed && local != ""; !detailed {
		return who, "", err
	}
	if status.Of(err) == status.NoSuchUser {
		a.Local = mail.LocalPart(local)
		who, err = h.deps.Accounts.AccountOf(ctx, a)
	}
	return who, detail, err
}

// mailbox returns the mailbox for a detail, "" for INBOX.
func (h *Handler) mailbox(account *mailstore.Account, detail string) string {
	if !h.cfg.DetailMailboxes || detail == "" {
		return ""
	}
	m, err := account.Find(detail)
	if err != nil || h.cfg.DetailNeedsPost && !h.post(account, m.GUID) {
		return ""
	}
	return detail
}

// post reports whether anyone may send mail to a mailbox.
func (h *Handler) post(account *mailstore.Account, mailbox mailstore.GUID) bool {
	return account.Access(mailbox).Over(h.cfg.Access[account.Name()]).For(acl.Who{}).Has(acl.Post)
}

// Data says before the transfer that there is no room for the message.
func (t *transaction) Data(context.Context) error {
	return t.handler.deps.Store.CheckSpace(t.from.DeclaredOctets)
}

// Abort implements smtp.Transaction.
func (t *transaction) Abort() { t.close() }

func (t *transaction) close() {
	for _, r := range t.recipients {
		r.account.Close()
	}
	t.recipients = nil
}

// Content stores the message. From the end of data on it runs to its end, even
// if the client goes away: the gateway may have been told already.
func (t *transaction) Content(ctx context.Context, r io.Reader) ([]status.Reply, error) {
	defer t.close()
	started := time.Now()
	content, err := t.handler.deps.Store.Stage(ctx, r)
	if err != nil {
		return nil, err
	}
	defer content.Discard()
	errs := t.store(context.WithoutCancel(ctx), content, started)
	replies := make([]status.Reply, len(errs))
	stored := 0
	for i, err := range errs {
		if err == nil {
			stored++
			replies[i] = status.Delivered.Reply()
			if token := t.recipients[i].token; token != "" {
				replies[i].Text = smtp.KeepText(replies[i].Text, token)
			}
		} else {
			replies[i] = status.ReplyOf(err)
		}
		t.record(&t.recipients[i], content, err, replies[i], time.Since(started))
	}
	t.handler.log.Info("message", "sid", t.session.client.Session, "from", t.from.ReversePath, "rcpts", len(errs),
		"stored", stored, "octets", content.Octets(), "delivery", t.from.DeliveryID, "dur", time.Since(started))
	return replies, nil
}

// store delivers to every recipient: one commit for each account, accounts
// beside each other.
func (t *transaction) store(ctx context.Context, content store.Staged, now time.Time) []error {
	errs := make([]error, len(t.recipients))
	groups := t.byAccount()
	if len(groups) == 1 {
		t.deliver(ctx, groups[0], content, now, errs)
		return errs
	}
	var wait sync.WaitGroup
	slots := make(chan struct{}, t.handler.cfg.Parallel)
	for _, group := range groups {
		slots <- struct{}{}
		wait.Go(func() {
			defer func() { <-slots }()
			t.deliver(ctx, group, content, now, errs)
		})
	}
	wait.Wait()
	return errs
}

// byAccount groups the indices of recipients that share an account.
func (t *transaction) byAccount() [][]int {
	var groups [][]int
	at := make(map[mailstore.GUID]int, len(t.recipients))
	for i, r := range t.recipients {
		id := r.account.GUID()
		g, seen := at[id]
		if !seen {
			g = len(groups)
			at[id] = g
			groups = append(groups, nil)
		}
		groups[g] = append(groups[g], i)
	}
	return groups
}

// deliver stores for recipients of one account and writes their errs.
func (t *transaction) deliver(ctx context.Context, group []int, content store.Staged, now time.Time, errs []error) {
	deliveries := make([]mailstore.Delivery, len(group))
	for i, n := range group {
		r := &t.recipients[n]
		deliveries[i] = mailstore.Delivery{
			ID: t.deliveryID(r.path), Content: content, Mailbox: r.mailbox, Trace: t.trace(r.path, now),
		}
	}
	account := t.recipients[group[0]].account
	if t.keeps(account) {
		t.deliverKept(ctx, group, deliveries, errs)
		return
	}
	for i, err := range account.Deliver(ctx, deliveries) {
		errs[group[i]] = err
	}
}

// deliveryID is the identity of the delivery to one recipient, "" when the
// client gave none. It begins with the client's, by which the store keeps them
// in order.
func (t *transaction) deliveryID(path mail.Address) string {
	if t.from.DeliveryID == "" {
		return ""
	}
	return t.from.DeliveryID + "\x00" + path.String()
}

// refuse records a forward-path that was not accepted.
func (t *transaction) refuse(path mail.Address, err error) {
	t.audit(mail.Event{
		Result: resultOf(err), Reason: status.Of(err).String(), To: []mail.Address{path},
		Reply: status.ReplyOf(err).String(), Phase: "recipient", Detail: err.Error(),
	})
}

func (t *transaction) record(r *recipient, content store.Staged, err error, reply status.Reply, took time.Duration) {
	event := mail.Event{
		Result: "ok", To: []mail.Address{r.path}, Login: r.account.Name(), Mailbox: r.mailbox,
		Octets: content.Octets(), Reply: reply.String(), Phase: "end-of-data", Duration: took,
	}
	if err != nil {
		event.Result, event.Reason, event.Detail = resultOf(err), status.Of(err).String(), err.Error()
		t.handler.log.Warn("not delivered", "sid", t.session.client.Session, "rcpt", r.path, "reason", event.Reason, "err", err)
	}
	t.audit(event)
}

func (t *transaction) audit(event mail.Event) {
	event.Kind, event.From, event.Delivery = mail.EventDelivery, &t.from.ReversePath, t.from.DeliveryID
	t.session.audit(event)
}

func resultOf(err error) string {
	if status.ReplyOf(err).Permanent() {
		return "refused"
	}
	return "deferred"
}
