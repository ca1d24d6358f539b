package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-mail/postern/admin"
	"github.com/postern-mail/postern/audit"
	"github.com/postern-mail/postern/backend/mailstore"
	"github.com/postern-mail/postern/backend/sessions"
	"github.com/postern-mail/postern/internal/fsx"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/transfer"
)

var (
	metricBackupTime     = newMetric(prometheus.GaugeValue, "gateway_backup_last_success_timestamp_seconds", "Unix time at which the last backup of all accounts was complete.")
	metricBackupAge      = newMetric(prometheus.GaugeValue, "gateway_backup_age_seconds", "How old what that backup holds is.")
	metricBackupDuration = newMetric(prometheus.GaugeValue, "gateway_backup_duration_seconds", "How long it took.")
	metricBackupOctets   = newMetric(prometheus.GaugeValue, "gateway_backup_octets", "What it holds, and what of that was written anew.", "what")
	metricBackupFailed   = newMetric(prometheus.GaugeValue, "gateway_backup_failed_accounts", "Accounts that it could not read.")

	backupMetrics = []metric{metricBackupTime, metricBackupAge, metricBackupDuration, metricBackupOctets, metricBackupFailed}
)

// backupNote remembers the last backup of all accounts, over restarts.
type backupNote struct {
	path string
	last atomic.Pointer[transfer.BackupDone]
}

func openBackupNote(dataDir string) (*backupNote, error) {
	n := &backupNote{path: filepath.Join(dataDir, "backup.json")}
	text, err := os.ReadFile(n.path)
	if errors.Is(err, fs.ErrNotExist) {
		return n, nil
	} else if err != nil {
		return nil, err
	}
	var done transfer.BackupDone
	if json.Unmarshal(text, &done) == nil && !done.Finished.IsZero() { // what is damaged tells nothing
		n.last.Store(&done)
	}
	return n, nil
}

func (n *backupNote) finished(done transfer.BackupDone) error {
	if !done.Whole {
		return nil
	}
	text, err := json.Marshal(done)
	if err != nil {
		return err
	}
	n.last.Store(&done)
	return fsx.WriteFile(fsx.OS(), n.path, append(text, '\n'))
}

func (n *backupNote) collect(put func(metric, float64, ...string)) {
	if n == nil {
		return
	}
	done := n.last.Load()
	if done == nil {
		return
	}
	put(metricBackupTime, float64(done.Finished.Unix()))
	put(metricBackupAge, time.Since(done.Begun).Seconds())
	put(metricBackupDuration, done.Finished.Sub(done.Begun).Seconds())
	put(metricBackupOctets, float64(done.Octets), "held")
	put(metricBackupOctets, float64(done.Written), "written")
	put(metricBackupFailed, float64(done.Failed))
}

// auditedBackup is how a complete backup is told in the audit.
func auditedBackup(service, operator string, d transfer.BackupDone) mail.Event {
	e := mail.Event{
		Kind: mail.EventOperator, Result: "ok", Service: service, Login: operator,
		Detail: fmt.Sprintf("backup %s in %s complete: %d accounts, %d messages, %d octets, %d written", d.Run, d.Place, d.Accounts, d.Messages, d.Octets, d.Written),
	}
	if d.Failed > 0 {
		e.Result = "error"
		e.Detail += fmt.Sprintf(", %d accounts could not be read", d.Failed)
	}
	return e
}

// streamBackup begins a conversation about whole accounts.
func (s *server) streamBackup(ctx context.Context, args url.Values) (func(context.Context, net.Conn) error, error) {
	operator := admin.Operator(ctx)
	s.audit.Record(mail.Event{Kind: mail.EventOperator, Result: "ok", Service: "control", Login: operator, Detail: args.Get("doing")})
	host := transfer.BackupHost{
		Store: s.mailstore,
		Owner: func(ctx context.Context, user string) (string, error) {
			who, err := s.current.Load().mailboxOwner(ctx, user)
			return who.Name, err
		},
		Account: func(ctx context.Context, user string) (*mailstore.Account, error) {
			who, err := s.current.Load().mailboxOwner(ctx, user)
			if err != nil {
				return nil, err
			}
			return s.mailstore.Account(ctx, who)
		},
		Finished: func(d transfer.BackupDone) error {
			s.audit.Record(auditedBackup("control", operator, d))
			return s.backup.finished(d)
		},
		Restoring: func(account string) {
			s.sessions.Kick(func(i sessions.Info) bool { return i.Account == account })
		},
	}
	return func(ctx context.Context, conn net.Conn) error { return transfer.ServeBackup(ctx, conn, host) }, nil
}

// backups begins a conversation about whole accounts, with the server that runs
// or the store of one that does not; end ends it.
func (m *mailAccess) backups(ctx context.Context) (client *transfer.BackupClient, end func() error, err error) {
	if m.idle == nil {
		conn, err := admin.Open(ctx, m.socket, "backup", url.Values{"doing": {m.doing}})
		if err != nil {
			return nil, nil, err
		}
		return transfer.NewBackupClient(conn), func() error {
			if err := conn.Close(); !errors.Is(err, net.ErrClosed) { // as an interrupt does
				return err
			}
			return nil
		}, nil
	}
	note, err := openBackupNote(m.file.DataDir)
	if err != nil {
		return nil, nil, err
	}
	operator := fmt.Sprintf("uid %d", os.Getuid())
	m.idle.record.Record(mail.Event{Kind: mail.EventOperator, Result: "ok", Service: "command", Login: operator, Detail: m.doing})
	host := m.idle.backupHost(note, m.idle.record, operator)
	here, there := net.Pipe()
	ended := make(chan error, 1)
	go func() { ended <- transfer.ServeBackup(ctx, there, host) }()
	return transfer.NewBackupClient(here), func() error {
		err := here.Close()
		served := <-ended
		if ctx.Err() != nil || errors.Is(served, io.ErrClosedPipe) {
			served = nil
		}
		return errors.Join(err, served)
	}, nil
}

func (i *idleMail) backupHost(note *backupNote, record *audit.Log, operator string) transfer.BackupHost {
	return transfer.BackupHost{
		Store: i.store,
		Owner: func(ctx context.Context, user string) (string, error) {
			who, err := i.owner(ctx, user)
			return who.Name, err
		},
		Account: func(ctx context.Context, user string) (*mailstore.Account, error) {
			who, err := i.owner(ctx, user)
			if err != nil {
				return nil, err
			}
			return i.store.Account(ctx, who)
		},
		Finished: func(d transfer.BackupDone) error {
			record.Record(auditedBackup("command", operator, d))
			return note.finished(d)
		},
		Restoring: func(string) {}, // nobody is connected
	}
}
