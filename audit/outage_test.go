package audit

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/mail"
)

// tight is a disk that takes only so many octets.
type tight struct {
	*os.File
	room int
}

func (d *tight) Write(p []byte) (int, error) {
	n := min(len(p), d.room)
	d.room -= n
	written, err := d.File.Write(p[:n])
	if err == nil && n < len(p) {
		err = errors.New("no space left on device")
	}
	return written, err
}

// openTight opens an audit on a disk with some room.
func openTight(t *testing.T, file string, room int) (*Log, *tight) {
	t.Helper()
	l := open(t, file)
	disk := &tight{File: l.file.(*os.File), room: room}
	l.file = disk
	return l, disk
}

func record(l *Log, n int) { recordLong(l, n, 100) }

func recordLong(l *Log, n, octets int) {
	for range n {
		l.Record(mail.Event{Kind: mail.EventAccept, Result: "ok", Detail: strings.Repeat("x", octets)})
	}
}

// TestFullDisk: while the disk is full events wait in memory, and then the
// file holds all of them, also when the room ended in the middle of a line.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "audit.log")
	l, disk := openTight(t, file, 1000)
	for range 10 {
		record(l, 5)
		_ = l.Sync()
	}
	disk.room = 1 << 30
	record(l, 1)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if v := verify(t, read(t, file)); v.Lines != 51 || len(v.Breaks) > 0 {
		t.Errorf("%+v", v)
	}
}

// TestFullDiskForTooLong: what memory cannot hold is lost, visibly, and what
// comes after it is whole.
func TestFullDiskForTooLong(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "audit.log")
	var log bytes.Buffer
	l, err := Open(Config{File: file}, hclog.New(&hclog.LoggerOptions{Output: &log}))
	if err != nil {
		t.Fatal(err)
	}
	disk := &tight{File: l.file.(*os.File), room: 1000}
	l.file = disk
	recordLong(l, 3000, 8<<10)
	if n := l.pending.Len(); n > 17*maxPending {
		t.Errorf("%d octets wait in memory", n)
	}
	disk.room = 1 << 30
	record(l, 10)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	v := verify(t, read(t, file))
	if v.LastSeq != 3010 || len(v.Breaks) != 1 || strings.Contains(v.Breaks[0].Why, "complete") {
		t.Errorf("%d lines to %d, breaks %+v", v.Lines, v.LastSeq, v.Breaks)
	}
	for _, want := range []string{"cannot be written", "audit events lost", "written again"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log does not say %q:\n%s", want, log.String())
		}
	}
}

// TestRotationOnAFullDisk: a line that the old file has half of is whole in
// the new one.
func TestRotationOnAFullDisk(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "audit.log")
	l, _ := openTight(t, file, 1000)
	record(l, 10)
	if err := os.Rename(file, file+".1"); err != nil {
		t.Fatal(err)
	}
	if err := l.Reopen(); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if v := verify(t, read(t, file)); v.LastSeq != 10 || len(v.Breaks) > 0 {
		t.Errorf("the new file: %+v", v)
	}
}

// TestSecondWriter: a second server does not touch the chain of the first.
func TestSecondWriter(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "audit.log")
	l := open(t, file)
	record(l, 1)
	if err := l.Sync(); err != nil {
		t.Fatal(err)
	}
	before := read(t, file)
	if _, err := Open(Config{File: file}, hclog.NewNullLogger()); err == nil || !strings.Contains(err.Error(), "another server") {
		t.Fatalf("second open: %v", err)
	}
	if err := l.Reopen(); err != nil {
		t.Errorf("reopen without rotation: %v", err)
	}
	if !bytes.Equal(read(t, file), before) {
		t.Error("the file was changed")
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := open(t, file).Close(); err != nil {
		t.Error(err)
	}
}

// TestNumbersGoOnBehindATornLine: whatever a crash left at the end, the
// numbers go on behind the last whole record, and only the torn place breaks.
func TestNumbersGoOnBehindATornLine(t *testing.T) {
	t.Parallel()
	for name, left := range map[string]string{
		"half a line":      `{"seq":4,"prev":"`,
		"garbage":          "\x00\x00\x00\x00",
		"garbage lines":    "\x00\x00\n\x00\n",
		"much garbage":     strings.Repeat("\x00", 100<<10) + "\n",
		"nothing":          "",
		"a line, no break": "\n",
	} {
		file := filepath.Join(t.TempDir(), "audit.log")
		l := open(t, file)
		record(l, 3)
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		whole := string(read(t, file))
		if err := os.WriteFile(file, []byte(whole+left), 0o600); err != nil {
			t.Fatal(err)
		}
		l = open(t, file)
		record(l, 2)
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		v := verify(t, read(t, file))
		if v.LastSeq != 5 || left != "" && len(v.Breaks) == 0 {
			t.Errorf("%s: %+v", name, v)
		}
		for _, b := range v.Breaks {
			if !strings.Contains(b.Why, "complete") {
				t.Errorf("%s: %+v", name, b)
			}
		}
	}
}
