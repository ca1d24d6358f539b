package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/store"
	"github.com/postern-mail/postern/store/pebble"
	"github.com/postern-mail/postern/testdata/ldif"
)

// TestFsck damages copies of the data of a stopped server, each in one way, and
// looks for what fsck finds.
func TestFsck(t *testing.T) {
	t.Parallel()
	s := newSite(t, standard, nil)
	s.outside = startOutside(t)
	s.configure(strings.ReplaceAll(standard, nobodyListens, s.outside.Address))
	s.outside.refuse(451)
	s.start()
	long := strings.Repeat("long ", 6_000) // does not fit into the index
	must(t, s.submit("alice", ldif.Password("alice"), "alice@example.com", []string{"far@elsewhere.example"}, "queued"))
	must(t, s.submit("alice", ldif.Password("alice"), "alice@example.com", []string{"far@elsewhere.example", "bob@example.com"}, long))
	s.waitFor("bob", strings.TrimSpace(long), 1)
	s.proc.Stop()
	must(t, s.proc.Err())

	for name, row := range map[string]struct {
		damage func(t *testing.T, data string)
		want   []string // in what is found, one finding each
		left   int      // findings after a repair
		// salvage has as many files of content and of records.
		contents, records int
	}{
		"nothing": {damage: func(*testing.T, string) {}},
		"count too high": {damage: func(t *testing.T, data string) {
			change(t, data, "queue", func(v store.Snapshot, b *store.Batch) {
				for _, pair := range under(t, v, "bh") {
					pair.Value[0] |= 0x80
					b.Put(pair.Key, pair.Value)
					b.Add(append([]byte("bn"), pair.Key[2:]...), 2)
				}
			})
		}, want: []string{`queue: references are miscounted, body `, `queue: references are miscounted, body `}},
		"body of nobody": {damage: func(t *testing.T, data string) {
			change(t, data, "queue", func(_ store.Snapshot, b *store.Batch) {
				b.DeleteRange([]byte("qm"), []byte("qn"))
				b.DeleteRange([]byte("qd"), []byte("qe"))
				b.DeleteRange([]byte("qr"), []byte("qs"))
			})
		}, want: []string{"2 are counted", "nobody refers to it", "nobody refers to it"}, contents: 2},
		"due entries": {damage: func(t *testing.T, data string) {
			change(t, data, "queue", func(_ store.Snapshot, b *store.Batch) { b.DeleteRange([]byte("qd"), []byte("qe")) })
		}, want: []string{"due entry is missing", "due entry is missing"}},
		"damaged queue record": {damage: func(t *testing.T, data string) {
			change(t, data, "queue", func(v store.Snapshot, b *store.Batch) { b.Put(under(t, v, "qm")[0].Key, []byte("\x01\x00\n")) })
		}, want: []string{"message is damaged: malformed queue record", "references of 1 damaged message(s) are not known"}, contents: 1, records: 1},
		"mailbox": {damage: func(t *testing.T, data string) {
			change(t, data, "mail", func(v store.Snapshot, b *store.Batch) {
				for _, pair := range under(t, v, "ma") {
					if pair.Key[18] == 't' {
						b.Delete(pair.Key)
					}
				}
			})
		}, want: []string{`mail: account "bob", mailbox "INBOX", UID 1: no structure: `}},
		"counts of a mailbox": {damage: func(t *testing.T, data string) {
			change(t, data, "mail", func(v store.Snapshot, b *store.Batch) {
				for _, pair := range under(t, v, "ma") {
					if pair.Key[18] == 'm' { // a message that is not counted
						pair.Key[len(pair.Key)-1] = 9
						b.Put(pair.Key, pair.Value)
					}
				}
			})
		}, want: []string{`UID 9: UID, MODSEQ`, `UID 9: no structure`, `counts 1 messages`, `the kept digest is not that of its messages`, `references are miscounted`}},
		"list of a pack": {damage: func(t *testing.T, data string) {
			change(t, data, "mail", func(v store.Snapshot, b *store.Batch) { b.Delete(under(t, v, "bp")[0].Key) })
		}, want: []string{`mail: body is not listed in its pack`, `mail: count of live octets is wrong`}},
		"body without its key": {damage: func(t *testing.T, data string) {
			change(t, data, "mail", func(v store.Snapshot, b *store.Batch) { b.DeleteRange([]byte("bh"), []byte("bi")) })
		}, want: []string{`mail: pack lists what no body needs`, `mail: count of references is wrong`, `mail: account "bob", mailbox "INBOX", UID 1: body: `}},
		"beginning of a pack": {damage: func(t *testing.T, data string) {
			packs, err := filepath.Glob(filepath.Join(data, "mail", "bodies", "*"))
			must(t, err)
			flip(t, packs[0], 1)
		}, want: []string{`mail: pack is damaged`}},
		"key of nobody": {damage: func(t *testing.T, data string) {
			change(t, data, "mail", func(_ store.Snapshot, b *store.Batch) { b.Put([]byte("zoo"), nil) })
		}, want: []string{`mail: key of no owner: 7a6f6f`}, left: 1},
		"bit of a body": {damage: func(t *testing.T, data string) {
			packs, err := filepath.Glob(filepath.Join(data, "mail", "bodies", "*"))
			must(t, err)
			flip(t, packs[0], 10_000)
		}, want: []string{`mail: body is damaged, body `}, left: 1},
		"missing pack": {damage: func(t *testing.T, data string) {
			must(t, os.RemoveAll(filepath.Join(data, "mail", "bodies")))
		}, want: []string{`mail: body is damaged, body `, `mail: account "bob", mailbox "INBOX", UID 1: body: `}, left: 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			data := filepath.Join(dir, "data")
			must(t, os.CopyFS(data, os.DirFS(filepath.Join(s.Dir, "data"))))
			row.damage(t, data)
			path := filepath.Join(dir, "postern.hcl")
			text := fmt.Sprintf("hostname = \"mail.example.com\"\ndata_dir = %q\ngateway {\n  listener \"mx\" { bind = [\"127.0.0.1:0\"] }\n}\n", data)
			must(t, os.WriteFile(path, []byte(text), 0o600))

			want := 0
			if row.want != nil {
				want = 1
			}
			lines := fsckLines(t, want, "-q", "-c", path)
			if len(lines) != len(row.want) {
				t.Fatalf("%d findings, want %d:\n%s", len(lines), len(row.want), strings.Join(lines, "\n"))
			}
			for i, want := range row.want {
				if !strings.Contains(lines[i], want) {
					t.Errorf("found %q, want %q", lines[i], want)
				}
			}
			for _, line := range fsckLines(t, want, "--json", "-q", "-c", path) {
				var f fsckFinding
				must(t, json.Unmarshal([]byte(line), &f))
				if f.Store == "" || f.Finding == "" || f.Detail == "" && f.Queue == "" && f.Pack == "" {
					t.Errorf("in JSON: %s", line)
				}
			}
			checkRepair(t, path, len(row.want), row.left)
			lost := 0
			if name == "bit of a body" || name == "missing pack" {
				checkRemoveLost(t, path, data)
				lost = 1
			}
			for pattern, want := range map[string]int{"*.eml": row.contents, "*.json": row.records + lost, "*.new": 0} {
				files, err := filepath.Glob(filepath.Join(data, "salvage", pattern))
				must(t, err)
				if len(files) != want {
					t.Errorf("salvaged %q, want %d", files, want)
				}
			}
		})
	}
}

