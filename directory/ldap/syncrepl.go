package ldap

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	goldap "github.com/go-ldap/ldap/v3"

	"github.com/postern-mail/postern/directory"
	"github.com/postern-mail/postern/directory/index"
	"github.com/postern-mail/postern/directory/replica"
)

// syncBuffer is how many messages the server may be ahead.
const syncBuffer = 64

// refreshSilence is how long a server may say nothing in the middle of a
// refresh.
const refreshSilence = time.Minute

// sync follows a server by RFC 4533, refreshAndPersist.
//
// resumable says whether the server's cookies can be believed. Those of 389
// Directory Server cannot: with a changelog that does not cover the people, as
// FreeIPA sets it up, a resume succeeds and tells of no change, whatever changed
// meanwhile. Its refresh is therefore always from nothing.
func (w *watched) sync(ctx context.Context, resumable bool) error {
	from := w.session.Position()
	if !resumable || from.Server != w.server || !w.isAhead(ctx, from.Cookie) {
		from.Cookie = nil
	}
	err := w.stream(ctx, from.Cookie)
	if err == nil || ctx.Err() != nil || !isResult(err) || len(from.Cookie) == 0 {
		return refused(err)
	}
	// Whatever the server has against the cookie, e-syncRefreshRequired or
	// that it is from its future, everything anew is what helps.
	w.session.StartOver()
	w.feed.log.Info("the server does not go on from where it was left: everything is read anew", "server", w.endpoint.uri, "cause", err)
	return refused(w.stream(ctx, nil))
}

// stream asks for everything since cookie, and for what changes from then on.
// It returns when the stream ends.
func (w *watched) stream(ctx context.Context, cookie []byte) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	needs := w.feed.cfg.Needs
	r := w.conn.ldap.Syncrepl(ctx, goldap.NewSearchRequest(string(needs.Base()), goldap.ScopeWholeSubtree, goldap.NeverDerefAliases,
		0, 0, false, needs.Filter.String(), w.attributes(), nil), syncBuffer, goldap.SyncRequestModeRefreshAndPersist, cookie, false)
	st := &stream{watched: w, cookie: cookie, refreshing: true}
	w.session.Begin(len(cookie) == 0)
	silent := time.AfterFunc(refreshSilence, w.conn.discard)
	defer silent.Stop()
	for r.Next() {
		if st.refreshing {
			silent.Reset(refreshSilence)
		}
		if err := st.message(r); err != nil {
			return err
		}
		if !st.refreshing {
			silent.Stop()
		}
	}
	if err := r.Err(); err != nil {
		return err
	}
	return errors.New("the server ended the stream")
}

// stream is the state of one conversation by RFC 4533.
type stream struct {
	*watched
	cookie     []byte
	refreshing bool
}

// message works on one message: an entry with its state, or a statement about
// many entries.
func (st *stream) message(r goldap.Response) error {
	if e := r.Entry(); e != nil {
		return st.entry(e, r.Controls())
	}
	if reference := r.Referral(); reference != "" {
		return st.elsewhere([]string{reference})
	}
	for _, control := range r.Controls() {
		switch c := control.(type) {
		case *goldap.ControlSyncInfo:
			if err := st.info(c); err != nil {
				return err
			}
		case *goldap.ControlSyncDone:
			// A server that does not persist ends here; what came counts.
			if st.refreshing {
				return st.endOfRefresh(c.Cookie, !c.RefreshDeletes)
			}
		}
	}
	return nil
}

func (st *stream) entry(e *goldap.Entry, controls []goldap.Control) error {
	for _, control := range controls {
		state, ok := control.(*goldap.ControlSyncState)
		if !ok {
			continue
		}
		if err := st.change(index.ID(state.EntryUUID), state.State, e); err != nil {
			return err
		}
		return st.learned(state.Cookie)
	}
	return fmt.Errorf("the server sent %q without its state", e.DN)
}

func (st *stream) change(id index.ID, state goldap.ControlSyncStateState, e *goldap.Entry) error {
	switch state {
	case goldap.SyncStateDelete:
		st.session.Delete(id)
		return nil
	case goldap.SyncStatePresent:
		return st.session.Present(id)
	case goldap.SyncStateAdd, goldap.SyncStateModify:
		return st.session.Put(id, st.entryOf(e))
	default:
		return fmt.Errorf("the server sent %q in an unknown state", e.DN)
	}
}

