package foreign

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/postern-mail/postern/foreign/imap"
)

// bunch is how many messages share the commits of their intents.
const bunch = 64

// reasonFull is why messages wait for a side that has no room.
const reasonFull = "the mailbox there is full"

// errGone is a message that is not there any more when it is to be copied.
var errGone = errors.New("the message is gone")

// bring copies to the other side what is new on this one.
func (w *worker) bring(ctx context.Context, v *view, from Side) error {
	to := from.Other()
	for uids := range slices.Chunk(v.fresh[from], bunch) {
		if w.full[to] {
			if err := w.putOff(ctx, v, from, uids, reasonFull); err != nil {
				return err
			}
			continue
		}
		if err := w.bringSome(ctx, v, from, uids); err != nil {
			return err
		}
	}
	return nil
}

// backoff is when a message that was refused is tried again.
func (w *worker) backoff(tries int) time.Time {
	d := w.cfg.RetryMin
	for range min(tries, 20) {
		d = min(2*d, 12*w.cfg.RetryMax)
	}
	return time.Now().Add(d)
}

func (w *worker) putOff(ctx context.Context, v *view, from Side, uids []uint32, reason string) error {
	waits, err := w.book.waitings(ctx, v.m.ID, from)
	if err != nil {
		return err
	}
	e := w.book.write()
	for _, uid := range uids {
		tries := waits[uid].Tries + 1
		e.waits(v.m.ID, from, uid, waiting{Reason: reason, Tries: tries, Next: w.backoff(tries)}, 0)
	}
	return e.commit(ctx)
}

// bringSome copies a bunch: by COPY what the other side has elsewhere, else by
// APPEND.
func (w *worker) bringSome(ctx context.Context, v *view, from Side, uids []uint32) error {
	// Another mailbox may have been selected for a COPY meanwhile.
	if _, err := w.links[from].use(ctx, v.m.Raw[from]); err != nil {
		return err
	}
	messages := make([]imap.Message, 0, len(uids))
	err := w.links[from].Fetch(ctx, imap.SetOf(uids).String(), func(m imap.Message) error {
		asked := slices.Contains(uids, m.UID) && m.Date != ""
		if asked && !slices.ContainsFunc(messages, func(o imap.Message) bool { return o.UID == m.UID }) {
			messages = append(messages, m)
		}
		return nil
	})
	if err != nil {
		return on(from, fmt.Errorf("FETCH: %w", err))
	}
	slices.SortFunc(messages, func(a, b imap.Message) int { return int(int64(a.UID) - int64(b.UID)) })
	// What is not there any more waits for nothing.
	e := w.book.write()
	for _, uid := range uids {
		if !slices.ContainsFunc(messages, func(m imap.Message) bool { return m.UID == uid }) {
			e.waitsNoMore(v.m.ID, from, uid)
		}
	}
	if err := e.commit(ctx); err != nil {
		return err
	}
	rest, err := w.copyAll(ctx, v, from, messages)
	if err != nil {
		return err
	}
	return w.appendAll(ctx, v, from, rest)
}

// appendAll writes down the intents of a bunch, appends it, and writes down what
// became of it.
func (w *worker) appendAll(ctx context.Context, v *view, from Side, messages []imap.Message) error {
	if len(messages) == 0 {
		return nil
	}
	to := from.Other()
	first, err := w.book.numbers(ctx, len(messages))
	if err != nil {
		return err
	}
	next, err := w.links[to].Status(ctx, v.m.Raw[to])
	if err != nil {
		return on(to, fmt.Errorf("STATUS: %w", err))
	}
	if next.UIDValidity != v.m.Validity[to] {
		w.all = true
		return on(to, &imap.Error{Status: "NO", Text: "UIDVALIDITY changed just now"})
	}
	intents := make([]*intent, len(messages))
	e := w.book.write()
	for i, m := range messages {
		in := &intent{
			ID: first + uint64(i), Mailbox: v.m.ID, To: to, UID: m.UID, Marked: v.sel[to].Keeps(pendingKeyword),
			BoxID: next.UIDValidity, First: next.UIDNext, Print: printOf(m), SrcID: m.ID, At: time.Now(),
		}
		for _, f := range m.Flags {
			if f != pendingKeyword && v.sel[to].Keeps(f) {
				in.Flags = append(in.Flags, f)
			}
		}
		intents[i] = in
		e.intends(in)
	}
	w.step("intend")
	if err := e.commit(ctx); err != nil {
		return err
	}
	w.step("intended")
	return w.carryOver(ctx, v, from, messages, intents)
}