// checkRepair repairs and wants so many findings before and after it, and as
// many again from a check of its own.
func checkRepair(t *testing.T, path string, before, after int) {
	t.Helper()
	status := min(after, 1)
	var stdout, stderr bytes.Buffer
	c := exec.Command(program, "fsck", "--repair", "--json", "-q", "-c", path)
	c.Stdout, c.Stderr = &stdout, &stderr
	if err := c.Run(); c.ProcessState.ExitCode() != status {
		t.Fatalf("repair: %v, want status %d\n%s%s", err, status, &stdout, &stderr)
	}
	repairs, findings := 0, 0
	for line := range strings.Lines(stdout.String()) {
		if strings.Contains(line, `"repaired":`) {
			repairs++
		} else {
			findings++
		}
	}
	if findings != before+after || repairs == 0 && after < before {
		t.Errorf("%d findings and %d repairs, want %d findings before and %d after:\n%s%s", findings, repairs, before, after, &stdout, &stderr)
	}
	if left := fsckLines(t, status, "-q", "-c", path); len(left) != after {
		t.Errorf("after the repair there are %d findings, want %d:\n%s", len(left), after, strings.Join(left, "\n"))
	}
}

// checkRemoveLost removes a message whose content is lost: it is told, audited
// and salvaged, and after it nothing is found.
func checkRemoveLost(t *testing.T, path, data string) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	c := exec.Command(program, "fsck", "--repair", "--remove-lost", "-q", "-c", path)
	c.Stdout, c.Stderr = &stdout, &stderr
	if err := c.Run(); err != nil || !strings.Contains(stdout.String(), `mail: lost: account "bob", mailbox "INBOX", UID 1: `) {
		t.Errorf("fsck --repair --remove-lost: %v\n%s%s", err, &stdout, &stderr)
	}
	recorded, err := os.ReadFile(filepath.Join(data, "audit.log"))
	must(t, err)
	if !strings.Contains(string(recorded), `"event":"expunge","result":"lost","service":"fsck"`) {
		t.Errorf("the audit does not tell of the loss:\n%s", recorded)
	}
	kept, err := filepath.Glob(filepath.Join(data, "salvage", "mail-lost-bob-INBOX-1.json"))
	must(t, err)
	if len(kept) != 1 {
		t.Errorf("salvaged %q", kept)
	} else if text, err := os.ReadFile(kept[0]); err != nil || !strings.Contains(string(text), "Subject: ") {
		t.Errorf("salvaged %s, %v", text, err)
	}
	if left := fsckLines(t, 0, "-q", "-c", path); len(left) != 0 {
		t.Errorf("afterwards %q", left)
	}
}