// info works on a statement about many entries (RFC 4533 section 2.5).
func (st *stream) info(c *goldap.ControlSyncInfo) error {
	switch {
	case c.NewCookie != nil:
		return st.learned(c.NewCookie.Cookie)
	case c.RefreshDelete != nil:
		if st.refreshing && c.RefreshDelete.RefreshDone {
			return st.endOfRefresh(c.RefreshDelete.Cookie, false)
		}
		return st.learned(c.RefreshDelete.Cookie)
	case c.RefreshPresent != nil:
		if !st.refreshing {
			return st.learned(c.RefreshPresent.Cookie)
		}
		if c.RefreshPresent.RefreshDone {
			return st.endOfRefresh(c.RefreshPresent.Cookie, true)
		}
		st.session.Sweep()
		return st.learned(c.RefreshPresent.Cookie)
	case c.SyncIdSet != nil:
		return st.idSet(c.SyncIdSet)
	}
	return nil
}

func (st *stream) idSet(set *goldap.ControlSyncInfoSyncIdSet) error {
	for _, id := range set.SyncUUIDs {
		if set.RefreshDeletes {
			st.session.Delete(index.ID(id))
		} else if err := st.session.Present(index.ID(id)); err != nil {
			return err
		}
	}
	return st.learned(set.Cookie)
}

// endOfRefresh brings into use what came. After a present phase what was not
// mentioned is gone; after a delete phase what was named.
func (st *stream) endOfRefresh(cookie []byte, present bool) error {
	if present {
		st.session.Sweep()
	}
	if len(cookie) > 0 {
		st.cookie = bytes.Clone(cookie)
	}
	st.refreshing = false
	return st.session.End(replica.Position{Server: st.server, Cookie: st.cookie})
}

// learned notes a cookie: everything before it is here. During a refresh it
// counts with the refresh.
func (st *stream) learned(cookie []byte) error {
	if len(cookie) > 0 {
		st.cookie = bytes.Clone(cookie)
		if !st.refreshing {
			st.session.Commit(replica.Position{Server: st.server, Cookie: st.cookie})
		}
	}
	if !st.refreshing {
		st.session.Alive()
	}
	return nil
}

// isAhead reports whether the server knows all that the cookie stands for. One
// that was restored from a backup does not, and would send what is new to it
// without what is gone. A server that does not say is believed to.
func (w *watched) isAhead(ctx context.Context, cookie []byte) bool {
	ours := csnsOf(string(cookie))
	if len(ours) == 0 {
		return true
	}
	theirs := make(map[string]string)
	err := w.feed.ask(ctx, w.conn, func(l *goldap.Conn) error {
		for dn := w.feed.cfg.Needs.Base(); dn != ""; dn = directory.DN(directory.ParentKey(dn.Key())) {
			result, err := l.Search(goldap.NewSearchRequest(string(dn), goldap.ScopeBaseObject, goldap.NeverDerefAliases, 1, 0, false,
				"(objectClass=*)", []string{"contextCSN"}, nil))
			if err != nil && !isResult(err) {
				return err
			}
			if err != nil || len(result.Entries) == 0 {
				continue
			}
			for _, csn := range result.Entries[0].GetEqualFoldAttributeValues("contextCSN") {
				theirs[serverOf(csn)] = csn
			}
			if len(theirs) > 0 {
				return nil
			}
		}
		return nil
	})
	if err != nil || len(theirs) == 0 {
		return true // the stream will tell
	}
	for server, csn := range ours {
		if theirs[server] < csn {
			w.feed.log.Warn("the server knows less than it told before, as after a restore from a backup: everything is read anew",
				"server", w.endpoint.uri, "told", csn, "has", theirs[server])
			return false
		}
	}
	return true
}

// csnsOf reads the change numbers in a cookie of OpenLDAP, by the server that
// gave them: "rid=000,sid=001,csn=20261122...#000000#001#000000;...".
func csnsOf(cookie string) map[string]string {
	csns := make(map[string]string)
	for _, part := range strings.Split(cookie, ",") {
		list, ok := strings.CutPrefix(part, "csn=")
		if !ok {
			continue
		}
		for _, csn := range strings.Split(list, ";") {
			if server := serverOf(csn); server != "" {
				csns[server] = csn
			}
		}
	}
	return csns
}

// serverOf returns the part of a change number that names the server, "" when
// it is none: time#count#server#modification.
func serverOf(csn string) string {
	parts := strings.Split(csn, "#")
	if len(parts) != 4 {
		return ""
	}
	return parts[2]
}