// carryOver does the APPENDs of intents. What was done before an error is
// written down in any case: looking for it costs more.
func (w *worker) carryOver(ctx context.Context, v *view, from Side, messages []imap.Message, intents []*intent) error {
	to := from.Other()
	e := w.book.write()
	var marked []uint32
	made := make(map[uint32]pair)
	var failed error
	for i, in := range intents {
		if w.full[to] {
			e.waits(v.m.ID, from, in.UID, w.refusedAgain(ctx, v, from, in.UID, reasonFull), in.ID)
			continue
		}
		uid, err := w.append(ctx, v, from, messages[i], in)
		code, refused := imap.Refused(err)
		switch {
		case errors.Is(err, errGone):
			e.intendsNoMore(in.ID)
			e.waitsNoMore(v.m.ID, from, in.UID)
		case refused:
			w.count.refused.Inc()
			reason := err.Error()
			if code == "OVERQUOTA" {
				w.full[to], reason = true, reasonFull+": "+reason
			}
			e.waits(v.m.ID, from, in.UID, w.refusedAgain(ctx, v, from, in.UID, reason), in.ID)
		case err != nil:
			failed = err
			for _, never := range intents[i+1:] {
				e.intendsNoMore(never.ID) // not asked for
			}
		case uid != 0:
			e.paired(v.m.ID, in.pair(uid), in.ID)
			made[uid] = in.pair(uid)
			if marked = append(marked, uid); !in.Marked {
				marked = marked[:len(marked)-1]
			}
			w.count.copied.WithLabelValues(to.String()).Inc()
		}
		if failed != nil {
			break
		}
	}
	w.step("appended")
	if err := e.commit(ctx); err != nil || failed != nil {
		return errors.Join(failed, err)
	}
	w.step("recorded")
	if err := w.unmark(ctx, v.m.Raw[to], to, marked); err != nil {
		return err
	}
	if err := w.learnIDs(ctx, v, to, made); err != nil {
		return err
	}
	return w.findUnnamed(ctx, intents)
}

// learnIDs asks for the ids of what was appended, so that copies and moves of it
// are known as such.
func (w *worker) learnIDs(ctx context.Context, v *view, s Side, made map[uint32]pair) error {
	if len(made) == 0 || !w.links[s].Identifies() || !w.links[s.Other()].Identifies() {
		return nil
	}
	if _, err := w.links[s].use(ctx, v.m.Raw[s]); err != nil {
		return err
	}
	e := w.book.write()
	err := w.links[s].FetchIDs(ctx, imap.SetOf(slices.Collect(maps.Keys(made))).String(), func(m imap.Message) error {
		if p, ok := made[m.UID]; ok && m.ID != "" {
			p.id[s] = m.ID
			e.identified(v.m.ID, p, s)
		}
		return nil
	})
	if err != nil {
		return on(s, fmt.Errorf("FETCH: %w", err))
	}
	return e.commit(ctx)
}

// pair is what an intent that was carried out made.
func (in *intent) pair(uid uint32) pair {
	from := in.To.Other()
	p := pair{print: in.Print, agreed: in.Flags}
	p.uid[from], p.uid[in.To] = in.UID, uid
	p.id[from], p.id[in.To] = in.SrcID, in.DstID
	return p
}

func (w *worker) refusedAgain(ctx context.Context, v *view, from Side, uid uint32, reason string) waiting {
	tries := 1
	if waits, err := w.book.waitings(ctx, v.m.ID, from); err == nil {
		tries += waits[uid].Tries
	}
	return waiting{Reason: reason, Tries: tries, Next: w.backoff(tries)}
}