// TestFsckBrokenIndex: an index with a damaged file is a finding or cannot be
// opened, and never passes.
func TestFsckBrokenIndex(t *testing.T) {
	t.Parallel()
	s := newSite(t, standard, nil).start()
	for i := range 20 {
		must(t, s.submit("alice", ldif.Password("alice"), "alice@example.com", []string{"bob@example.com"}, fmt.Sprint("number ", i)))
	}
	s.waitFor("bob", "number 19", 1)
	s.proc.Stop()
	// A start and an end more write a table out of the log.
	s.start()
	s.proc.Stop()
	tables, err := filepath.Glob(filepath.Join(s.Dir, "data", "mail", "index", "db", "*.sst"))
	must(t, err)
	if len(tables) == 0 {
		t.Fatal("the index has no table")
	}
	for _, table := range tables {
		flip(t, table, 200)
	}
	out, err := exec.Command(program, "fsck", "-c", s.Config).CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 && exit.ExitCode() != notChecked {
		t.Errorf("fsck of a broken index: %v\n%s", err, out)
	}
}

// fsckLines runs fsck, which must end with a status, and returns what it found.
func fsckLines(t *testing.T, status int, args ...string) (lines []string) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	c := exec.Command(program, append([]string{"fsck"}, args...)...)
	c.Stdout, c.Stderr = &stdout, &stderr
	err := c.Run()
	if got := c.ProcessState.ExitCode(); got != status {
		t.Fatalf("fsck: %v, want status %d\n%s%s", err, status, &stdout, &stderr)
	}
	for line := range strings.Lines(stdout.String()) {
		lines = append(lines, strings.TrimSuffix(line, "\n"))
	}
	if want := fmt.Sprintf("postern: %d finding(s) in ", len(lines)); status == 1 && !strings.Contains(stderr.String(), want) {
		t.Errorf("fsck ended with %q, want %q", &stderr, want)
	}
	return lines
}

// change commits what fill makes of what is in a store of a stopped server.
func change(t *testing.T, data, name string, fill func(v store.Snapshot, b *store.Batch)) {
	t.Helper()
	ctx := context.Background()
	kv, err := pebble.Open(ctx, pebble.Config{Dir: filepath.Join(data, name, "index"), ReserveOctets: -1}, hclog.NewNullLogger())
	must(t, err)
	b := store.NewBatch()
	must(t, kv.View(ctx, func(v store.Snapshot) error {
		fill(v, b)
		return nil
	}))
	_, err = kv.Commit(ctx, b)
	must(t, errors.Join(err, kv.Close()))
}

// under returns the pairs whose keys begin with a prefix.
func under(t *testing.T, v store.Snapshot, prefix string) (pairs []store.Pair) {
	t.Helper()
	for pair, err := range v.Range([]byte(prefix), append([]byte(prefix), 0xff), 0, false) {
		must(t, err)
		pairs = append(pairs, store.Pair{Key: bytes.Clone(pair.Key), Value: bytes.Clone(pair.Value)})
	}
	if len(pairs) == 0 {
		t.Fatalf("nothing is stored under %q", prefix)
	}
	return pairs
}

// flip changes one bit of a file.
func flip(t *testing.T, path string, at int) {
	t.Helper()
	octets, err := os.ReadFile(path)
	must(t, err)
	octets[min(at, len(octets)/2)] ^= 4
	must(t, os.WriteFile(path, octets, 0o600))
}