// append sends one message from side to side. The UID is 0 where the server did
// not tell one.
func (w *worker) append(ctx context.Context, v *view, from Side, m imap.Message, in *intent) (uid uint32, err error) {
	to := from.Other()
	flags := in.Flags
	if in.Marked {
		flags = append(slices.Clone(flags), pendingKeyword)
	}
	var validity uint32
	var appending error
	w.step("append")
	found, err := w.links[from].Body(ctx, m.UID, func(size int64, r io.Reader) error {
		validity, uid, appending = w.links[to].Append(ctx, v.m.Raw[to], flags, m.Date, size, r)
		return nil // the source goes on whatever the target says
	})
	switch {
	case err != nil:
		return 0, on(from, fmt.Errorf("FETCH: %w", err))
	case !found:
		return 0, errGone
	case appending != nil:
		return 0, on(to, fmt.Errorf("APPEND: %w", appending))
	case uid != 0 && validity != v.m.Validity[to]:
		w.all = true
		return 0, on(to, errors.New("UIDVALIDITY changed during an APPEND"))
	}
	return uid, nil
}

// unmark takes the keyword from messages that are in the state.
func (w *worker) unmark(ctx context.Context, raw string, s Side, uids []uint32) error {
	if len(uids) == 0 {
		return nil
	}
	if _, err := w.links[s].use(ctx, raw); err != nil {
		return err
	}
	for part := range slices.Chunk(uids, chunk) {
		if _, err := w.links[s].Store(ctx, imap.SetOf(part), 0, false, []string{pendingKeyword}); err != nil {
			return on(s, fmt.Errorf("STORE: %w", err))
		}
	}
	return nil
}

// findUnnamed looks for what a server appended without telling the UID.
func (w *worker) findUnnamed(ctx context.Context, intents []*intent) error {
	open, err := load[intent](ctx, w.book, keyIntent)
	if err != nil {
		return err
	}
	open = slices.DeleteFunc(open, func(o *intent) bool {
		return o.Late || !slices.ContainsFunc(intents, func(i *intent) bool { return i.ID == o.ID })
	})
	if len(open) == 0 {
		return nil
	}
	return w.settle(ctx, open)
}

// copyAll copies on the other side what it has in another mailbox, by the ids
// that servers keep through COPY and MOVE. It returns the rest.
func (w *worker) copyAll(ctx context.Context, v *view, from Side, messages []imap.Message) (rest []imap.Message, err error) {
	to := from.Other()
	if !w.links[from].Identifies() || !w.links[to].Identifies() {
		return messages, nil
	}
	type source struct {
		message imap.Message
		pair    pair
	}
	bySource := make(map[uint64][]source)
	for _, m := range messages {
		boxes, pairs, err := w.book.known(ctx, from, m.ID)
		if err != nil {
			return nil, err
		}
		at := slices.IndexFunc(pairs, func(p pair) bool { return p.id[to] != "" })
		if at < 0 || w.boxes[boxes[at]] == nil || !w.boxes[boxes[at]].Paired {
			rest = append(rest, m)
			continue
		}
		bySource[boxes[at]] = append(bySource[boxes[at]], source{m, pairs[at]})
	}
	for id, sources := range bySource {
		byUID := make(map[uint32][]source)
		for _, s := range sources {
			byUID[s.pair.uid[to]] = append(byUID[s.pair.uid[to]], s)
		}
		// One COPY makes one copy of each: what is wanted twice waits for the next round.
		for len(byUID) > 0 {
			var round []imap.Message
			var pairs []pair
			for uid, list := range byUID {
				round, pairs = append(round, list[0].message), append(pairs, list[0].pair)
				if byUID[uid] = list[1:]; len(list) == 1 {
					delete(byUID, uid)
				}
			}
			missed, err := w.copySome(ctx, v, w.boxes[id], from, round, pairs)
			if err != nil {
				return nil, err
			}
			rest = append(rest, missed...)
		}
	}
	slices.SortFunc(rest, func(a, b imap.Message) int { return int(int64(a.UID) - int64(b.UID)) })
	return rest, nil
}

// copySome is one COPY out of another mailbox. What the server did not copy is
// returned, to be appended.
func (w *worker) copySome(ctx context.Context, v *view, box *mailbox, from Side, messages []imap.Message, pairs []pair) (missed []imap.Message, err error) {
	to := from.Other()
	first, err := w.book.numbers(ctx, len(messages))
	if err != nil {
		return nil, err
	}
	next, err := w.links[to].Status(ctx, v.m.Raw[to])
	if err != nil {
		return nil, on(to, fmt.Errorf("STATUS: %w", err))
	}
	e := w.book.write()
	uids := make([]uint32, len(messages))
	intents := make([]*intent, len(messages))
	for i, m := range messages {
		uids[i] = pairs[i].uid[to]
		intents[i] = &intent{
			ID: first + uint64(i), Mailbox: v.m.ID, To: to, UID: m.UID, Copy: true, BoxID: next.UIDValidity, First: next.UIDNext,
			Print: printOf(m), SrcID: m.ID, DstID: pairs[i].id[to], At: time.Now(),
		}
		for _, f := range m.Flags {
			if f != pendingKeyword && v.sel[to].Keeps(f) {
				intents[i].Flags = append(intents[i].Flags, f)
			}
		}
		e.intends(intents[i])
	}
	if err := e.commit(ctx); err != nil {
		return nil, err
	}
	if _, err := w.links[to].use(ctx, box.Raw[to]); err != nil {
		return nil, err
	}
	w.step("copy")
	validity, copies, err := w.links[to].Copy(ctx, imap.SetOf(uids), v.m.Raw[to])
	_, refused := imap.Refused(err)
	if err != nil && !refused {
		return nil, on(to, fmt.Errorf("COPY: %w", err))
	}
	if validity != v.m.Validity[to] {
		copies = nil
	}
	w.step("copied")
	wanted := make(map[uint32][]string, len(copies))
	for i, source := range uids {
		if uid := copies[source]; uid != 0 {
			wanted[uid] = intents[i].Flags
		}
	}
	aligning := w.alignCopies(ctx, v.m.Raw[to], to, wanted)
	if _, refused := imap.Refused(aligning); aligning != nil && !refused {
		return nil, aligning // the next session finds the copies, and aligns them
	}
	e = w.book.write()
	for i, m := range messages {
		uid := copies[uids[i]]
		if uid == 0 {
			e.intendsNoMore(intents[i].ID) // or the APPEND's own words are what is wrong
			missed = append(missed, m)
			continue
		}
		e.paired(v.m.ID, intents[i].pair(uid), intents[i].ID)
		w.count.copied.WithLabelValues(to.String()).Inc()
	}
	if err := errors.Join(e.commit(ctx), aligning); err != nil {
		return nil, err
	}
	_, err = w.links[to].use(ctx, v.m.Raw[to])
	return missed, err
}

// alignCopies gives copies, by UID, the flags that are wanted. A copy has those
// that its source has at that moment, and what changed those may be newer than
// the last that was heard of it, while the message it stands for never had them.
func (w *worker) alignCopies(ctx context.Context, raw string, to Side, wanted map[uint32][]string) error {
	if len(wanted) == 0 {
		return nil
	}
	if _, err := w.links[to].use(ctx, raw); err != nil {
		return err
	}
	todo := &stores{}
	err := w.links[to].FetchFlags(ctx, imap.SetOf(slices.Collect(maps.Keys(wanted))).String(), func(m imap.Message) error {
		if flags, ours := wanted[m.UID]; ours {
			has := without(m.Flags, pendingKeyword)
			todo.add(change{add: missing(flags, has), remove: missing(has, flags)}, m.UID)
		}
		return nil
	})
	if err != nil {
		return on(to, fmt.Errorf("FETCH: %w", err))
	}
	_, err = w.store(ctx, &imap.Selected{}, todo, to)
	return err
}
